"""The picture that is to speak: what stays the same for all frames of a video."""

from dataclasses import dataclass

import numpy as np
import torch

from .rendering import Renderer

# Lip openings in interocular distances, as the face aligner reads them, up to which lips count as closed and from which they have to be
# closed in full. Of 94 portraits with closed lips the bundled aligner reads 88 % below the first and 96 % below the second.
SHUT_OPENING, PARTED_OPENING = 0.01, 0.02


@dataclass
class Portrait:
    """Photo uint8 [H, W, 3], its affine to the crop [2, 3], what makes frames of it; latents [1, C, 16, 16] of the crop, [1, C, h, w] of
    its mouth's block with the mouth painted out, identity [1, D].

    `parted` is the share of the way to a closed mouth that the denoiser has to go in silence, of `share_to_close`.
    """

    photo: np.ndarray
    matrix: np.ndarray
    renderer: Renderer
    latents: torch.Tensor
    context: torch.Tensor
    identity: torch.Tensor
    parted: float


def share_to_close(opening: float) -> float:
    """How much of a mouth there is to close in silence, by its lip opening: 0 (closed already) to 1 (teeth show)."""
    return min(max((opening - SHUT_OPENING) / (PARTED_OPENING - SHUT_OPENING), 0.0), 1.0)
