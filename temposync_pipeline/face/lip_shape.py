"""The shape of a speaking mouth in six numbers that mean the same on every face.

A talker's own shape at rest is zero, so the numbers can be heard in a voice, drawn on a stranger's portrait, and read off any landmarks.
A linear map of them explains 95 % of how 14 talkers' lips and chins move.
"""

import numpy as np

from .landmarks import CHIN, GROUPS, MIRROR, NUM_LANDMARKS, interocular_distance, lip_opening

# Landmark numbers: lower edge from the subject's right mouth corner (0) to the left one (10), then back along the upper edge.
_OUTER, _NOSE_BASE = (np.arange(NUM_LANDMARKS)[GROUPS[name]] for name in ("outer_lips", "nose_base"))
LIP_SHAPE = ("opening", "width", "upper_lip", "lower_lip", "corners", "jaw")
NUM_LIP_SHAPE = len(LIP_SHAPE)
OPENING = LIP_SHAPE.index("opening")
# Their standard deviations over 182 clips of 14 talkers, in interocular distances: the unit that networks hear and say them in.
TYPICAL_MOTION = np.float32([0.083, 0.044, 0.022, 0.067, 0.027, 0.044])


def smooth_over_time(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing of [T, ...] along its first axis, sigma in frames; the ends repeat."""
    radius = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.pad(values, ((radius, radius), *((0, 0),) * (values.ndim - 1)), mode="edge")
    return sum(weight * padded[i:i + len(values)] for i, weight in enumerate(kernel / kernel.sum()))


def rest_shape(landmarks: np.ndarray) -> np.ndarray:
    """A talker's closed, silent face, float32 [131, 2]: the mean of the tenth of frames [T, 131, 2] with the smallest lip opening."""
    opening = lip_opening(landmarks)
    return landmarks[np.argsort(opening, kind="stable")[:max(3, len(opening) // 10)]].mean(0).astype(np.float32)


def displacement_from_rest(landmarks: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """How far landmarks [T, 131, 2] in crop pixels have moved from the talker's `rest` [131, 2] by speech, [T, 131, 2].

    The head nods: what moves the base of the nose moves the mouth too, and is no speech.  Speech is nearly symmetric; a turned head is
    not: left and right are averaged.
    """
    nod = smooth_over_time((landmarks[:, _NOSE_BASE] - rest[_NOSE_BASE]).mean(1, keepdims=True), 3.0)
    displacement = landmarks - rest - nod
    return (displacement + displacement[:, MIRROR] * [-1, 1]) / 2


def lip_shape(landmarks: np.ndarray, rest: np.ndarray, smoothing: float = 0.6) -> np.ndarray:
    """`LIP_SHAPE` of landmarks [T, 131, 2] in crop pixels over time, float32 [T, 6], in interocular distances.

    Against the talker's `rest` [131, 2] (`rest_shape`): widths grow outwards, the upper lip upwards, lower lip, corners and jaw downwards.
    `opening` is `lip_opening` itself, 0 = closed.  Smoothed over time by `smoothing` frames against the landmarks' jitter.
    """
    moved = displacement_from_rest(landmarks, rest) / interocular_distance(rest)
    shape = np.stack([
        lip_opening(landmarks),
        moved[:, _OUTER[10], 0] - moved[:, _OUTER[0], 0],
        -moved[:, _OUTER[14:17], 1].mean(1),
        moved[:, _OUTER[4:7], 1].mean(1),
        moved[:, _OUTER[[0, 10]], 1].mean(1),
        moved[:, CHIN, 1],
    ], axis=1)
    return smooth_over_time(shape, smoothing).astype(np.float32)
