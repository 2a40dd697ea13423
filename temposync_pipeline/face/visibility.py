"""Whether a face's mouth can be seen: not beyond the picture's edge, not behind a mask, a hand, a cup or a microphone."""

import cv2
import numpy as np

from .crop import align_matrix, transform_points
from .landmarks import GROUPS, LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER
from .tone import LUMA, SKIN, known_crop

# What says that a mouth is covered (`mouth_evidence`), by logistic regression, and the sums from which it may be and from which it is.
# Fitted to photographs of 379 people of every skin, as they were, grey, darker, faded and small, and with painted masks, hands,
# microphones, scarves, cards and cups in any colour or their skin's own, or blurred.  Of 90 others nobody who shows a mouth is refused;
# covered, 0.98 are.
EVIDENCE_WEIGHTS = np.array([
    17.65, -11.27, -20.64, 9.82, 24.18, 0.74, -0.23, -1.47, -0.24, 0.27, -0.29, -2.71, -1.59, 0.72, 2.23, -1.22])
MAYBE_COVERED_FROM, COVERED_FROM = -1.6, -0.5
# Beyond these, redness, colour and darkness say no more.
MOST_REDNESS, MOST_COLOUR, MOST_DARKNESS = 0.3, 0.6, 0.35
# Columns and rows of the picture of a mouth that is looked at; levels, and a share of the skin's lightness, that are no contrast.
PATCH = (32, 20)
QUIET, LEAST_CONTRAST = 4.0, 0.01


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


def how_covered(photo: np.ndarray, landmarks: np.ndarray, confidence: np.ndarray) -> float:
    """How much says that something hides most of the mouth: to be compared with `MAYBE_COVERED_FROM` and `COVERED_FROM`.

    Args:
        photo: uint8 [H, W, 3]. landmarks: [131, 2] in it. confidence: [131], of `FaceAligner`.
    """
    matrix = align_matrix(landmarks)
    evidence = mouth_evidence(known_crop(photo, matrix), transform_points(matrix, landmarks), confidence)
    return float(EVIDENCE_WEIGHTS @ evidence)


def mouth_evidence(crop: np.ndarray, landmarks: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Sixteen numbers about the mouth in an aligned crop uint8 [256, 256, 3] with `landmarks` [131, 2] in crop pixels.

    The landmark network's doubt about the lips, and about the brows to compare it with (it knows where lips must be without seeing them,
    but not to the pixel); how much redder the lips are than the skin around them; how much their colour differs from that of the skin
    between eyes and mouth; how dark the line between them is, negative where there is one; how light a mouth is from the upper lip to the
    chin, ten numbers, in deviations from its mean; and the logarithm of its contrast. The last eleven, since lips can have the colour of
    the skin around them.
    """
    luma = crop.astype(np.float32) @ LUMA
    skin = np.median(crop[SKIN].reshape(-1, 3), 0)
    lips = np.zeros(crop.shape[:2], np.uint8)
    cv2.fillPoly(lips, [np.round(landmarks[GROUPS["outer_lips"]]).astype(np.int32)], 1)
    around = cv2.dilate(lips, np.ones((25, 25), np.uint8)) > cv2.dilate(lips, np.ones((7, 7), np.uint8))
    redness = (crop[..., 0] - crop[..., 1].astype(np.float32)) / np.maximum(luma, 20)
    colour = np.median(crop[lips > 0], 0)
    patch = _mouth_patch(luma, landmarks)
    rows, light = patch[:, PATCH[0] // 4:-PATCH[0] // 4].mean(1), max(LUMA @ skin, 20)
    line = rows[4:14].min() - (rows[:4].mean() + rows[14:].mean()) / 2
    return np.array([
        _doubt(confidence[GROUPS["outer_lips"]], confidence[GROUPS["inner_lips"]]),
        _doubt(confidence[GROUPS["right_brow"]], confidence[GROUPS["left_brow"]]),
        min(np.median(redness[lips > 0]) - np.median(redness[around]), MOST_REDNESS),
        min(np.abs(colour / max(LUMA @ colour, 15) - skin / max(LUMA @ skin, 15)).max(), MOST_COLOUR),
        max(line / light, -MOST_DARKNESS),
        *((rows - patch.mean()) / (patch.std() + QUIET)).reshape(-1, 2).mean(1),
        np.log(patch.std() / light + LEAST_CONTRAST),
    ])


def _doubt(*confidences: np.ndarray) -> float:
    """Mean logarithm of the expected error of landmarks, in units of the tolerance that their confidence is about."""
    certain = np.clip(np.concatenate(confidences).astype(np.float64), 1e-6, 1 - 1e-6)
    return float(-np.log(-np.log1p(-certain)).mean())


def _mouth_patch(luma: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """A mouth and the skin above and below it, turned level, float32 [20, 32]."""
    right, left = landmarks[RIGHT_MOUTH_CORNER], landmarks[LEFT_MOUTH_CORNER]
    middle, across = (right + left) / 2, (left - right) / 2
    down = np.array([-across[1], across[0]])
    corners = np.float32([middle - 1.4 * across - 0.9 * down, middle + 1.4 * across - 0.9 * down, middle - 1.4 * across + down])
    to_patch = cv2.getAffineTransform(corners, np.float32([[0, 0], [PATCH[0], 0], [0, PATCH[1]]]))
    return cv2.warpAffine(cv2.GaussianBlur(luma, (0, 0), 1.5), to_patch, PATCH, borderMode=cv2.BORDER_REPLICATE)
