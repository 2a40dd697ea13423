"""The figures of one video of the aligned crop: dictionaries of plain floats, ready for JSON."""

import cv2
import numpy as np

from ..face.crop import LATENT_STRIDE, LATENT_WINDOW, mouth_mask
from ..face.landmarks import lip_opening
from ..models.visemes import VISEME_INDEX
from .image import laplacian_variance, psnr, ssim
from .lips import lip_correlation, motion_amplitude, mouth_landmark_distance
from .temporal import flicker_std, pixel_std, temporal_l1, warping_error

Figures = dict[str, float]
LIPS = (slice(144, 208), slice(80, 176))  # of the crop: where lips, teeth and tongue appear
MAX_PSNR = 99.0  # dB that equal pictures count as, so that means stay finite


def lip_figures(generated: np.ndarray, real: np.ndarray) -> Figures:
    """How the generated lips follow the real ones; landmarks [T, 131, 2] each.

    `lip_r` is Pearson's r of the lip opening at lag 0, `best_lag` in frames (> 0: generated lips late),
    `lag_within_one_frame` 1 or 0, so that its mean is the share of clips, `lmd` and `motion_amplitude` in interocular distances.
    """
    length = min(len(generated), len(real))
    generated, real = generated[:length], real[:length]
    return opening_figures(lip_opening(generated), lip_opening(real)) | {
        "lmd": mouth_landmark_distance(generated, real), "motion_amplitude": motion_amplitude(generated)}


def opening_figures(generated: np.ndarray, real: np.ndarray) -> Figures:
    """The figures of `lip_figures` that need no more than the opening of the lips, [T] each, in interocular distances."""
    correlation = lip_correlation(generated, real)
    return {
        "lip_r": correlation.r,
        "best_lag": correlation.best_lag,
        "lag_within_one_frame": float(abs(correlation.best_lag) <= 1),
        "lip_r_at_best_lag": correlation.r_at_best_lag,
        "amplitude_ratio": correlation.amplitude_ratio,
    }


def generated_block() -> tuple[slice, slice]:
    """Rows and columns of the crop that the denoiser generates: the pixels of `LATENT_WINDOW`, 160 × 192."""
    top, left, height, width = (LATENT_STRIDE * cells for cells in LATENT_WINDOW)
    return slice(top, top + height), slice(left, left + width)


def picture_figures(crops: np.ndarray, real: np.ndarray) -> Figures:
    """PSNR (dB) and SSIM against the real frames, mean over frames; aligned crops uint8 [T, 256, 256, 3] each, to the shorter's end.

    `psnr`, `ssim`: the whole crop, in which a portrait's head does not move as the real one does; `psnr_mouth`, `ssim_mouth`: the mouth
    region, all that is generated, weighted by `mouth_mask`.
    """
    block = generated_block()
    mask = mouth_mask()[block]
    values = [[psnr(crop, truth), ssim(crop, truth), psnr(crop[block], truth[block], mask), ssim(crop[block], truth[block], mask)]
              for crop, truth in zip(crops, real, strict=False)]
    return _mean_over_frames(("psnr", "ssim", "psnr_mouth", "ssim_mouth"), values)


def reconstruction_figures(crops: np.ndarray, reconstruction: np.ndarray) -> Figures:
    """PSNR (dB) against the autoencoder's reconstruction D(E(I)) of the real frames, by which arXiv 2603.06057 judges its denoisers.

    `psnr_vae`: the mouth region, weighted by `mouth_mask`; `psnr_vae_lips`: the box `LIPS` around lips, teeth and tongue.
    """
    values = [[psnr(crop, truth, mouth_mask()), psnr(crop[LIPS], truth[LIPS])]
              for crop, truth in zip(crops, reconstruction, strict=False)]
    return _mean_over_frames(("psnr_vae", "psnr_vae_lips"), values)


def _mean_over_frames(names: tuple[str, ...], values: list) -> Figures:
    return {name: float(value) for name, value in zip(names, np.minimum(values, MAX_PSNR).mean(0), strict=True)}


def sharpness_ratio(crops: np.ndarray, reconstruction: np.ndarray) -> float:
    """Mean variance of the Laplacian in the mouth region over that of the autoencoder's reconstruction of the real crops.

    1 = as sharp as the decoder can be; uint8 [T, 256, 256, 3] each, of any two lengths.
    """
    block = generated_block()
    mask = mouth_mask()[block]
    generated, attainable = (np.mean([laplacian_variance(crop[block], mask) for crop in video]) for video in (crops, reconstruction))
    return float(generated / max(attainable, 1e-9))


def steadiness_figures(crops: np.ndarray) -> Figures:
    """Temporal L1, the paper's flicker and the warping error in the mouth region of aligned crops uint8 [T, 256, 256, 3], in levels."""
    block = generated_block()
    mask, mouths = mouth_mask()[block], crops[:, *block]
    return {"temporal_l1": temporal_l1(mouths, mask), "flicker_std": flicker_std(mouths, mask), "e_warp": warping_error(mouths, mask)}


def reach_of(mask: np.ndarray, matrix: np.ndarray, shape: tuple[int, int], margin: int) -> np.ndarray:
    """Where a mask of the crop [256, 256], widened by `margin` crop pixels, reaches in a picture of `shape` (height, width) whose affine to
    the crop is `matrix` [2, 3]: bool [H, W]."""
    reach = cv2.dilate((mask > 0).astype(np.float32), np.ones((2 * margin + 1,) * 2, np.uint8))
    reach = cv2.warpAffine(reach, matrix, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    # Where a face is smaller than the crop, the blend averages: its edge reaches one pixel further.
    return cv2.dilate(reach, np.ones((3, 3), np.uint8)) > 0


def change_outside(frames: np.ndarray, matrix: np.ndarray, mask: np.ndarray) -> float:
    """`pixel_std` outside a mask of the crop, [256, 256], of whole frames uint8 [T, H, W, 3] made from one photo whose affine to the crop
    is `matrix`.

    In levels; 0 by construction.
    """
    # Landmarks of the evaluation and of the pipeline may differ by a fraction of a pixel.
    return pixel_std(frames, ~reach_of(mask, matrix, frames.shape[1:3], margin=4))


def closure_figures(landmarks: np.ndarray, visemes: np.ndarray) -> Figures:
    """Median lip opening (interocular distances) of frames heard as silence, as p/b/m and as `aa`.

    Landmarks [T, 131, 2], viseme probabilities [T, 15]; a viseme that does not occur has no entry.
    """
    length = min(len(landmarks), len(visemes))
    opening, heard = lip_opening(landmarks[:length]), visemes[:length].argmax(-1)
    return {f"opening_{name}": float(np.median(opening[heard == VISEME_INDEX[name]]))
            for name in ("sil", "PP", "aa") if (heard == VISEME_INDEX[name]).any()}
