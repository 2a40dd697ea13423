"""The block of the crop that holds the inside of the mouth, which is painted at twice the crop's resolution."""

import numpy as np

from .crop import CROP_SIZE, LATENT_STRIDE, LATENT_WINDOW, crop_face
from .mouth_box import Rectangle

SCALE = 2  # pixels painted a crop pixel, along each side
# Rows and columns of latent cells: of 14 videos nothing hidden lay outside crop rows 150 to 200 and columns 92 to 160.
INNER_CELLS = Rectangle(9, 13, 5, 11)
INNER_SHAPE = INNER_CELLS.y1 - INNER_CELLS.y0, INNER_CELLS.x1 - INNER_CELLS.x0
BLOCK = Rectangle(*(LATENT_STRIDE * limit for limit in INNER_CELLS))  # in crop pixels


def block_of_photo(photo: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The block of a photo uint8 [H, W, 3], at twice the crop's resolution, uint8 [128, 192, 3]; `matrix` is its affine to the crop."""
    return crop_face(photo, matrix, SCALE * CROP_SIZE)[SCALE * BLOCK.y0:SCALE * BLOCK.y1, SCALE * BLOCK.x0:SCALE * BLOCK.x1]


def cells_around(latents: np.ndarray) -> np.ndarray:
    """The block's cells and one around them, a view [..., 6, 8] of an array or tensor of the mouth's block [..., 10, 12]."""
    top, left = LATENT_WINDOW[0], LATENT_WINDOW[1]
    return latents[..., INNER_CELLS.y0 - 1 - top:INNER_CELLS.y1 + 1 - top, INNER_CELLS.x0 - 1 - left:INNER_CELLS.x1 + 1 - left]


def block_of_window(picture: np.ndarray, scale: float = 1) -> np.ndarray:
    """The block, a view of [..., 160 · scale, 192 · scale], an array or tensor of the mouth's block `LATENT_WINDOW`."""
    top, left = LATENT_STRIDE * LATENT_WINDOW[0], LATENT_STRIDE * LATENT_WINDOW[1]
    y0, y1, x0, x1 = (int(scale * limit) for limit in (BLOCK.y0 - top, BLOCK.y1 - top, BLOCK.x0 - left, BLOCK.x1 - left))
    return picture[..., y0:y1, x0:x1]
