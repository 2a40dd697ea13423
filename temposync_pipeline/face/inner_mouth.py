"""The block of the crop that holds the inside of the mouth, painted at twice the crop's resolution where a photo has so much to show."""

import cv2
import numpy as np

from .crop import CROP_SIZE, LATENT_STRIDE, LATENT_WINDOW, crop_face
from .mouth_box import Rectangle
from .tone import LUMA

SCALE = 2  # pixels painted a crop pixel, along each side
# Rows and columns of latent cells: of 14 videos nothing hidden lay outside crop rows 150 to 200 and columns 92 to 160.
INNER_CELLS = Rectangle(9, 13, 5, 11)
INNER_SHAPE = INNER_CELLS.y1 - INNER_CELLS.y0, INNER_CELLS.x1 - INNER_CELLS.x0
BLOCK = Rectangle(*(LATENT_STRIDE * limit for limit in INNER_CELLS))  # in crop pixels

# Photo pixels a crop pixel from which on detail is looked for at all: as many as are painted (in a dark frame of a film with 1.7 of them,
# whose grain is its coding, the paint was a muddle). And how strong the finest octave must be beside the next: of 10 sharp photos 1.3 to
# 2.2, enlarged to three times their size 0.4 to 0.7, of three photos enlarged by somebody 0.7.
MIN_ENLARGEMENT, MIN_DETAIL = float(SCALE), 0.9


def is_sharp(photo: np.ndarray, matrix: np.ndarray) -> bool:
    """Whether a photo, RGB uint8 [H, W, 3], has detail around the mouth that only twice the crop's resolution can show.

    Painted teeth are sharp, and look painted in a photo that is not.  `matrix`: affine from photo to crop pixels, [2, 3].
    """
    if np.linalg.det(matrix[:, :2]) * MIN_ENLARGEMENT**2 > 1:
        return False
    top, left, height, width = (SCALE * LATENT_STRIDE * cells for cells in LATENT_WINDOW)
    luma = crop_face(photo, matrix, SCALE * CROP_SIZE)[top:top + height, left:left + width] @ LUMA
    soft, softer = (cv2.GaussianBlur(luma, (0, 0), sigma) for sigma in (1, 2))
    return bool(np.median((luma - soft) ** 2) > MIN_DETAIL * np.median((soft - softer) ** 2))


def cells_around(latents: np.ndarray) -> np.ndarray:
    """The block's cells and one around them, a view [..., 6, 8] of an array or tensor of the mouth's block [..., 10, 12]."""
    top, left = LATENT_WINDOW[0], LATENT_WINDOW[1]
    return latents[..., INNER_CELLS.y0 - 1 - top:INNER_CELLS.y1 + 1 - top, INNER_CELLS.x0 - 1 - left:INNER_CELLS.x1 + 1 - left]


def block_of_window(picture: np.ndarray, scale: float = 1) -> np.ndarray:
    """The block, a view of [..., 160 · scale, 192 · scale], an array or tensor of the mouth's block `LATENT_WINDOW`."""
    top, left = LATENT_STRIDE * LATENT_WINDOW[0], LATENT_STRIDE * LATENT_WINDOW[1]
    y0, y1, x0, x1 = (int(scale * limit) for limit in (BLOCK.y0 - top, BLOCK.y1 - top, BLOCK.x0 - left, BLOCK.x1 - left))
    return picture[..., y0:y1, x0:x1]
