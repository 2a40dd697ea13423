"""How video frames become what the denoiser is given: windows of visemes over time, windows of latents over the crop."""

import numpy as np
import torch

from ..face.crop import LATENT_WINDOW


def viseme_windows(visemes: np.ndarray, size: int) -> np.ndarray:
    """[T, 15] -> [T, size, 15]: each video frame with its neighbours; the ends repeat. `size` is odd. The result is a read-only view."""
    padded = np.pad(visemes, ((size // 2, size // 2), (0, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, size, axis=0).swapaxes(1, 2)


def latent_window(latents: torch.Tensor) -> torch.Tensor:
    """The mouth's block of latent cells, a view [..., h, w] of a full grid [..., 16, 16]."""
    top, left, height, width = LATENT_WINDOW
    return latents[..., top:top + height, left:left + width]
