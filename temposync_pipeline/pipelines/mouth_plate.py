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
from ..face.landmarks import GROUPS, LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER
from ..face.mouth_box import MouthBox, Patch, window_of
from ..face.pose import compose
from ..face.warp import tone_difference
from .live import Mouth
from .portrait import SHUT_OPENING, Portrait

# Landmarks by which two poses of an aligned face are compared: where the nose is, seen from the eyes.
POSE = np.r_[GROUPS["nose_bridge"], GROUPS["nose_base"]]
# Crop pixels that a lip opening of one interocular distance counts as when a plate is chosen, and by how many a new plate must be better.
OPEN_COST, BETTER_BY = 76.0, 1.0
# And that a crop pixel counts as by which a mouth is less wide than those of most people at rest (ICT-FaceKit's mean head, 50.7 of 65 mm):
# rounded lips are shut as often as not, and are at rest in nothing that is said with them.
NARROW_COST, WIDTH_AT_REST = 0.5, 59.0
# And a crop pixel by which the denoiser would close it in silence: then it takes the mouth for an open one, whatever it looks like.
CLOSING_COST = 2.0
MOST_PLATES, MOST_TRIED = 8, 3  # are kept of a run; and made anew at a time
# Crop pixels around the lips that are the plate's, and over which it fades.
AROUND_LIPS, FADE = 8, 2.5
# How far lips of which nothing is known may move, crop pixels, and the most that is believed of others.
USUAL_REACH, MOST_REACH = 20.0, 40.0
_LIPS = GROUPS["outer_lips"]


@dataclass
class Plate:
    """A frame with a mouth at rest: the portrait of it, landmarks [131, 2] in its crop, its lip opening, and what makes its latents;
    `closing`: how far these close it in silence, crop pixels."""

    portrait: Portrait
    landmarks: np.ndarray
    opening: float
    mouth: Mouth
    closing: float = 0.0


class Frame(Protocol):
    """What is chosen among: landmarks [131, 2] in the crop, and lip opening."""

    @property
    def landmarks(self) -> np.ndarray: ...

    @property
    def opening(self) -> float: ...


class Plates:
    """The plates of one run of frames; `make` makes one of a frame and all that it was chosen from."""

    def __init__(self, make: Callable[[Any, Sequence[Any]], Plate]):
        self._make = make
        self._kept: list[Plate] = []
        self._last: Plate | None = None

    def choose(self, frames: Sequence[Frame], after: Sequence[Frame]) -> tuple[Plate | None, Plate]:
        """(the plate of the frames before, if these get another one, the plate of these), given what comes after them."""
        pose = np.mean([frame.landmarks[POSE] for frame in frames], 0)
        near = (*frames, *after)
        cost = min((plate_cost(plate, pose) for plate in self._kept), default=np.inf)
        untried = [index for index, frame in enumerate(near)
                   if not any(np.array_equal(frame.landmarks, plate.landmarks) for plate in self._kept)]
        for least, index in sorted((plate_cost(near[index], pose), index) for index in untried)[:MOST_TRIED]:
            if least >= cost - BETTER_BY:
                break
            self._kept = [*self._kept[-MOST_PLATES + 1:], self._make(near[index], near)]
            cost = min(cost, plate_cost(self._kept[-1], pose))
        best, last = min(self._kept, key=lambda plate: plate_cost(plate, pose)), self._last
        if last is not None and plate_cost(last, pose) < plate_cost(best, pose) + BETTER_BY:
            best = last
        self._last = best
        return (None if best is last else last), best


def plate_cost(frame: Frame | Plate, pose: np.ndarray) -> float:
    """How badly a frame serves as plate of one whose landmarks `POSE` are `pose`; crop pixels.  Of a plate more is known."""
    narrower = WIDTH_AT_REST - float(np.linalg.norm(frame.landmarks[LEFT_MOUTH_CORNER] - frame.landmarks[RIGHT_MOUTH_CORNER]))
    off_rest = OPEN_COST * max(frame.opening - SHUT_OPENING, 0.0) + NARROW_COST * max(narrower, 0.0)
    if isinstance(frame, Plate):
        off_rest += CLOSING_COST * max(frame.closing, 0.0)
    return float(np.linalg.norm(frame.landmarks[POSE] - pose, axis=-1).mean()) + off_rest


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
