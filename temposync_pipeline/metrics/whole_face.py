"""What only a face that moves as a whole can be measured by: its head and lids beside a real talker's, its clips' joints, and what coding
it loses.

Landmarks [T, 131, 2] are in pixels of one crop for the whole clip, that of its first frame, in which the head moves.
"""

import numpy as np

from ..face.crop import CROP_SIZE, align_matrix, crop_face, similarity, smooth_matrices, transform_points
from ..face.landmarks import GROUPS, RIGID, lid_opening
from ..face.lip_shape import smooth_over_time
from .image import psnr
from .talking_face import MAX_PSNR

Figures = dict[str, float]
FPS = 25
# Landmarks tremble from frame to frame; a head does not, lids hardly.
HEAD_SMOOTHING, LID_SMOOTHING = 1.5, 0.5
# A lid is down below this share of the eye's usual opening: a face mesh still reads a quarter of a closed eye.
BLINK = 0.6
MOUTH = (64, 96)  # height and width of the box around the lips, in crop pixels


def in_first_crop(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks [T, 131, 2] of any picture in pixels of the first frame's crop."""
    return transform_points(align_matrix(landmarks[0]), landmarks)


def steadied(crops: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Crops uint8 [T, 256, 256, 3], aligned frame by frame after their landmarks [T, 131, 2], as talkers' clips are: the head is held."""
    matrices = smooth_matrices(np.stack([align_matrix(points) for points in landmarks]))
    return np.stack([crop_face(crop, matrix) for crop, matrix in zip(crops, matrices, strict=True)])


def head_places(landmarks: np.ndarray) -> np.ndarray:
    """Where the head is against the first frame, [T, 3]: shift of the upper face in crop pixels, to the right and down; roll in degrees."""
    similarities = np.stack([similarity(landmarks[0, RIGID], points[RIGID]) for points in landmarks])
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


def seam(crops: np.ndarray, first_frames: np.ndarray) -> float | None:
    """Mean |I(t) - I(t - 1)| where a clip begins (`first_frames`) over the median everywhere else, 1 = no jump; None without a joint.

    crops: uint8 [T, H, W, 3].
    """
    change = np.array([np.abs(after.astype(np.int16) - before).mean() for before, after in zip(crops, crops[1:])])
    if not len(first_frames):
        return None
    inside = np.delete(change, first_frames - 1)
    return float(change[first_frames - 1].mean() / max(float(np.median(inside)), 1e-6))


def mouth_boxes(landmarks: np.ndarray) -> list[tuple[slice, slice]]:
    """The box of `MOUTH` pixels around the lips of each frame, landmarks [T, 131, 2] in crop pixels, as far as it lies in the crop."""
    corners = np.rint(landmarks[:, GROUPS["outer_lips"]].mean(1)[:, ::-1] - np.array(MOUTH) / 2).astype(int)
    corners = corners.clip(0, CROP_SIZE - np.array(MOUTH))
    return [(slice(row, row + MOUTH[0]), slice(column, column + MOUTH[1])) for row, column in corners]


def coding_figures(coded: np.ndarray, real: np.ndarray, landmarks: np.ndarray) -> Figures:
    """What is left of real crops uint8 [T, 256, 256, 3], one crop for the whole clip, once they were coded and decoded.

    `psnr_crop` and `psnr_crop_mouth` in dB; `mouth_change_ratio`, how much the mouth changes from frame to frame over how much it should,
    1 = nothing is smoothed away.  The mouth is where the real one is, landmarks [T, 131, 2] in crop pixels.
    """
    boxes = mouth_boxes(landmarks)
    values = [[psnr(made, true), psnr(made[box], true[box])] for made, true, box in zip(coded, real, boxes, strict=True)]
    change = np.array([[np.abs(video[frame + 1][box].astype(np.int16) - video[frame][box]).mean() for video in (coded, real)]
                       for frame, box in enumerate(boxes[:-1])]).sum(0)
    figures = dict(zip(("psnr_crop", "psnr_crop_mouth"), np.minimum(values, MAX_PSNR).mean(0).tolist(), strict=True))
    return figures | {"mouth_change_ratio": float(change[0] / max(change[1], 1e-6))}
