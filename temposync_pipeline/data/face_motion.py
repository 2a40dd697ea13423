"""How whole faces move, and the same motion on another person's photograph.

`data.retarget` moves a photograph's mouth.  Here the rest follows: the head's small shifts, tilts and turns, lids and brows.  Everything
happens in one fixed crop; a thin-plate spline (Bookstein 1989) through the face's landmarks carries the photograph's own skin along and
fades to nothing at the crop's border, so that the background is not torn.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ..face.crop import CROP_SIZE, similarity, transform_points
from ..face.landmarks import EYES, GROUPS, LOWER_LID, NUM_LANDMARKS, RIGID, UPPER_LID, interocular_distance, lid_opening
from .mouth_warp import thin_plate_basis, thin_plate_spline

_ALL = np.arange(NUM_LANDMARKS)
_BROWS = np.concatenate([_ALL[GROUPS[name]] for name in ("right_brow", "left_brow")])
_NOSE = np.concatenate([_ALL[GROUPS[name]] for name in ("nose_bridge", "nose_base")])
_LOWER_FACE = np.concatenate([_ALL[GROUPS[name]] for name in ("face_oval", "outer_lips")])
_MOVING = np.concatenate([*EYES, _BROWS, _NOSE, _LOWER_FACE])
# Skin above a lid that is drawn out when it closes, lashes that are not, skin below the lower lid, in heights of the open eye; the upper
# lid's share of the way.
_SKIN_ABOVE, _LASHES, _SKIN_BELOW, _UPPER_WAY = 1.0, 0.25, 0.6, 0.85
# A driver's own expression around the eyes is followed by so much; its lids in full.
_BROW_SHARE, _TURN_SHARE = 0.8, 0.8
_GRID_STRIDE = 4
_EDGE = np.linspace(0, CROP_SIZE - 1, 9)
# Points on the crop's border and a little inside it: nothing may move there.
_BORDER = np.unique(np.concatenate([np.stack([a, b], 1) for inset in (0, 6) for a, b in (
    (_EDGE, np.full(9, inset)), (_EDGE, np.full(9, CROP_SIZE - 1 - inset)),
    (np.full(9, inset), _EDGE), (np.full(9, CROP_SIZE - 1 - inset), _EDGE))]), axis=0)
_AXIS = np.arange(0, CROP_SIZE, _GRID_STRIDE, dtype=np.float32)
_COARSE = np.stack(np.meshgrid(_AXIS, _AXIS), -1).reshape(-1, 2)
_HERE = np.stack(np.meshgrid(np.arange(CROP_SIZE, dtype=np.float32), np.arange(CROP_SIZE, dtype=np.float32)), -1)


@dataclass
class FaceMotion:
    """What T frames of a face do, all relative to that face at rest, so that another face can do it too.

    similarity: float32 [T, 2, 3], from places at rest to places in the frame, crop pixels. turn: [T, 2], how far the nose moves beyond
    that, in interocular distances. brows: [T, 10, 2], likewise. lids: [T, 2], how far the right and the left eye are open, 1 as at rest.
    """

    similarity: np.ndarray
    turn: np.ndarray
    brows: np.ndarray
    lids: np.ndarray

    def __len__(self) -> int:
        return len(self.lids)

    def __getitem__(self, frames: slice) -> "FaceMotion":
        return FaceMotion(self.similarity[frames], self.turn[frames], self.brows[frames], self.lids[frames])


def face_motion(landmarks: np.ndarray, rest: np.ndarray) -> FaceMotion:
    """Motion of a face with landmarks [T, 131, 2], whose shape at rest is `rest` [131, 2], both in one fixed crop."""
    scale = interocular_distance(rest)
    similarities = np.stack([similarity(rest[RIGID], points[RIGID]) for points in landmarks])
    back = np.stack([cv2.invertAffineTransform(matrix) for matrix in similarities])
    expression = np.stack([transform_points(matrix, points) - rest for matrix, points in zip(back, landmarks)]) / scale
    lids = np.clip(lid_opening(landmarks) / np.percentile(lid_opening(landmarks), 80, axis=0), 0, 1.15)
    return FaceMotion(similarities.astype(np.float32), expression[:, _NOSE].mean(1).astype(np.float32),
                      expression[:, _BROWS].astype(np.float32), lids.astype(np.float32))


def moved_landmarks(landmarks: np.ndarray, motion: FaceMotion, frame: int) -> np.ndarray:
    """Where the landmarks [131, 2] of a face at rest are in a frame of the motion, but for the lids; [131, 2]."""
    scale, points = interocular_distance(landmarks), landmarks.astype(np.float64).copy()
    points[_BROWS] += _BROW_SHARE * scale * motion.brows[frame]
    points[_NOSE] += _TURN_SHARE * scale * motion.turn[frame]
    centre = points[RIGID].mean(0)
    linear = motion.similarity[frame][:, :2].astype(np.float64)
    shift = transform_points(motion.similarity[frame], centre) - centre
    return (points - centre) @ linear.T + centre + shift


def move_face(crop: np.ndarray, landmarks: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The crop, uint8 [256, 256, 3], whose landmarks [131, 2] have moved to `target`; its border stays."""
    points = np.vstack([target[_MOVING], _BORDER]).astype(np.float64)
    shifts = np.vstack([(landmarks - target)[_MOVING], np.zeros(_BORDER.shape)])
    coefficients = thin_plate_spline(points, shifts, smoothing=1.0).astype(np.float32)
    size = len(_AXIS)
    coarse = (thin_plate_basis(_COARSE, points) @ coefficients).reshape(size, size, 2)
    to_coarse = np.float32([[1 / _GRID_STRIDE, 0, 0], [0, 1 / _GRID_STRIDE, 0]])
    shift = cv2.warpAffine(coarse, to_coarse, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                           borderMode=cv2.BORDER_REPLICATE)
    return cv2.remap(crop, _HERE + shift, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def close_lids(crop: np.ndarray, landmarks: np.ndarray, openings: np.ndarray) -> np.ndarray:
    """The crop, uint8 [256, 256, 3], with its eyes, at landmarks [131, 2], open only by the shares `openings` [2]; 1 = as they are.

    Column by column the skin above the eye is drawn out and its lashes come down with it, over an eyeball that stays where it is; the lower
    lid comes to meet them.
    """
    closed = crop.copy()
    for eye, opening in zip(EYES, np.clip(openings, 0, 1)):
        if opening > 0.98:
            continue
        contour = landmarks[eye].astype(np.float32)
        lower, upper = (lid[lid[:, 0].argsort()] for lid in (contour[np.r_[0, LOWER_LID, 8]], contour[np.r_[0, UPPER_LID, 8]]))
        x = np.arange(max(0, int(np.ceil(contour[:, 0].min()))), min(CROP_SIZE, int(contour[:, 0].max()) + 1), dtype=np.float32)
        top, bottom = np.interp(x, *upper.T), np.interp(x, *lower.T)
        gap = np.maximum(bottom - top, 0.5)
        start, end, lashes = top - _SKIN_ABOVE * gap.max(), bottom + _SKIN_BELOW * gap.max(), _LASHES * gap.max()
        y = np.arange(max(0, int(start.min())), min(CROP_SIZE, int(end.max()) + 2), dtype=np.float32)[:, None]
        lid, floor = top + _UPPER_WAY * (1 - opening) * gap, bottom - (1 - _UPPER_WAY) * (1 - opening) * gap
        above = np.where(y > lid - lashes, y - lid + top, start + (y - start) * (top - lashes - start) / (lid - lashes - start))
        below = end - (end - y) * (end - bottom) / (end - floor)
        box = np.s_[int(y[0, 0]):int(y[-1, 0]) + 1, int(x[0]):int(x[-1]) + 1]
        skin, cheek = (cv2.remap(crop, np.broadcast_to(x, rows.shape).astype(np.float32), rows.astype(np.float32), cv2.INTER_CUBIC)
                       .astype(np.float32) for rows in (np.where(y > start, above, y), np.where(y < end, below, y)))
        picture = crop[box] + np.clip(y - floor + 0.5, 0, 1)[..., None] * (cheek - crop[box])
        closed[box] = np.clip(np.rint(picture + np.clip(lid - y + 0.5, 0, 1)[..., None] * (skin - picture)), 0, 255)
    return closed


def blink_curve(frames: int, rng: np.random.Generator, rate: float = 0.35) -> np.ndarray:
    """Lid openings [frames] in [0, 1] with blinks, `rate` a second on average, at 25 frames a second.

    A lid closes in about 0.1 s and opens in about 0.2 s (Evinger, Manning & Sibony 1991).
    """
    shape = np.float32([0.75, 0.25, 0.02, 0.05, 0.35, 0.65, 0.85, 0.95])
    opening = np.ones(frames + len(shape), np.float32)
    for start in np.flatnonzero(rng.random(frames) < rate / 25):
        opening[start:start + len(shape)] = np.minimum(opening[start:start + len(shape)], shape)
    return opening[:frames]
