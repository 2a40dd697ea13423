"""Steadiness over time of videos [T, H, W, 3] in 0..255; `mask` [H, W] in [0, 1] says which pixels count.

A still video scores perfectly on all of these: read them beside `metrics.lips.motion_amplitude`.
"""

import cv2
import numpy as np

from .optical_flow import optical_flow, visible_mask

FLOW_MARGIN = 16  # pixels around the mask that the optical flow may look at


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
    """The flicker of arXiv 2603.06057: standard deviation over time of pixel differences, averaged over pixels; levels, 0 = steady.

    mean_p std_t (I(t+1, p) − I(t, p)).
    """
    return _masked_mean(_differences(frames).std(0).mean(-1), mask)


def pixel_std(frames: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Ours, not the paper's: each pixel's standard deviation over time, averaged over pixels; levels, 0 = still.

    mean_p std_t I(t, p).  For regions that should not move at all, such as everything outside the mouth.
    """
    return _masked_mean(np.asarray(frames, np.float32).std(0).mean(-1), mask)


def warping_error(frames: np.ndarray, mask: np.ndarray) -> float:
    """E_warp in levels, 0 = whatever changes is motion; frames uint8.

    Σ M ⊙ |I(t+1) − W(I(t))| / Σ M over neighbouring frames: M leaves out occlusions and weighs pixels by `mask`, W warps by optical flow.
    The form is that of equation 9 of arXiv 2603.06057 (Lai et al. 2018, eq. 11, square the difference); the flow is the video's own,
    so that a generated video without a real counterpart can be measured, too.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.s_[max(rows[0] - FLOW_MARGIN, 0):rows[-1] + FLOW_MARGIN + 1, max(columns[0] - FLOW_MARGIN, 0):columns[-1] + FLOW_MARGIN + 1]
    mask, frames = mask[box], [frame[box] for frame in frames]
    places = np.stack(np.meshgrid(*(np.arange(side, dtype=np.float32) for side in mask.shape[::-1])), -1)
    error = weight = 0.0
    for before, after in zip(frames, frames[1:]):
        flow = optical_flow(after, before)
        kept = mask * visible_mask(flow, optical_flow(before, after))
        warped = cv2.remap(before.astype(np.float32), places + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        error += float((kept * np.abs(after - warped).mean(-1)).sum())
        weight += float(kept.sum())
    return error / max(weight, 1e-9)


class RunningSteadiness:
    """`temporal_l1` and `flicker_std` of frames [H, W, 3] that come one at a time: nothing is kept but sums and the last frame.

    `mask` [H, W] as above, None = all pixels count.
    """

    def __init__(self, mask: np.ndarray | None = None):
        self._mask, self._last = mask, None
        self._begin()

    def _begin(self) -> None:
        self._count, self._change, self._sum, self._squares = 0, 0.0, np.float64(0), np.float64(0)

    def add(self, frame: np.ndarray) -> None:
        frame = np.asarray(frame, np.float32)
        if self._last is not None:
            difference = frame - self._last
            self._count += 1
            self._change += _masked_mean(np.abs(difference).mean(-1)[None], self._mask)
            self._sum = self._sum + difference
            self._squares = self._squares + difference * difference
        self._last = frame

    def take(self) -> dict[str, float]:
        """{"temporal_l1", "flicker_std"} of what came since the last call, in levels; the next frame is compared with the last one still.

        Empty where there was nothing to compare.
        """
        if not self._count:
            return {}
        variance = np.maximum(self._squares / self._count - np.square(self._sum / self._count), 0)
        figures = {"temporal_l1": self._change / self._count, "flicker_std": _masked_mean(np.sqrt(variance).mean(-1)[None], self._mask)}
        self._begin()
        return figures
