"""Steadiness over time of videos [T, H, W, 3] in 0..255; `mask` [H, W] in [0, 1] says which pixels count.

A still video scores perfectly on all of these: read them beside `metrics.lips.motion_amplitude`.
"""

import numpy as np


def _masked_mean(values: np.ndarray, mask: np.ndarray | None) -> float:
    return float(values.mean() if mask is None else (values * mask).sum() / mask.sum() / (values.size / mask.size))


def _differences(frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames, np.float32)
    if len(frames) < 2:
        raise ValueError("steadiness over time needs at least two frames")
    return frames[1:] - frames[:-1]


def temporal_l1(frames: np.ndarray, mask: np.ndarray | None = None) -> float:
    """mean |I(t+1) − I(t)| in levels, 0 = still (the temporal proxy of arXiv 2603.06057)."""
    return _masked_mean(np.abs(_differences(frames)).mean(-1), mask)


def flicker_std(frames: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Our flicker: each pixel's standard deviation over time, averaged over pixels; levels, 0 = still.

    mean_p std_t I(t, p).  For regions that should not move at all, such as everything outside the mouth.
    """
    return _masked_mean(np.asarray(frames, np.float32).std(0).mean(-1), mask)


def flicker_std_of_differences(frames: np.ndarray, mask: np.ndarray | None = None) -> float:
    """The flicker of arXiv 2603.06057: standard deviation over time of pixel differences, averaged over pixels; levels.

    mean_p std_t (I(t+1, p) − I(t, p)).
    """
    return _masked_mean(_differences(frames).std(0).mean(-1), mask)
