"""The figures of one generated clip: dictionaries of plain floats, ready for JSON."""

import cv2
import numpy as np
import torch

from ..face.crop import mouth_mask
from ..face.landmarks import lip_opening
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.visemes import VISEME_INDEX
from .image import laplacian_variance, psnr, ssim
from .lips import lip_correlation, motion_amplitude, mouth_landmark_distance
from .temporal import flicker_std, flicker_std_of_differences, temporal_l1

Figures = dict[str, float]


def lip_figures(generated: np.ndarray, real: np.ndarray) -> Figures:
    """How the generated lips follow the real ones; landmarks [T, 131, 2] each.

    `lip_r` is Pearson's r of the lip opening at lag 0, `best_lag` in frames (> 0: generated lips late),
    `lag_within_one_frame` 1 or 0, so that its mean is the share of clips, `lmd` and `motion_amplitude` in interocular distances.
    """
    length = min(len(generated), len(real))
    generated, real = generated[:length], real[:length]
    correlation = lip_correlation(lip_opening(generated), lip_opening(real))
    return {
        "lip_r": correlation.r,
        "best_lag": correlation.best_lag,
        "lag_within_one_frame": float(abs(correlation.best_lag) <= 1),
        "lip_r_at_best_lag": correlation.r_at_best_lag,
        "amplitude_ratio": correlation.amplitude_ratio,
        "lmd": mouth_landmark_distance(generated, real),
        "motion_amplitude": motion_amplitude(generated),
    }


def _mouth_box() -> tuple[slice, slice]:
    """The block of the crop around the mouth mask, with room for the metrics' windows."""
    rows, columns = np.flatnonzero(mouth_mask().any(1)), np.flatnonzero(mouth_mask().any(0))
    return slice(rows[0] - 8, rows[-1] + 9), slice(columns[0] - 8, columns[-1] + 9)


def picture_figures(crops: np.ndarray, real: np.ndarray) -> Figures:
    """PSNR (dB) and SSIM inside the mouth region of aligned crops, uint8 [T, 256, 256, 3] each, to the shorter's end."""
    box = _mouth_box()
    mask = mouth_mask()[box]
    pairs = [(crop[box], truth[box]) for crop, truth in zip(crops, real, strict=False)]
    return {"psnr_mouth": float(np.mean([psnr(*pair, mask) for pair in pairs])),
            "ssim_mouth": float(np.mean([ssim(*pair, mask) for pair in pairs]))}


def sharpness_ratio(crops: np.ndarray, reconstruction: np.ndarray) -> float:
    """Mean variance of the Laplacian in the mouth region over that of the autoencoder's reconstruction of the real crops.

    1 = as sharp as the decoder can be; uint8 [T, 256, 256, 3] each, of any two lengths.
    """
    box = _mouth_box()
    mask = mouth_mask()[box]
    generated, attainable = (np.mean([laplacian_variance(crop[box], mask) for crop in video]) for video in (crops, reconstruction))
    return float(generated / attainable)


def steadiness_figures(frames: np.ndarray, matrix: np.ndarray) -> Figures:
    """Flicker of whole frames, uint8 [T, H, W, 3], made from one photo whose affine to the crop is `matrix`; in levels.

    Outside the mouth it is 0 by construction.
    """
    # Widened by 4 crop pixels: landmarks of the evaluation and of the pipeline may differ by a fraction of one.
    reach = cv2.dilate((mouth_mask() > 0).astype(np.float32), np.ones((9, 9), np.uint8))
    mask = cv2.warpAffine(np.dstack([mouth_mask(), reach]), matrix, frames.shape[2:0:-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    # Where a face is smaller than the crop, the blend averages: its edge reaches one pixel further.
    outside = cv2.dilate(mask[..., 1], np.ones((3, 3), np.uint8)) == 0
    return {
        "flicker_outside_mouth": flicker_std(frames, outside),
        "temporal_l1_mouth": temporal_l1(frames, mask[..., 0]),
        "flicker_std_of_differences_mouth": flicker_std_of_differences(frames, mask[..., 0]),
    }


def closure_figures(landmarks: np.ndarray, visemes: np.ndarray) -> Figures:
    """Median lip opening (interocular distances) of frames heard as silence, as p/b/m and as `aa`.

    Landmarks [T, 131, 2], viseme probabilities [T, 15]; a viseme that does not occur has no entry.
    """
    length = min(len(landmarks), len(visemes))
    opening, heard = lip_opening(landmarks[:length]), visemes[:length].argmax(-1)
    return {f"opening_{name}": float(np.median(opening[heard == VISEME_INDEX[name]]))
            for name in ("sil", "PP", "aa") if (heard == VISEME_INDEX[name]).any()}


@torch.inference_mode()
def reconstruct(vae: AutoencoderTempoSync, crops: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """The autoencoder's reconstruction of crops, uint8 [T, 256, 256, 3] in and out: the most that a generator can reach."""
    batches = []
    for start in range(0, len(crops), batch_size):
        pixels = torch.from_numpy(np.ascontiguousarray(crops[start:start + batch_size])).permute(0, 3, 1, 2)
        decoded = vae.decode(vae.encode(pixels.to(vae.device, vae.dtype) / 127.5 - 1))
        batches.append(((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(batches)
