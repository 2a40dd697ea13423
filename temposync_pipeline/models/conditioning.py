"""How video frames become what the denoiser is given: latents of crops, windows of them over the crop, windows of visemes over time."""

import numpy as np
import torch

from ..face.crop import LATENT_WINDOW
from .autoencoder_temposync import AutoencoderTempoSync


@torch.inference_mode()
def encode_crops(vae: AutoencoderTempoSync, crops: np.ndarray, batch_size: int = 8) -> torch.Tensor:
    """Latents [N, C, 16, 16], on the CPU and in the autoencoder's number format, of crops uint8 [N, 256, 256, 3]."""
    batches = []
    for start in range(0, len(crops), batch_size):
        pixels = torch.from_numpy(np.ascontiguousarray(crops[start:start + batch_size])).permute(0, 3, 1, 2)
        pixels = pixels.to(vae.device).float().div_(127.5).sub_(1).to(vae.dtype, memory_format=torch.channels_last)
        batches.append(vae.encode(pixels).cpu())
    return torch.cat(batches)


def viseme_windows(visemes: np.ndarray, size: int) -> np.ndarray:
    """[T, 15] -> [T, size, 15]: each video frame with its neighbours; the ends repeat. `size` is odd. The result is a read-only view."""
    padded = np.pad(visemes, ((size // 2, size // 2), (0, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, size, axis=0).swapaxes(1, 2)


def smooth_visemes(visemes: np.ndarray, sigma: float) -> np.ndarray:
    """Probabilities [T, 15] averaged over time with a Gaussian of `sigma` frames, 0 = as they are; rows still add up to 1.

    A classifier's opinion jumps from frame to frame, lips do not.
    """
    if sigma == 0:
        return visemes
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    windows = viseme_windows(visemes, 2 * radius + 1)
    return np.einsum("k,tkv->tv", kernel / kernel.sum(), windows).astype(np.float32)


def blend_neighbours(frames: torch.Tensor, weight: float) -> torch.Tensor:
    """(1 - 2w)·x_t + w·(x_{t-1} + x_{t+1}) of frames [T, ...]: the T - 2 that have both neighbours. `weight` w in [0, 1/3]."""
    return (1 - 2 * weight) * frames[1:-1] + weight * (frames[:-2] + frames[2:])


def latent_window(latents: torch.Tensor) -> torch.Tensor:
    """The mouth's block of latent cells, a view [..., h, w] of a full grid [..., 16, 16]."""
    top, left, height, width = LATENT_WINDOW
    return latents[..., top:top + height, left:left + width]
