"""How much of a photo's fine detail its speaking frames still have, at the photo's own resolution."""

from collections.abc import Iterable

import cv2
import numpy as np

from ..face.crop import invert, mouth_mask, transform_points
from ..face.landmarks import GROUPS, interocular_distance

# Detail is what a Gaussian blur of this deviation, in interocular distances, takes away.
DETAIL_SCALE = 1 / 40
# Photos with this many pixels a crop pixel, or more, have detail that no crop shows.
LARGE = 1.5
# What is shown enlarged of the crop (rows, columns: the mouth and the chin), and how much.
ZOOMED, ZOOM = (slice(130, 234), slice(64, 192)), 4
# Skin this near to the lips, in interocular distances, counts to neither.
LIP_MARGIN = 0.06


def is_large(matrix: np.ndarray) -> bool:
    """Whether a photo with this affine to the crop, [2, 3], shows its face at a higher resolution than the crop."""
    return abs(np.linalg.det(matrix[:, :2])) <= LARGE**-2


def zoomed_mouths(photo: np.ndarray, frames: np.ndarray, matrix: np.ndarray, opening: np.ndarray) -> np.ndarray:
    """The photo's mouth beside those of frames open most, less and least of the wider half, uint8 [416, 4 · 512, 3].

    Photo uint8 [H, W, 3], frames [T, H, W, 3], affine to the crop [2, 3], lip openings of the frames [T].
    """
    order = np.argsort(opening)
    chosen = [order[round(share * (len(order) - 1))] for share in (1, 0.75, 0.5)]
    rows, columns = ZOOMED
    enlarged = ZOOM * (matrix - np.float32([[0, 0, columns.start], [0, 0, rows.start]]))
    size = ZOOM * (columns.stop - columns.start), ZOOM * (rows.stop - rows.start)
    return np.hstack([cv2.warpAffine(picture, enlarged, size, flags=cv2.INTER_CUBIC) for picture in (photo, *frames[chosen])])


def detail_energy(picture: np.ndarray, interocular: float) -> np.ndarray:
    """(luma - its Gaussian blur)² of a picture RGB uint8 [H, W, 3], float32 [H, W] in squared levels; `interocular` in its pixels."""
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.square(luma - cv2.GaussianBlur(luma, (0, 0), max(DETAIL_SCALE * interocular, 0.5)))


def face_regions(landmarks: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Which pixels of a picture of this shape are "skin" (chin and cheeks, where the mouth's motion reaches) and "lips", bool [H, W].

    `landmarks` [131, 2] in the picture's pixels, `matrix` [2, 3] from there to the crop.
    """
    def filled(points: np.ndarray) -> np.ndarray:
        region = np.zeros(shape, np.uint8)
        cv2.fillPoly(region, [np.round(points).astype(np.int32)], 1)
        return region

    outer, inner = filled(landmarks[GROUPS["outer_lips"]]), filled(landmarks[GROUPS["inner_lips"]])
    size = 2 * round(LIP_MARGIN * float(interocular_distance(landmarks))) + 1
    around = cv2.dilate(outer, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    moving = cv2.warpAffine(mouth_mask(), matrix, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) > 0.5
    face = filled(landmarks[GROUPS["face_oval"]]) > 0
    return {"skin": moving & face & (around == 0), "lips": (outer > 0) & (inner == 0)}


def detail_figures(
    photo: np.ndarray, frames: Iterable[np.ndarray], matrix: np.ndarray, portrait_landmarks: np.ndarray, crop_landmarks: np.ndarray
) -> dict[str, float]:
    """`detail_skin`, `detail_lips`: energy of fine detail in the half of the frames that moves most, over the photo's own; 1 = all of it.

    Args:
        photo, frames: uint8 [H, W, 3]. matrix: from the photo to the crop, [2, 3].
        portrait_landmarks: of the photo, [131, 2] in its pixels. crop_landmarks: of the frames, [T, 131, 2] in crop pixels.
    """
    interocular = float(interocular_distance(portrait_landmarks))
    rectangle = _mouth_rectangle(matrix, photo.shape)
    offset = np.float32([rectangle[1].start, rectangle[0].start])
    inside = matrix.astype(np.float32).copy()
    inside[:, 2] += inside[:, :2] @ offset
    to_photo = invert(inside)

    def energies(picture: np.ndarray, landmarks: np.ndarray) -> list[float]:
        energy = detail_energy(picture, interocular)
        return [float(energy[region].mean()) if region.any() else 0.0 for region in face_regions(landmarks, inside, energy.shape).values()]

    still = photo[rectangle]
    own = energies(still, portrait_landmarks - offset)
    motion, values = [], []
    for frame, landmarks in zip(frames, crop_landmarks, strict=True):
        motion.append(float(cv2.absdiff(frame[rectangle], still).mean()))
        values.append(energies(frame[rectangle], transform_points(to_photo, landmarks)))
    moving = np.argsort(motion)[len(motion) // 2:]
    ratios = np.mean(np.array(values)[moving], axis=0) / np.maximum(own, 1e-6)
    return {"detail_skin": float(ratios[0]), "detail_lips": float(ratios[1])}


def _mouth_rectangle(matrix: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The part of the photo that holds `mouth_mask`."""
    rows, columns = np.flatnonzero(mouth_mask().any(1)), np.flatnonzero(mouth_mask().any(0))
    corners = np.float32([[x, y] for x in columns[[0, -1]] for y in rows[[0, -1]]])
    corners = transform_points(invert(matrix), corners)
    x0, y0 = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(corners.max(0)) + 1, shape[1::-1]).astype(int)
    return slice(y0, y1), slice(x0, x1)
