"""Where a face is, as one pose (x, y, size, cos, sin), and warps of large pictures to it.

The pose of a face is the similarity that brings the aligned crop (`face.crop`) onto it: `x`, `y` is where the crop's centre lies,
`size` the height of the face's outline in pixels, (cos, sin) the roll, clockwise in the picture.
"""

import cv2
import numpy as np

from .crop import CROP_SIZE, align_matrix, invert, transform_points

# A face's outline is this high in the aligned crop, and its eye centres this far apart.
FACE_SPAN = 216.0
ALIGNED_INTEROCULAR = 76.0
# Landmark crops show this many pixels of the aligned crop, so that a pose a little off still holds the whole face.
CROP_SPAN = 288.0
POSE_IN_CROP = np.array([CROP_SIZE / 2, CROP_SIZE / 2, FACE_SPAN, 1.0, 0.0])  # of a face in its own aligned crop


class Pyramid:
    """A picture halved again and again by area averaging, so that any shrinking warp of it is quick and free of aliasing."""

    def __init__(self, image: np.ndarray):
        self.levels = [image]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.levels[0].shape[:2]

    def _level(self, scale: float) -> np.ndarray:
        """The smallest level that a warp by `scale` output pixels a picture pixel need not shrink by half."""
        depth = max(0, int(np.floor(-np.log2(max(scale, 1e-6)) + 0.2)))
        while len(self.levels) <= depth and min(self.levels[-1].shape[:2]) >= 4:
            height, width = self.levels[-1].shape[:2]
            self.levels.append(cv2.resize(self.levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
        return self.levels[min(depth, len(self.levels) - 1)]

    def source(self, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """The level for `scale` and the [2, 3] affine from its pixels to the picture's (pixel centres sit at +0.5)."""
        level = self._level(scale)
        x, y = self.shape[1] / level.shape[1], self.shape[0] / level.shape[0]
        return level, np.array([[x, 0, 0.5 * x - 0.5], [0, y, 0.5 * y - 0.5]], np.float32)

    def warp(self, matrix: np.ndarray, size: tuple[int, int], border: int = cv2.BORDER_REPLICATE,
             canvas: np.ndarray | None = None) -> np.ndarray:
        """The picture under the affine `matrix` [2, 3] (picture to output pixels), uint8, `size` = (width, height)."""
        level, to_picture = self.source(float(np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
        return cv2.warpAffine(level, compose(matrix, to_picture), size, dst=canvas, flags=cv2.INTER_LINEAR, borderMode=border)


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The [2, 3] affine that applies `inner`, then `outer`."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def pose_matrix(pose: np.ndarray) -> np.ndarray:
    """The [2, 3] affine from the aligned 256 px crop to the picture for a pose (x, y, size, cos, sin) of a face."""
    x, y, size, cos, sin = pose
    linear = np.array([[cos, -sin], [sin, cos]]) * (size / FACE_SPAN)
    return np.column_stack([linear, np.array([x, y]) - linear @ np.full(2, CROP_SIZE / 2)])


def landmark_pose(landmarks: np.ndarray) -> np.ndarray:
    """Pose (x, y, size, cos, sin) of a face with `landmarks` [131, 2]; the inverse of `pose_matrix`."""
    to_picture = invert(align_matrix(landmarks))
    scale = np.hypot(to_picture[0, 0], to_picture[1, 0])
    x, y = transform_points(to_picture, np.full(2, CROP_SIZE / 2, np.float32))
    return np.array([x, y, scale * FACE_SPAN, to_picture[0, 0] / scale, to_picture[1, 0] / scale])


def crop_matrix(pose: np.ndarray, size: int) -> np.ndarray:
    """The [2, 3] affine from picture pixels to the landmark network's crop of `size` px."""
    zoom = size / CROP_SPAN
    to_crop = np.array([[zoom, 0, size / 2 - zoom * CROP_SIZE / 2], [0, zoom, size / 2 - zoom * CROP_SIZE / 2]])
    return compose(to_crop, invert(pose_matrix(pose)))
