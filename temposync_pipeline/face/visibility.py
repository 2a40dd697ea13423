"""Whether a face's mouth can be seen: not beyond the picture's edge, not behind a mask, a hand, a cup or a microphone."""

import cv2
import numpy as np

from .crop import align_matrix, transform_points
from .landmarks import GROUPS, LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER
from .tone import LUMA, SKIN, known_crop

# What says that a mouth is covered (`mouth_evidence`), by logistic regression, and the sum from which it does.  Fitted to 275 faces of 299
# people, as they were and with painted masks, hands, microphones, scarves, cards and cups, coloured and grey.
EVIDENCE_WEIGHTS = np.array([11.2, -4.3, -12.9, 8.5, 7.2])
COVERED_FROM = -4.0
# Beyond these, redness, colour and darkness say no more.
MOST_REDNESS, MOST_COLOUR, MOST_DARKNESS = 0.3, 0.6, 0.35
# Columns and rows of the picture of a mouth that is looked at.
PATCH = (32, 20)


def is_mouth_outside(landmarks: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a part of the lips of `landmarks` [131, 2] lies beyond the edge of a picture of `size` (height, width)."""
    lips = landmarks[GROUPS["outer_lips"]]
    return bool((lips < 0).any() or (lips > np.array(size[::-1]) - 1).any())


def is_chin_outside(landmarks: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether the chin of `landmarks` [131, 2] lies beyond the edge of a picture of `size` (height, width): an opened mouth may, too."""
    outline = landmarks[GROUPS["face_oval"]]
    down = landmarks[GROUPS["outer_lips"]].mean(0) - landmarks[GROUPS["nose_bridge"]][0]
    chin = outline[(outline @ down).argmax()]
    return bool((chin < 0).any() or (chin > np.array(size[::-1]) - 1).any())


def yaw_of(landmarks: np.ndarray) -> float:
    """How far a face with `landmarks` [131, 2] is turned to a side: 0 seen from the front, 0.5 at about 45°, near 1 in profile.

    The nose's tip between the two sides of the face's outline, as the difference of its distances over their sum.
    """
    points = transform_points(align_matrix(landmarks), landmarks)
    tip, outline = points[GROUPS["nose_bridge"]][-1], points[GROUPS["face_oval"]]
    left, right = tip[0] - outline[:, 0].min(), outline[:, 0].max() - tip[0]
    return float((left - right) / max(left + right, 1e-6))


def is_mouth_covered(photo: np.ndarray, landmarks: np.ndarray, confidence: np.ndarray) -> bool:
    """Whether something hides most of the mouth.

    Args:
        photo: uint8 [H, W, 3]. landmarks: [131, 2] in it. confidence: [131], of `FaceAligner`.
    """
    matrix = align_matrix(landmarks)
    evidence = mouth_evidence(known_crop(photo, matrix), transform_points(matrix, landmarks), confidence)
    return bool(EVIDENCE_WEIGHTS @ evidence > COVERED_FROM)


def mouth_evidence(crop: np.ndarray, landmarks: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Five numbers about the mouth in an aligned crop uint8 [256, 256, 3] with `landmarks` [131, 2] in crop pixels.

    The landmark network's doubt about the lips, and about the brows to compare it with (it knows where lips must be without seeing them,
    but not to the pixel); how much redder the lips are than the skin around them; how much their colour differs from that of the skin
    between eyes and mouth; and how dark the line between them is, negative where there is one.
    """
    luma = crop.astype(np.float32) @ LUMA
    skin = np.median(crop[SKIN].reshape(-1, 3), 0)
    lips = np.zeros(crop.shape[:2], np.uint8)
    cv2.fillPoly(lips, [np.round(landmarks[GROUPS["outer_lips"]]).astype(np.int32)], 1)
    around = cv2.dilate(lips, np.ones((25, 25), np.uint8)) > cv2.dilate(lips, np.ones((7, 7), np.uint8))
    redness = (crop[..., 0] - crop[..., 1].astype(np.float32)) / np.maximum(luma, 20)
    colour = np.median(crop[lips > 0], 0)
    return np.array([
        _doubt(confidence[GROUPS["outer_lips"]], confidence[GROUPS["inner_lips"]]),
        _doubt(confidence[GROUPS["right_brow"]], confidence[GROUPS["left_brow"]]),
        min(np.median(redness[lips > 0]) - np.median(redness[around]), MOST_REDNESS),
        min(np.abs(colour / max(LUMA @ colour, 15) - skin / max(LUMA @ skin, 15)).max(), MOST_COLOUR),
        max(_mouth_line(luma, landmarks) / max(LUMA @ skin, 20), -MOST_DARKNESS),
    ])


def _doubt(*confidences: np.ndarray) -> float:
    """Mean logarithm of the expected error of landmarks, in units of the tolerance that their confidence is about."""
    certain = np.clip(np.concatenate(confidences).astype(np.float64), 1e-6, 1 - 1e-6)
    return float(-np.log(-np.log1p(-certain)).mean())


def _mouth_line(luma: np.ndarray, landmarks: np.ndarray) -> float:
    """Levels by which the darkest row of a mouth differs from the skin above and below; of the middle half of its width."""
    right, left = landmarks[RIGHT_MOUTH_CORNER], landmarks[LEFT_MOUTH_CORNER]
    middle, across = (right + left) / 2, (left - right) / 2
    down = np.array([-across[1], across[0]])
    corners = np.float32([middle - 1.4 * across - 0.9 * down, middle + 1.4 * across - 0.9 * down, middle - 1.4 * across + down])
    width, height = PATCH
    to_patch = cv2.getAffineTransform(corners, np.float32([[0, 0], [width, 0], [0, height]]))
    patch = cv2.warpAffine(cv2.GaussianBlur(luma, (0, 0), 1.5), to_patch, PATCH, borderMode=cv2.BORDER_REPLICATE)
    rows = patch[:, width // 4:-width // 4].mean(1)
    return float(rows[4:14].min() - (rows[:4].mean() + rows[14:].mean()) / 2)
