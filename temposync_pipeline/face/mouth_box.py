"""The part of a photo that holds the generated mouth: from the crop's window to the photo's pixels and back."""

from typing import NamedTuple

import cv2
import numpy as np

from .crop import invert, mouth_mask, transform_points

CELL = 8  # crop pixels: the window is made of whole cells of this size


def _mask_block() -> tuple[int, int, int, int]:
    """Top, left, height and width of the block of whole cells that holds the mask, in crop pixels."""
    rows, columns = np.flatnonzero(mouth_mask().any(1)), np.flatnonzero(mouth_mask().any(0))
    top, left = rows[0] // CELL * CELL, columns[0] // CELL * CELL
    return int(top), int(left), int(rows[-1] // CELL * CELL + CELL - top), int(columns[-1] // CELL * CELL + CELL - left)


TOP, LEFT, HEIGHT, WIDTH = _mask_block()


def window_of(crop: np.ndarray) -> np.ndarray:
    """The window, a view [HEIGHT, WIDTH, ...] of a crop [256, 256, ...]."""
    return crop[TOP:TOP + HEIGHT, LEFT:LEFT + WIDTH]


class Rectangle(NamedTuple):
    """Rows y0 … y1 - 1 and columns x0 … x1 - 1 of a picture."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def is_empty(self) -> bool:
        return self.y0 >= self.y1 or self.x0 >= self.x1

    @classmethod
    def around(cls, where: np.ndarray) -> "Rectangle":
        """The smallest that holds all true values of [H, W]; empty where there are none."""
        rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
        return cls(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1) if len(rows) else cls(0, 0, 0, 0)

    def of(self, picture: np.ndarray) -> np.ndarray:
        """A view of the picture [H, W, ...]."""
        return picture[self.y0:self.y1, self.x0:self.x1]

    def grown(self, margin: int) -> "Rectangle":
        """With a margin on all sides; an empty one stays empty."""
        return self if self.is_empty else Rectangle(self.y0 - margin, self.y1 + margin, self.x0 - margin, self.x1 + margin)

    def within(self, other: "Rectangle") -> "Rectangle":
        """What both cover."""
        return Rectangle(max(self.y0, other.y0), min(self.y1, other.y1), max(self.x0, other.x0), min(self.x1, other.x1))

    def union(self, other: "Rectangle") -> "Rectangle":
        """The smallest that holds both."""
        if self.is_empty or other.is_empty:
            return other if self.is_empty else self
        return Rectangle(min(self.y0, other.y0), max(self.y1, other.y1), min(self.x0, other.x0), max(self.x1, other.x1))


WINDOW = Rectangle(0, HEIGHT, 0, WIDTH)  # in its own pixels


class Patch(NamedTuple):
    """What a frame changes in its photo: `pixels`, uint8 [h, w, 3], whose first one lies at (top, left)."""

    top: int
    left: int
    pixels: np.ndarray

    def onto(self, photo: np.ndarray) -> np.ndarray:
        """The frame, a changed copy of the photo, uint8 [H, W, 3]."""
        frame, (height, width) = photo.copy(), self.pixels.shape[:2]
        frame[self.top:self.top + height, self.left:self.left + width] = self.pixels
        return frame


class MouthBox:
    """Where the window lies in a photo.

    Args:
        shape: height and width of the photo.
        matrix: affine from photo to crop pixels, [2, 3] (`face.crop.align_matrix`).
    """

    def __init__(self, shape: tuple[int, int], matrix: np.ndarray):
        self.height, self.width = shape
        self.matrix = np.asarray(matrix, np.float64)
        scale = np.sqrt(abs(np.linalg.det(self.matrix[:, :2])))
        # Values a crop pixel from which on interpolation alone would alias: more are averaged first.
        self._finest = float(2.0 ** -np.clip(np.floor(np.log2(scale)), -1, np.log2(CELL)))
        self.rectangle = self.rectangle_of(0, HEIGHT, 0, WIDTH)

    def rectangle_of(self, top: float, bottom: float, left: float, right: float) -> Rectangle:
        """The photo's rectangle that covers a rectangle of the window."""
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64) + np.array([LEFT, TOP])
        corners = transform_points(invert(self.matrix), corners)
        limits = [self.width, self.height]
        x0, y0 = np.clip(np.floor(corners.min(0)), 0, limits).astype(int)
        x1, y1 = np.clip(np.ceil(corners.max(0)) + 1, 0, limits).astype(int)
        return Rectangle(int(y0), int(y1), int(x0), int(x1))

    def to_photo(
        self, window: np.ndarray, interpolation: int = cv2.INTER_LINEAR, rectangle: Rectangle | None = None, part: Rectangle = WINDOW
    ) -> np.ndarray:
        """A window, or a grid that covers it more coarsely or finely, [h, w, ...], as it lies in the photo: [y1 - y0, x1 - x0, ...].

        The grid may cover a `part` of the window alone, in crop pixels; beyond it its border is repeated.
        """
        width, height = part.x1 - part.x0, part.y1 - part.y0
        if window.shape[1] / width > self._finest:
            window = cv2.resize(window, (int(width * self._finest), int(height * self._finest)), interpolation=cv2.INTER_AREA)
        y0, y1, x0, x1 = rectangle or self.rectangle
        share = window.shape[1] / width
        linear = self.matrix[:, :2]
        offset = self.matrix[:, 2] + linear @ [x0, y0] - [LEFT + part.x0, TOP + part.y0]
        # Pixel centres sit at +0.5.
        to_window = np.column_stack([share * linear, share * (offset + 0.5) - 0.5])
        return cv2.warpAffine(window, to_window, (x1 - x0, y1 - y0), flags=interpolation | cv2.WARP_INVERSE_MAP,
                              borderMode=cv2.BORDER_REPLICATE)
