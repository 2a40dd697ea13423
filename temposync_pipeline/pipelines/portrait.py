"""The picture that is to speak: what stays the same for all frames of a video."""

import logging
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ..errors import InvalidInputError
from .rendering import Renderer

# Lip openings in interocular distances, as the face aligner reads them, up to which lips count as closed and from which they have to be
# closed in full. Of 94 portraits with closed lips the bundled aligner reads 88 % below the first and 96 % below the second.
SHUT_OPENING, PARTED_OPENING = 0.01, 0.02

# The longer side of a video, px, unless asked otherwise: beyond it, H.264 needs a level that few players take.
MAX_SIZE = 1920
MIN_MAX_SIZE = 64

logger = logging.getLogger(__name__)


@dataclass
class Portrait:
    """Photo uint8 [H, W, 3], its affine to the crop [2, 3], how frames come into it (`rendering.COMPOSITIONS`) and what makes them; latents
    [1, C, 16, 16] of the crop; and, for methods that ask for them, `context` [1, C, h, w], its mouth's block with the mouth painted out,
    and `identity` [1, D].

    `parted` is the share of the way to a closed mouth that the denoiser has to go in silence, of `share_to_close`; `landmarks` [131, 2] and
    `sureness` [131], for life, are the photo's, as the face aligner sees them.
    """

    photo: np.ndarray
    matrix: np.ndarray
    composition: str
    renderer: Renderer
    latents: torch.Tensor
    parted: float
    context: torch.Tensor | None = None
    identity: torch.Tensor | None = None
    landmarks: np.ndarray | None = None
    sureness: np.ndarray | None = None


def share_to_close(opening: float) -> float:
    """How much of a mouth there is to close in silence, by its lip opening: 0 (closed already) to 1 (teeth show)."""
    return min(max((opening - SHUT_OPENING) / (PARTED_OPENING - SHUT_OPENING), 0.0), 1.0)


def check_max_size(max_size: int) -> None:
    """Raises InvalidInputError unless it is 0 or a whole number of at least `MIN_MAX_SIZE`."""
    if isinstance(max_size, bool) or not isinstance(max_size, int) or (max_size != 0 and max_size < MIN_MAX_SIZE):
        raise InvalidInputError(f"max_size must be 0 (as the photo) or at least {MIN_MAX_SIZE} pixels, got {max_size!r}")


def fit_photo(photo: np.ndarray, landmarks: np.ndarray, max_size: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The photo uint8 [H, W, 3], shrunk until its longer side is `max_size` px (0 = left as it is), and its landmarks [N, 2].

    Shrinking is logged as a warning.
    """
    height, width = photo.shape[:2]
    if max_size == 0 or max(height, width) <= max_size:
        return photo, landmarks
    scale = max_size / max(height, width)
    # Even sides, as the encoder wants them: an odd one would be padded.
    size = [max(2, round(side * scale / 2) * 2) for side in (width, height)]
    logger.warning("%s: %d×%d px; the video has %d×%d px (max_size %d; 0 keeps the photo's size)", name, width, height, *size, max_size)
    factors = np.array([size[0] / width, size[1] / height], np.float32)
    # Pixel centres lie at +0.5.
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA), (landmarks + 0.5) * factors - 0.5
