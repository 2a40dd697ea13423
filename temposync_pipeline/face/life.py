"""Life in a photograph: lids that blink, brows that rise with what is said, and a head that is never quite still.

Lids close with the photo's own skin and lashes, at its own resolution; the head moves as a whole, and turns a little by a shallow depth, in
a smooth field that fades to nothing around it, and brows in another between lids and forehead, so that nothing is torn.  What is doubtful
stays still: eyes that are nearly shut, or seen from the side, or that the face aligner is not sure of, brows likewise, and both behind
glasses.  Gaze stays as it is: the talkers' irises moved by 0.3 % of an eye's width across and 0.5 % up and down, which nobody sees.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .crop import crop_face, transform_points
from .landmarks import EYES, GROUPS, LOWER_LID, RIGID, UPPER_LID, interocular_distance
from .mouth_box import Patch, Rectangle

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator

# --- when: blinks and the motion of the head ---------------------------------------------------------------------------

# Of 14 talkers in 210 s of GRID, by the face aligner's landmarks: 61 blinks, by talker 0 to 0.75 a second, 0.31 in the mean; no rarer in
# speech than in pauses.  The clips of 3 s say little of how intervals spread: the deviation of their logarithm is chosen.
BLINKS_A_SECOND, BLINK_SPREAD, SHORTEST_INTERVAL = 0.31, 0.8, 0.35
# Seconds a lid takes to close, stays shut and takes to open, as in the median of those blinks (0.24 s at half depth); how far it is open
# when shut, 1 = as in the photo.
CLOSING, SHUT, OPENING, SHUT_OPENING = 0.10, 0.04, 0.28, 0.03
# By how much blinks differ in length: the deviation of its logarithm (a tenth of those blinks took 0.12 s or less, a tenth 0.44 s or more).
LENGTH_SPREAD = 0.4
# Of the head: shift to the right and down in interocular distances (IOD), tilt in radians, growth in shares, and how far the nose moves
# to the right and down beyond that, in IOD.  Standard deviations in speech, such that videos, measured as the talkers were, deviate as
# those do (0.018, 0.023, 0.0065, 0.0069, 0.0020 and 0.0045), and the seconds over which they change (correlation over 0.2 s: 0.4 to 0.7).
DEVIATION = np.array([0.0235, 0.0235, 0.0070, 0.0063, 0.0056, 0.0145])
CHANGE_SECONDS = 0.18
# Heads move faster in speech than in pauses, 1.5 times as fast; speech is followed over some seconds.
SILENT_SHARE, FOLLOW_SECONDS = 0.67, 0.6
# Raises of the brows, by the same talkers: 97 in those 210 s, 0.23 s wide at half their height; heights in IOD, median and deviation of the
# logarithm (a tenth are lower than 0.007, a tenth higher than 0.030), and the most that is drawn.  In the 0.4 s before them voices are 3 dB
# louder than at other times.
RAISE, RAISE_SPREAD, MOST_RAISE = 0.017, 0.5, 0.04
RISING, RAISED, SINKING = 0.16, 0.04, 0.24
# An accent: a voice so much louder (ln) than it was in the mean of some seconds, and not as soon as this after the last one; the share of
# accents that brows rise with, chosen such that they rise as often.
ACCENT, ACCENT_MEMORY, ACCENT_INTERVAL, ACCENT_SHARE = 0.25, 1.5, 0.6, 0.4


@dataclass(frozen=True)
class Life:
    """What a frame's life is: how far the lids are open, 1 = as in the photo, what the head does, [6] as in `DEVIATION`, and how far the
    brows are raised, in IOD."""

    lids: float
    head: np.ndarray
    brows: float = 0.0


class LifeTracks:
    """Life, frame by frame, without end and without repetition; the same seed gives the same.

    Args:
        seed: of all three, which do not depend on each other.
        fps: frames a second.
        blink_rate, head_motion: 1 = as often and as far as the talkers', 0 = never, not at all; brows move with the head's.
    """

    def __init__(self, seed: int, fps: float, blink_rate: float, head_motion: float):
        self.fps, self.blink_rate, self.head_motion = fps, blink_rate, head_motion
        self._blinks, self._noise, self._raises = (np.random.default_rng([seed, which]) for which in (0, 1, 2))

    def frames(self, voice: Iterable[tuple[float, float]]) -> Iterator[Life]:
        """A frame's life for each frame's share of speech in [0, 1] and its loudness (ln)."""
        voice = iter(voice)
        lids, head, brows = self._lids(), self._head(), self._brows()
        next(head), next(brows)
        for share, loudness in voice:
            yield Life(next(lids), self.head_motion * head.send(share), self.head_motion * brows.send((share, loudness)))

    def _lids(self) -> Iterator[float]:
        """Openings: blinks at intervals, and of lengths, whose logarithms are normally distributed."""
        frame, begin, length = 0, self._interval(), self._length()
        while True:
            since = (frame / self.fps - begin) / length
            yield blink_opening(since)
            frame += 1
            if since > CLOSING + SHUT + OPENING:
                begin, length = begin + self._interval(), self._length()

    def _interval(self) -> float:
        if not self.blink_rate:
            return float("inf")
        mean = 1 / (BLINKS_A_SECOND * self.blink_rate)
        drawn = mean * np.exp(BLINK_SPREAD * self._blinks.standard_normal() - BLINK_SPREAD**2 / 2)
        return max(SHORTEST_INTERVAL, float(drawn))

    def _length(self) -> float:
        return float(np.exp(LENGTH_SPREAD * self._blinks.standard_normal()))

    def _head(self):
        """A coroutine: noise through two equal low-passes one after the other, from rest, times what speech calls for."""
        kept, followed = (np.exp(-1 / (seconds * self.fps)) for seconds in (CHANGE_SECONDS, FOLLOW_SECONDS))
        # What the deviation of white noise becomes: of a cascade of two poles, Σ (n+1)² k²ⁿ = (1 + k²) / (1 - k²)³.
        scale = np.sqrt((1 - kept**2) ** 3 / (1 + kept**2))
        slow, smooth, share, motion = np.zeros(6), np.zeros(6), 0.0, None
        while True:
            speaking = yield motion
            share += (1 - followed) * (speaking - share)
            slow = kept * slow + scale * self._noise.standard_normal(6)
            smooth = kept * smooth + slow
            motion = (SILENT_SHARE + (1 - SILENT_SHARE) * share) * DEVIATION * smooth

    def _brows(self):
        """A coroutine: how far brows are raised, in IOD, which they are with some of the voice's accents, one raise after the other."""
        frame, begin, accent, height, usual, motion = 0, -np.inf, -np.inf, 0.0, None, None
        kept = np.exp(-1 / (ACCENT_MEMORY * self.fps))
        while True:
            share, loudness = yield motion
            now, speaks = frame / self.fps, share > 0.5
            usual = loudness if speaks and usual is None else usual
            if speaks and loudness > usual + ACCENT and now - accent > ACCENT_INTERVAL:
                accent, chosen, drawn = now, self._raises.random(), self._raises.standard_normal()
                if chosen < ACCENT_SHARE:
                    begin, height = now, min(RAISE * float(np.exp(RAISE_SPREAD * drawn)), MOST_RAISE)
            if speaks:
                usual = kept * usual + (1 - kept) * loudness
            motion = height * _there_and_back(now - begin, RISING, RAISED, SINKING)
            frame += 1


def blink_opening(since: float) -> float:
    """How far lids are open, `since` seconds after a blink began; before and after it 1."""
    return 1 - (1 - SHUT_OPENING) * _there_and_back(since, CLOSING, SHUT, OPENING)


def _there_and_back(since: float, going: float, staying: float, coming: float) -> float:
    """The share of the way of what goes, stays and comes back for so many seconds each, `since` seconds after it began."""
    way = since / going if since < going else 1 - (since - going - staying) / coming
    way = min(max(way, 0.0), 1.0)
    return way * way * (3 - 2 * way)


# --- where: lids -------------------------------------------------------------------------------------------------------

# Skin above a lid that is drawn out when it closes, lashes that are not, skin below the lower lid, in heights of the open eye; the upper
# lid's share of the way.
SKIN_ABOVE, LASHES, SKIN_BELOW, UPPER_WAY = 1.0, 0.25, 0.6, 0.85
# By how much of that height closed lids overlap what the landmarks call the eye: a sliver of white would be left in a corner.
OVERLAP = 0.12
# Eyes less open or less wide than this, in IOD, are left as they are, and so are those whose landmarks are less sure.
LEAST_OPEN, LEAST_WIDE, LEAST_SURE = 0.06, 0.28, 0.3
_OPEN = 0.98


class Lids:
    """The lids of one eye in a photo.

    Args:
        photo: uint8 [H, W, 3]. matrix: affine from photo to crop pixels, [2, 3]. contour: the eye's landmarks in the crop, [16, 2].
    """

    def __init__(self, photo: np.ndarray, matrix: np.ndarray, contour: np.ndarray):
        lower, upper = (_curve(contour[np.r_[0, lid, 8]]) for lid in (LOWER_LID, UPPER_LID))
        inside = np.linspace(contour[:, 0].min(), contour[:, 0].max(), 33)
        highest = float((lower(inside) - upper(inside)).max())
        back = cv2.invertAffineTransform(np.asarray(matrix, np.float64))
        margin = (1 + SKIN_ABOVE) * highest
        corners = transform_points(back, np.array([[x, y] for x in (inside[0], inside[-1])
                                                   for y in (contour[:, 1].min() - margin, contour[:, 1].max() + margin)]))
        size = np.array(photo.shape[1::-1])
        x0, y0 = np.clip(np.floor(corners.min(0)), 0, size).astype(int)
        x1, y1 = np.clip(np.ceil(corners.max(0)) + 1, 0, size).astype(int)
        self.box = Rectangle(int(y0), int(y1), int(x0), int(x1))
        self._pixel = float(np.sqrt(abs(np.linalg.det(np.asarray(matrix)[:, :2]))))  # crop pixels a photo pixel
        self._down = back[:, :2] @ [0, 1]  # a crop pixel downwards, in photo pixels
        self._places = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), -1).astype(np.float32)
        crop = transform_points(np.asarray(matrix, np.float64), self._places)
        self._y = crop[..., 1]
        x = np.clip(crop[..., 0], inside[0], inside[-1])
        # 1 in the eye's middle, 0 at its corners and beyond.
        self._within = _smoothstep(np.minimum(crop[..., 0] - inside[0], inside[-1] - crop[..., 0]) / (0.06 * (inside[-1] - inside[0])))
        self._inside = crop[..., 0] == x
        self._top, self._bottom = upper(x), lower(x)
        self._highest = highest

    def close(self, picture: np.ndarray, opening: float) -> None:
        """Close them in the picture [H, W, 3], in its place, to a share `opening` of how far they are open."""
        if opening > _OPEN or self.box.is_empty:
            return
        y, top, bottom, highest = self._y, self._top, self._bottom, self._highest
        gap, overlap = np.maximum(bottom - top, 0), (1 - opening) * OVERLAP * highest * self._within
        start, end, lashes = top - SKIN_ABOVE * highest, bottom + SKIN_BELOW * highest, LASHES * highest
        lid, floor = top + UPPER_WAY * (1 - opening) * gap + overlap, bottom - (1 - UPPER_WAY) * (1 - opening) * gap
        bottom = bottom + overlap
        above = np.where(y > lid - lashes, y - lid + top, start + (y - start) * (top - lashes - start) / (lid - lashes - start))
        below = end - (end - y) * (end - bottom) / (end - floor)
        source = picture[self.box.y0:self.box.y1, self.box.x0:self.box.x1]
        skin, cheek = (self._pulled(source, np.where(moves, rows - y, 0)) for rows, moves in ((above, y > start), (below, y < end)))
        drawn = source.astype(np.float32)
        for edge, layer in ((y - floor, cheek), (lid - y, skin)):
            share = self._inside * np.clip(edge / self._pixel + 0.5, 0, 1)
            drawn += share[..., None] * (layer - drawn)
        source[:] = np.clip(np.rint(drawn), 0, 255)

    def _pulled(self, source: np.ndarray, down: np.ndarray) -> np.ndarray:
        """The box, whose pixels come from so many crop pixels further down; float32."""
        places = self._places - [self.box.x0, self.box.y0] + down[..., None] * self._down
        return cv2.remap(source, places.astype(np.float32), None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def _curve(points: np.ndarray) -> "PchipInterpolator":
    """A smooth curve y(x) through a lid's points [N, 2]."""
    from scipy.interpolate import PchipInterpolator  # which takes long to import, and most videos do without

    x, first = np.unique(points[:, 0].astype(np.float64), return_index=True)
    return PchipInterpolator(x, points[first, 1].astype(np.float64))


def certain_eyes(landmarks: np.ndarray, confidence: np.ndarray) -> list[np.ndarray]:
    """The contours, indices [16] each, of the eyes that may blink, of landmarks [131, 2] and their confidence [131]: both eyes or none."""
    scale = interocular_distance(landmarks)
    for eye in EYES:
        points = landmarks[eye]
        open_by = np.linalg.norm(points[UPPER_LID] - points[LOWER_LID], axis=-1).max()
        if open_by < LEAST_OPEN * scale or np.linalg.norm(points[8] - points[0]) < LEAST_WIDE * scale:
            return []
        if confidence[eye].mean() < LEAST_SURE:
            return []
    return EYES


# --- where: head -------------------------------------------------------------------------------------------------------

_IOD = 68.0  # crop pixels between the irises of a typical face
# Crop pixels beyond the face's outline that move with it, hair and neck, and over which the motion then fades; over which it fades towards
# the photo's edge.
HAIR, FADE, EDGE_FADE = 12.0, 80.0, 40.0
# Of the head in the crop: half its width and height for the depth, and the nose's own.
_HALF_WIDTH, _HALF_HEIGHT, _NOSE_DEPTH, _NOSE_WIDTH = 80.0, 115.0, 0.4, 22.0
_STRIDE = 8  # crop pixels between two values of the field


class HeadWarp:
    """Moves the head of a photo.

    Args:
        shape: the photo's height and width. matrix: affine from photo to crop pixels, [2, 3]. landmarks: in the crop, [131, 2].
        has_brows: whether they may move by themselves.
    """

    def __init__(self, shape: tuple[int, int], matrix: np.ndarray, landmarks: np.ndarray, has_brows: bool = True):
        matrix = np.asarray(matrix, np.float64)
        pixel = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        back = cv2.invertAffineTransform(matrix)
        outline = landmarks[GROUPS["face_oval"]]
        reach = HAIR + FADE + 2 * _STRIDE
        # The skull goes on above what is called the face.
        skull = outline - [0, 0.35 * (outline[:, 1].max() - outline[:, 1].min())]
        hull = cv2.convexHull(np.concatenate([outline, skull[outline[:, 1] < outline[:, 1].mean()]]).astype(np.float32))[:, 0]
        limits = transform_points(back, np.array([[x, y] for x in (hull[:, 0].min() - reach, hull[:, 0].max() + reach)
                                                  for y in (hull[:, 1].min() - reach, hull[:, 1].max() + reach)]))
        size = np.array(shape[1::-1])
        x0, y0 = np.clip(np.floor(limits.min(0)), 0, size).astype(int)
        x1, y1 = np.clip(np.ceil(limits.max(0)) + 1, 0, size).astype(int)
        self.box = Rectangle(int(y0), int(y1), int(x0), int(x1))
        self._step = step = max(1.0, _STRIDE / pixel)
        columns, rows = (np.arange(int(np.ceil((end - start) / step)) + 2) * step + start for start, end in ((x0, x1), (y0, y1)))
        photo = np.stack(np.meshgrid(columns, rows), -1)
        crop = transform_points(matrix, photo)
        edge = np.minimum(photo, size - 1 - photo).min(-1) * pixel
        outside = -np.array([[cv2.pointPolygonTest(hull, (float(x), float(y)), True) for x, y in row] for row in crop])
        weight = (1 - _smoothstep((outside - HAIR) / FADE)) * _smoothstep((edge - step * pixel) / EDGE_FADE)
        lifted = weight * (brow_weight(crop, landmarks) if has_brows else 0.0)
        fields = np.concatenate([_fields(crop, weight, landmarks), lifted[None, ..., None] * [0.0, -_IOD]])
        self._fields = fields @ back[:, :2].T
        self._here = np.stack(np.meshgrid(np.arange(x1 - x0), np.arange(y1 - y0)), -1).astype(np.float32)

    def move(self, picture: np.ndarray, head: np.ndarray, brows: float = 0.0) -> np.ndarray:
        """The box of a picture [H, W, 3] with its head moved, uint8; `head` [6] and `brows` as in `Life`."""
        coarse = np.tensordot(np.append(head, brows), self._fields, 1).astype(np.float32)
        height, width = self._here.shape[:2]
        to_coarse = np.float32([[1 / self._step, 0, 0], [0, 1 / self._step, 0]])
        shift = cv2.warpAffine(coarse, to_coarse, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                               borderMode=cv2.BORDER_REPLICATE)
        return cv2.remap(self.box.of(picture), self._here - shift, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _fields(crop: np.ndarray, weight: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """By how many crop pixels each of the head's six motions moves each place, [6, h, w, 2], of places [h, w, 2] of the crop."""
    centre = landmarks[RIGID].mean(0)
    across, down = np.moveaxis(crop - centre, -1, 0)
    nothing, one = np.zeros_like(across), np.ones_like(across)
    nose, face = landmarks[GROUPS["nose_base"]].mean(0), landmarks[GROUPS["face_oval"]].mean(0)

    def depth(places: np.ndarray) -> np.ndarray:
        x, y = np.moveaxis((places - face) / [_HALF_WIDTH, _HALF_HEIGHT], -1, 0)
        bump = np.exp(-np.square((places - nose) / _NOSE_WIDTH).sum(-1) / 2)
        return np.sqrt(np.maximum(1 - x * x - y * y, 0.0)) + _NOSE_DEPTH * bump

    turn = depth(crop) / max(0.2, float(depth(nose[None])[0] - depth(landmarks[RIGID]).mean()))
    shifts, turns = ([(_IOD * size, nothing), (nothing, _IOD * size)] for size in (one, turn))
    motions = [*shifts, (-down, across), (across, down), *turns]
    return np.stack([weight[..., None] * np.stack(motion, -1) for motion in motions])


# --- where: brows ------------------------------------------------------------------------------------------------------

# Crop pixels: of a brow below its landmarks, which lie along its upper edge; of lashes above a lid; above a brow, and beyond its ends, over
# which its motion fades; the room between brow and lashes that a whole raise needs, so that the skin there does not fold.
_BROW_THICK, _LASH, _FOREHEAD, _BESIDE, _ROOM = 5.0, 4.0, 45.0, 18.0, 12.0
# By how many levels a bridge of glasses is darker or lighter than the nose from one row of the crop to the next: of 91 portraits the ten
# with glasses have 12 to 58, 78 of the others less than 11.
BRIDGE = 11.0


def brow_weight(places: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Which share of a raise of the brows each place [h, w, 2] of the crop takes part in, [h, w]; landmarks [131, 2] in the crop."""
    weight = np.zeros(places.shape[:2])
    for eye, name in zip(EYES, ("right_brow", "left_brow")):
        brow = landmarks[GROUPS[name]]
        brow, lid = brow[brow[:, 0].argsort()], landmarks[eye[UPPER_LID]]
        x, y = np.moveaxis(places, -1, 0)
        down = y - np.interp(x, *brow.T) - _BROW_THICK
        room = float(lid[:, 1].min() - np.interp(lid[lid[:, 1].argmin(), 0], *brow.T)) - _BROW_THICK - _LASH
        beside = np.maximum(brow[0, 0] - x, x - brow[-1, 0])
        across = 1 - _smoothstep(beside / _BESIDE)
        along = np.where(down < 0, 1 - _smoothstep((-down - _BROW_THICK) / _FOREHEAD), 1 - _smoothstep(down / max(room, 1.0)))
        weight = np.maximum(weight, np.clip(room / _ROOM, 0, 1) * across * along)
    return weight


def wears_glasses(crop: np.ndarray, landmarks: np.ndarray) -> bool:
    """Whether something edged lies across the nose between the eyes of an aligned crop, uint8 [256, 256, 3], landmarks [131, 2] in it."""
    right, left = (landmarks[eye[8]] for eye in EYES)
    columns = np.s_[round(0.7 * right[0] + 0.3 * left[0]):round(0.3 * right[0] + 0.7 * left[0])]
    middle, scale = (right[1] + left[1]) / 2, interocular_distance(landmarks)
    rows = np.s_[max(0, round(middle - 0.28 * scale)):round(middle + 0.22 * scale)]
    grey = cv2.GaussianBlur(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.5)[rows, columns]
    if min(grey.shape) < 2:
        return False
    steps = np.median(np.diff(grey, axis=0), axis=1)
    return float(steps.max() - steps.min()) > BRIDGE


def certain_brows(confidence: np.ndarray) -> bool:
    """Whether both brows are seen well enough to move, by the landmarks' confidence [131]."""
    return all(confidence[GROUPS[name]].mean() >= LEAST_SURE for name in ("right_brow", "left_brow"))


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


# --- both --------------------------------------------------------------------------------------------------------------


class LivingPhoto:
    """A photo whose lids, brows and head can be moved, with a mouth in it that moves by itself.

    Args:
        photo: uint8 [H, W, 3]. matrix: affine from photo to crop pixels, [2, 3]. landmarks: of the photo, [131, 2], and their
            `confidence` [131].
    """

    def __init__(self, photo: np.ndarray, matrix: np.ndarray, landmarks: np.ndarray, confidence: np.ndarray):
        in_crop = transform_points(np.asarray(matrix, np.float64), landmarks)
        self.photo = photo
        # Rims would be drawn out with the skin.
        glasses = wears_glasses(crop_face(photo, matrix), in_crop)
        self._eyes = [] if glasses else [Lids(photo, matrix, in_crop[eye]) for eye in certain_eyes(landmarks, confidence)]
        self._head = HeadWarp(photo.shape[:2], matrix, in_crop, certain_brows(confidence) and not glasses)

    @property
    def can_blink(self) -> bool:
        return bool(self._eyes)

    def patch(self, mouth: Patch, life: Life) -> Patch:
        """What a frame changes in the photo, whose mouth alone would change it by `mouth`."""
        moves, blinks = bool(life.head.any()) or life.brows > 0, life.lids <= _OPEN and self.can_blink
        if not moves and not blinks:
            return mouth
        picture = mouth.onto(self.photo)
        if blinks:
            for eye in self._eyes:
                eye.close(picture, life.lids)
        if moves:
            return Patch(self._head.box.y0, self._head.box.x0, self._head.move(picture, life.head, life.brows))
        changed = Rectangle(mouth.top, mouth.top + mouth.pixels.shape[0], mouth.left, mouth.left + mouth.pixels.shape[1])
        for eye in self._eyes:
            changed = changed.union(eye.box)
        return Patch(changed.y0, changed.x0, changed.of(picture).copy())
