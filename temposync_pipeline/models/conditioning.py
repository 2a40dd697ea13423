"""How video frames become what the denoiser is given: latents of crops, windows of them over the crop, windows of visemes over time."""

import numpy as np
import torch

from ..face.crop import LATENT_WINDOW
from .autoencoder_temposync import AutoencoderTempoSync
from .devices import execution_device
from .visemes import NUM_VISEMES, VISEME_INDEX


@torch.inference_mode()
def encode_crops(vae: AutoencoderTempoSync, crops: np.ndarray, batch_size: int = 8) -> torch.Tensor:
    """Latents [N, C, 16, 16], on the CPU and in the autoencoder's number format, of crops uint8 [N, 256, 256, 3]."""
    batches = []
    for start in range(0, len(crops), batch_size):
        pixels = torch.from_numpy(np.ascontiguousarray(crops[start:start + batch_size])).permute(0, 3, 1, 2)
        pixels = pixels.to(execution_device(vae)).float().div_(127.5).sub_(1).to(vae.dtype, memory_format=torch.channels_last)
        batches.append(vae.encode(pixels).latent.cpu())
    return torch.cat(batches)


def viseme_windows(visemes: np.ndarray, size: int) -> np.ndarray:
    """[T, 15] -> [T, size, 15]: each video frame with its neighbours; the ends repeat. `size` is odd. The result is a read-only view."""
    padded = np.pad(visemes, ((size // 2, size // 2), (0, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, size, axis=0).swapaxes(1, 2)


def silent_windows(frames: int, size: int) -> np.ndarray:
    """Viseme windows [frames, size, 15] of a long pause."""
    windows = np.zeros((frames, size, NUM_VISEMES), np.float32)
    windows[..., VISEME_INDEX["sil"]] = 1
    return windows


def gaussian_kernel(sigma: float) -> np.ndarray:
    """Weights [2·⌈2σ⌉ + 1] of a frame's neighbourhood, float32, that add up to 1; `sigma` in frames, 0 = the frame alone."""
    radius = int(np.ceil(2 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-6)) ** 2)
    return (kernel / kernel.sum()).astype(np.float32)


def smooth_visemes(visemes: np.ndarray, sigma: float) -> np.ndarray:
    """Probabilities [T, 15] averaged over time with a Gaussian of `sigma` frames, 0 = as they are; rows still add up to 1.

    A classifier's opinion jumps from frame to frame, lips do not.
    """
    if sigma == 0:
        return visemes
    kernel = gaussian_kernel(sigma)
    return np.einsum("k,tkv->tv", kernel, viseme_windows(visemes, len(kernel)))


def smoothing_reach(sigma: float) -> int:
    """Frames on either side that count in `smooth_latents`: ⌈2σ⌉, and one more where only every second frame is known."""
    return int(np.ceil(2 * sigma)) + smoothing_stride(sigma) - 1


def smoothing_stride(sigma: float) -> int:
    """Of how many frames one is enough for `smooth_latents`: a Gaussian of 1.25 frames leaves little that every second would not show
    (4 % of what moves a quarter of the frame rate times a second)."""
    return 2 if sigma >= 1.25 else 1


def smooth_latents(latents: torch.Tensor, times: range, frames: range, sigma: float) -> torch.Tensor:
    """Latents of `frames` [n, C, h, w]: the mean of those known, [m, C, h, w] at `times`, weighted by a Gaussian of `sigma` frames about
    each, 0 = the frame alone, as far as `smoothing_reach`."""
    distance = np.subtract.outer(np.asarray(frames), np.asarray(times))
    weights = np.exp(-0.5 * (distance / max(sigma, 1e-6)) ** 2) * (np.abs(distance) <= smoothing_reach(sigma))
    weights = torch.from_numpy(weights / weights.sum(1, keepdims=True)).to(latents)
    return (weights @ latents.flatten(1)).unflatten(1, latents.shape[1:])


def sharpen_motion(motion: np.ndarray, amount: float) -> np.ndarray:
    """Motion [T, D] less `amount` (in frames²) times its curvature over time; the ends repeat.

    A Gaussian of σ frames takes, of slow motion, a curvature of σ²/2 away (Taylor); this gives it back beforehand.
    """
    padded = np.pad(motion, ((1, 1), (0, 0)), mode="edge")
    return (motion - amount * (padded[2:] - 2 * motion + padded[:-2])).astype(motion.dtype)


def quiet_faint_motion(motion: torch.Tensor, floor: float) -> torch.Tensor:
    """Motion [T, C, h, w] times m² / (m² + floor²), with m the root mean square over a cell's channels; 0 = as it is.

    The gain of a Wiener filter whose noise has the deviation `floor` (Wiener 1949): what is fainter is mostly not speech, and skin that
    does not move keeps the photo's own detail.
    """
    if floor == 0:
        return motion
    power = (motion / floor).square().mean(1, keepdim=True)
    return motion * (1 - 1 / (1 + power))


def latent_window(latents: torch.Tensor) -> torch.Tensor:
    """The mouth's block of latent cells, a view [..., h, w] of a full grid [..., 16, 16]."""
    top, left, height, width = LATENT_WINDOW
    return latents[..., top:top + height, left:left + width]
