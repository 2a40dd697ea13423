"""The aligned 256×256 face crop, and the part of it that speech moves.

Eyes level at row 80, 76 px apart; a chin at rest lies near row 220, so that a wide-open jaw still
fits.  Only the lower face is generated: `mouth_mask` says where, and `LATENT_WINDOW` is the block
of the ÷16 latent grid that covers it.  Denoising and decoding that block instead of the whole grid
(120 cells of 256) halves the cost of a frame and changes nothing outside it.
"""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from .landmarks import RIGID

CROP_SIZE = 256
LATENT_STRIDE = 16
# top, left, height, width in latent cells.
LATENT_WINDOW = (6, 2, 10, 12)
# Crop positions (x, y) of the landmarks `RIGID`: their mean over 799 portraits and 16,424 talker frames.
TEMPLATE = np.float32([
    [75.0, 80.9], [107.3, 83.0], [148.4, 83.1], [180.8, 80.9],
    [128.0, 77.1], [128.0, 86.3], [128.0, 95.4], [128.0, 139.2],
])


def similarity(source: npt.ArrayLike, target: npt.ArrayLike) -> np.ndarray:
    """Least-squares similarity that brings points `source` [N, 2] onto `target` [N, 2] (Umeyama 1991), float64 [2, 3]."""
    points, wanted = np.asarray(source, np.float64), np.asarray(target, np.float64)
    points_mean, wanted_mean = points.mean(0), wanted.mean(0)
    a, b = points - points_mean, wanted - wanted_mean
    norm = (a**2).sum()
    cos = (a * b).sum() / norm
    sin = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / norm
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([linear, wanted_mean - linear @ points_mean])


def align_matrix(landmarks: np.ndarray) -> np.ndarray:
    """Similarity from picture to crop pixels, float32 [2, 3]; `landmarks` is [131, 2] in picture pixels."""
    return similarity(landmarks[RIGID], TEMPLATE).astype(np.float32)


def smooth_matrices(matrices: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """Gaussian smoothing over time (sigma in frames) of alignments [T, 2, 3], against landmark jitter."""
    radius = max(1, int(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.pad(matrices, ((radius, radius), (0, 0), (0, 0)), mode="edge")
    weights = kernel / kernel.sum()
    return np.stack([np.tensordot(weights, padded[t:t + 2 * radius + 1], 1) for t in range(len(matrices))]).astype(np.float32)


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a [2, 3] affine to points [..., 2]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a [2, 3] affine."""
    return cv2.invertAffineTransform(matrix)


def crop_face(image: np.ndarray, matrix: np.ndarray, size: int = CROP_SIZE) -> np.ndarray:
    """Aligned crop, uint8 [size, size, 3], of an RGB picture uint8 [H, W, 3].

    Large faces are shrunk by area averaging first, so that they don't alias; beyond the picture's
    edge its border is repeated.
    """
    matrix = matrix * (size / CROP_SIZE)
    scale = scale_of(matrix)
    image, matrix = shrink_large(image, matrix)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_REPLICATE)


def scale_of(matrix: np.ndarray) -> float:
    """Crop pixels for one of the picture, of a matrix [2, 3]."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def shrink_large(image: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture [H, W, ...] so small that its crop does not alias, and the matrix from there to the crop; of a small face, as it is."""
    scale = scale_of(matrix)
    if scale >= 0.6:
        return image, matrix
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    factor_x, factor_y = small.shape[1] / width, small.shape[0] / height
    # Pixel centres sit at +0.5, so the shrink is an affine with an offset of its own.
    to_small = np.float64([[factor_x, 0, 0.5 * factor_x - 0.5], [0, factor_y, 0.5 * factor_y - 0.5], [0, 0, 1]])
    combined = np.vstack([matrix, [0, 0, 1]]) @ np.linalg.inv(to_small)
    return small, combined[:2].astype(np.float32)


@lru_cache
def mouth_mask(size: int = CROP_SIZE, feather: float = 10.0) -> np.ndarray:
    """Where the crop is generated: float32 [size, size] in [0, 1], 1 over lips, jaw and lower cheeks.

    Starts under the nose, widens over the cheeks and ends above the crop's lower edge, wide enough that the corners of a broad smile
    (at least 9 px inside for 99 of 100 portraits) can be taken back. `feather` is the width of the soft edge in crop pixels, lying
    wholly inside `LATENT_WINDOW`.
    """
    outline = np.float32([[100, 132], [156, 132], [190, 142], [208, 164], [210, 192], [198, 226],
                          [166, 248], [90, 248], [58, 226], [46, 192], [48, 164], [66, 142]])
    hard = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
    cv2.fillPoly(hard, [np.round(outline).astype(np.int32)], 255)
    inside = cv2.distanceTransform(hard, cv2.DIST_L2, 5)
    mask = np.clip(inside / feather, 0, 1)
    mask = (mask * mask * (3 - 2 * mask)).astype(np.float32)
    return mask if size == CROP_SIZE else cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)


def mask_mouth(crop: np.ndarray) -> np.ndarray:
    """The crop with the generated region painted mid-grey: what the context latents are made of.

    uint8 [..., 256, 256, 3] in and out.
    """
    hidden = (mouth_mask() > 0)[..., None]
    return np.where(hidden, np.uint8(128), crop)
