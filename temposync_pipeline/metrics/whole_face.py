"""What only a face that moves as a whole can be measured by: its head and lids beside a real talker's, and its clips' joints.

Landmarks [T, 131, 2] are in pixels of one crop for the whole clip, that of its first frame, in which the head moves.
"""

import numpy as np

from ..data.face_motion import lid_opening, similarity_between
from ..face.crop import align_matrix, crop_face, smooth_matrices, transform_points
from ..face.landmarks import RIGID
from ..face.lip_shape import smooth_over_time

Figures = dict[str, float]
FPS = 25
# Landmarks tremble from frame to frame; a head does not, lids hardly.
HEAD_SMOOTHING, LID_SMOOTHING = 1.5, 0.5
# A lid is down below this share of the eye's usual opening: a face mesh still reads a quarter of a closed eye.
BLINK = 0.6


def in_first_crop(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks [T, 131, 2] of any picture in pixels of the first frame's crop."""
    return transform_points(align_matrix(landmarks[0]), landmarks)


def steadied(crops: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Crops uint8 [T, 256, 256, 3], aligned frame by frame after their landmarks [T, 131, 2], as talkers' clips are: the head is held."""
    matrices = smooth_matrices(np.stack([align_matrix(points) for points in landmarks]))
    return np.stack([crop_face(crop, matrix) for crop, matrix in zip(crops, matrices, strict=True)])


def head_places(landmarks: np.ndarray) -> np.ndarray:
    """Where the head is against the first frame, [T, 3]: shift of the upper face in crop pixels, to the right and down; roll in degrees."""
    similarities = np.stack([similarity_between(landmarks[0], points) for points in landmarks])
    centre = landmarks[0, RIGID].mean(0)
    shift = np.stack([transform_points(matrix, centre) - centre for matrix in similarities])
    roll = np.degrees(np.arctan2(similarities[:, 1, 0], similarities[:, 0, 0]))
    return smooth_over_time(np.column_stack([shift, roll]), HEAD_SMOOTHING)


def motion_figures(landmarks: np.ndarray) -> Figures:
    """How a face moves beside its lips: `head_shift`, deviation of its place over time in crop pixels, `head_roll` in degrees, `lids`,
    deviation of how far the eyes are open, 1 = as usual, and `blinks` a minute."""
    places, lids = head_places(landmarks), lid_opening(landmarks).mean(-1)
    lids = smooth_over_time((lids / np.median(lids))[:, None], LID_SMOOTHING)[:, 0]
    down = lids < BLINK
    blinks = int((down[1:] & ~down[:-1]).sum() + down[0])
    return {"head_shift": float(np.hypot(*places[:, :2].std(0))), "head_roll": float(places[:, 2].std()), "lids": float(lids.std()),
            "blinks": 60 * FPS * blinks / len(landmarks)}


def whole_face_figures(generated: np.ndarray, real: np.ndarray) -> Figures:
    """`motion_figures` of a generated face and, with `_ratio`, those that are deviations over a real talker's, 1 = as much."""
    made, true = (motion_figures(in_first_crop(landmarks)) for landmarks in (generated, real))
    return made | {f"{name}_ratio": made[name] / max(true[name], 1e-6) for name in ("head_shift", "head_roll", "lids")}


def joints(frames: int, clip_frames: int, stride: int = 8) -> np.ndarray:
    """First video frames of all clips but the first: clips have `clip_frames` latent frames of `stride` frames and share one."""
    length = stride * (clip_frames - 1)
    return np.arange(length + 1, frames, length)


def seam(crops: np.ndarray, first_frames: np.ndarray) -> float | None:
    """Mean |I(t) - I(t - 1)| where a clip begins (`first_frames`) over the median everywhere else, 1 = no jump; None without a joint.

    crops: uint8 [T, H, W, 3].
    """
    change = np.array([np.abs(after.astype(np.int16) - before).mean() for before, after in zip(crops, crops[1:])])
    if not len(first_frames):
        return None
    inside = np.delete(change, first_frames - 1)
    return float(change[first_frames - 1].mean() / max(float(np.median(inside)), 1e-6))
