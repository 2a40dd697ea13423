"""The mouth of a film at rest, moved as a portrait's is, and put over the mouth that the film shows.

A denoiser can close an open mouth, but not without a trace, and a flow cannot unmake teeth.  So the lips of every frame are those of the
film's own frame, near in time and pose, in which they are closed: a plate, as film makers call a picture that others are laid over.  What
is around the lips, chin and cheeks, are the frame's own pixels, moved to where the new mouth wants them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from ..face.crop import CROP_SIZE, crop_face, invert, mouth_mask
from ..face.landmarks import GROUPS
from ..face.mouth_box import MouthBox, Patch, window_of
from ..face.pose import compose
from ..face.warp import tone_difference
from .live import Mouth
from .portrait import SHUT_OPENING, Portrait

# Landmarks by which two poses of an aligned face are compared: where the nose is, seen from the eyes.
POSE = np.r_[GROUPS["nose_bridge"], GROUPS["nose_base"]]
# Crop pixels that a lip opening of one interocular distance counts as when a plate is chosen, and by how many a new plate must be better.
OPEN_COST, BETTER_BY = 76.0, 1.0
MOST_PLATES = 8  # are kept of a run
# Crop pixels around the lips that are the plate's, and over which it fades.
AROUND_LIPS, FADE = 8, 2.5
# How far lips of which nothing is known may move, crop pixels, and the most that is believed of others.
USUAL_REACH, MOST_REACH = 20.0, 40.0
_LIPS = GROUPS["outer_lips"]


@dataclass
class Plate:
    """A frame with a mouth at rest: the portrait of it, landmarks [131, 2] in its crop, its lip opening, and what makes its latents."""

    portrait: Portrait
    landmarks: np.ndarray
    opening: float
    mouth: Mouth


class Frame(Protocol):
    """What is chosen among: landmarks [131, 2] in the crop, and lip opening."""

    @property
    def landmarks(self) -> np.ndarray: ...

    @property
    def opening(self) -> float: ...


class Plates:
    """The plates of one run of frames; `make` makes one of a frame."""

    def __init__(self, make: Callable[[Any], Plate]):
        self._make = make
        self._kept: list[Plate] = []
        self._last: Plate | None = None

    def choose(self, frames: Sequence[Frame], after: Sequence[Frame]) -> tuple[Plate | None, Plate]:
        """(the plate of the frames before, if these get another one, the plate of these), given what comes after them."""
        pose = np.mean([frame.landmarks[POSE] for frame in frames], 0)
        cost = min((plate_cost(plate.landmarks, plate.opening, pose) for plate in self._kept), default=np.inf)
        candidates = [(plate_cost(frame.landmarks, frame.opening, pose), index) for index, frame in enumerate((*frames, *after))]
        least, index = min(candidates)
        if least < cost - BETTER_BY:
            self._kept = [*self._kept[-MOST_PLATES + 1:], self._make((*frames, *after)[index])]
        best = min(self._kept, key=lambda plate: plate_cost(plate.landmarks, plate.opening, pose))
        last = self._last
        if last is not None and plate_cost(last.landmarks, last.opening, pose) < \
                plate_cost(best.landmarks, best.opening, pose) + BETTER_BY:
            best = last
        self._last = best
        return (None if best is last else last), best


def plate_cost(landmarks: np.ndarray, opening: float, pose: np.ndarray) -> float:
    """How badly a frame with `landmarks` [131, 2] in its crop serves as plate of one whose landmarks `POSE` are `pose`; crop pixels."""
    return float(np.linalg.norm(landmarks[POSE] - pose, axis=-1).mean()) + OPEN_COST * max(opening - SHUT_OPENING, 0.0)


def lay_plate(
    picture: np.ndarray, matrix: np.ndarray, landmarks: np.ndarray, plate: Plate, mouth: np.ndarray, reach: float
) -> Patch:
    """What changes in a picture uint8 [h, w, 3] when the plate's lips are laid over its own.

    Args:
        matrix, landmarks: the picture's affine to the crop [2, 3], landmarks [131, 2] in the crop. mouth: the plate's picture, speaking.
        reach: how far the lips have moved from rest, crop pixels.
    """
    box = MouthBox(picture.shape[:2], matrix)
    if box.rectangle.is_empty:
        return Patch(0, 0, picture[:0, :0])
    lips = _lip_region(landmarks[_LIPS], plate.landmarks[_LIPS], min(reach, MOST_REACH))
    own, laid = crop_face(picture, matrix), crop_face(mouth, plate.portrait.matrix)
    tone = tone_difference(window_of(laid).astype(np.float32), window_of(own).astype(np.float32), window_of(lips))
    soft = cv2.GaussianBlur(cv2.erode(lips, np.ones((5, 5), np.uint8)), (0, 0), FADE) * mouth_mask()
    field = box.to_photo(np.dstack([tone, window_of(soft)]))
    y0, y1, x0, x1 = box.rectangle
    to_picture = compose(invert(matrix), plate.portrait.matrix) - np.array([[0, 0, x0], [0, 0, y0]])
    moved = cv2.warpAffine(mouth, to_picture, (x1 - x0, y1 - y0), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    before, share = box.rectangle.of(picture).astype(np.float32), field[..., 3:]
    pixels = before + share * (moved + field[..., :3] - before)
    return Patch(y0, x0, np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _lip_region(own: np.ndarray, plates: np.ndarray, reach: float) -> np.ndarray:
    """Where there are lips, the frame's, the plate's, or those that have moved away from it: float32 [256, 256], 0 or 1."""
    points = np.concatenate([own, plates, plates + [0, reach], plates - [0, reach / 4]]).astype(np.float32)
    region = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
    cv2.fillConvexPoly(region, np.round(cv2.convexHull(points)).astype(np.int32), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * AROUND_LIPS + 1, 2 * AROUND_LIPS + 1))
    return cv2.dilate(region, disc).astype(np.float32)
