"""Reading the watermark of a video blindly: the face says where the mark is, a search aligns it, all frames vote."""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from os import PathLike
from typing import NamedTuple

import cv2
import numpy as np
from scipy import fft

from ..face.crop import CROP_SIZE, align_matrix, shrink_large
from ..media.gif import is_gif, stream_gif
from ..media.video import stream_video
from ..models.face_aligner import FaceAligner
from .watermark import PAYLOAD_BITS, code, evidence, luma_crop, payload_bits, scores, whitened

# Pictures a second that vote, and how many of them make a scene, which is tried by itself where the whole clip shows no mark.
VOTES_A_SECOND, SCENE_VOTES, MOST_SCENES = 5, 25, 12
# The largest faces of a picture that are tried.
MOST_FACES = 3
# How far the mark may lie from where the landmarks have it: sizes, turns in degrees, and shifts in crop pixels.
SIZES, TURNS, MOST_SHIFT = (0.985, 1.0, 1.015), (-0.7, 0.0, 0.7), 12
# Steps of the search's end: size, degrees, pixels; each is halved as often.
FINE_STEPS, HALVINGS = (0.005, 0.3, 0.5, 0.5), 3
# A mark is there from this score on.  Signs are as good as random, so that of pictures without a mark a share of at most exp(-score²/2)
# gets as far by chance in each place (Hoeffding 1963), of which no video is tried at more than so many: false alarms are below 1e-6.
PLACES_TRIED = 10**6
FOUND_SCORE = 7.5
PRODUCT_BITS = PAYLOAD_BITS // 2
_LUMA = np.float32([[0.2126, 0.7152, 0.0722]])


class Reading(NamedTuple):
    """What was read around one face.

    Attributes:
        score: of the product's bits together, in standard deviations of pictures without a mark.
        bits: of each of the 64 bits, float32, positive for 1.
        matrix: from the picture to the crop that the mark lies in, [2, 3].
    """

    score: float
    bits: np.ndarray
    matrix: np.ndarray

    @property
    def is_marked(self) -> bool:
        return self.score >= FOUND_SCORE

    @property
    def false_alarm(self) -> float:
        """Upper bound of the probability that a video without a mark scores so high."""
        return min(1.0, PLACES_TRIED * math.exp(-self.score**2 / 2))

    @property
    def identifier(self) -> int:
        return int("".join("1" if bit > 0 else "0" for bit in self.bits[PRODUCT_BITS:]), 2)


@lru_cache(maxsize=1)
def _template() -> np.ndarray:
    """Spectrum of the picture of the product's bits, complex64 [256, 129]."""
    places, signs, weights = code()
    bits, spectrum = payload_bits(0), np.zeros(CROP_SIZE * CROP_SIZE, np.float32)
    spectrum[places[:PRODUCT_BITS]] = (signs * weights * bits[:, None])[:PRODUCT_BITS]
    return fft.rfft2(cv2.dct(spectrum.reshape(CROP_SIZE, CROP_SIZE), flags=cv2.DCT_INVERSE))


def product_score(evidence: np.ndarray) -> float:
    """How surely the product's bits are there, in standard deviations, of `watermark.evidence`."""
    product = evidence[:PRODUCT_BITS]
    return float((product.sum(1) * payload_bits(0)[:PRODUCT_BITS]).sum() / max(np.linalg.norm(product), 1e-9))


def _moved(size: float, degrees: float, x: float, y: float) -> np.ndarray:
    """Turn and enlarge around the crop's centre, then shift: affine of the crop's pixels, [3, 3]."""
    turn = cv2.getRotationMatrix2D(((CROP_SIZE - 1) / 2, (CROP_SIZE - 1) / 2), degrees, size)
    turn[:, 2] += x, y
    return np.vstack([turn, [0, 0, 1]])


def _shift(crop: np.ndarray) -> tuple[float, float, float]:
    """How well the product's mark fits where it fits best, and how far the crop must be moved for that, (x, y)."""
    product = fft.rfft2(whitened(crop)) * _template().conj()
    fit = fft.irfft2(product, (CROP_SIZE, CROP_SIZE))
    near = np.arange(-MOST_SHIFT, MOST_SHIFT + 1)
    fit = fit[np.ix_(near, near)]
    y, x = np.unravel_index(fit.argmax(), fit.shape)
    return float(fit[y, x]), float(-near[x]), float(-near[y])


def read_crop(luma: np.ndarray, matrix: np.ndarray) -> Reading:
    """The mark of luma [H, W] near the crop that landmarks give, [2, 3]."""
    start, (small, to_crop) = np.vstack([matrix, [0, 0, 1]]), shrink_large(luma.astype(np.float32), np.asarray(matrix, np.float64))
    to_crop = np.vstack([to_crop, [0, 0, 1]])

    def crop_at(*place: float) -> np.ndarray:
        return luma_crop(small, (_moved(*place) @ to_crop)[:2])

    fits = []
    for size in SIZES:
        for degrees in TURNS:
            fit, x, y = _shift(crop_at(size, degrees, 0, 0))
            fits.append((fit, (size, degrees, x, y)))
    place = max(fits)[1]
    best = product_score(evidence(crop_at(*place)))
    for halving in range(HALVINGS):
        for axis, step in enumerate(FINE_STEPS):
            for change in (-step / 2**halving, step / 2**halving):
                trial = (*place[:axis], place[axis] + change, *place[axis + 1:])
                score = product_score(evidence(crop_at(*trial)))
                if score > best:
                    best, place = score, trial
    return Reading(best, scores(evidence(crop_at(*place))), (_moved(*place) @ start)[:2])


class Scene(NamedTuple):
    """Frames of one size: their mean, float32 RGB [H, W, 3], and the mean of their largest face's crops, luma [256, 256], None without."""

    picture: np.ndarray
    face: np.ndarray | None
    votes: int


def _scenes(frames: Iterable[np.ndarray], aligner: FaceAligner) -> Iterator[Scene]:
    frames = iter(frames)
    while batch := list(islice(frames, SCENE_VOTES)):
        crops = [luma_crop(_luma(frame), align_matrix(face.landmarks)) for frame, face in zip(batch, aligner.follow(batch)) if face]
        yield Scene(np.mean(batch, 0, dtype=np.float32), np.mean(crops, 0) if crops else None, len(batch))


def _luma(picture: np.ndarray) -> np.ndarray:
    return cv2.transform(picture.astype(np.float32), _LUMA)


def _readings(scene: Scene, aligner: FaceAligner) -> Iterator[Reading]:
    """Of a mark that stands still in the picture, as in a speaking photo, and of one that moves with the face."""
    luma = _luma(scene.picture)
    for face in aligner.detect(np.rint(scene.picture).astype(np.uint8))[:MOST_FACES]:
        yield read_crop(luma, align_matrix(face.landmarks))
    if scene.face is not None:
        yield read_crop(scene.face, np.eye(2, 3))


def _together(one: Scene, other: Scene) -> Scene:
    """The mean of all frames of both."""
    votes = one.votes + other.votes
    share = other.votes / votes
    both = one.face is not None and other.face is not None
    face = (1 - share) * one.face + share * other.face if both else one.face if other.face is None else other.face
    return Scene((1 - share) * one.picture + share * other.picture, face, votes)


def read_watermark(path: str | PathLike, aligner: FaceAligner) -> Reading | None:
    """The surest reading of a video or GIF: of all its frames together, or where they show no mark of some seconds; None without a face.

    Raises InvalidVideoError and OSError.
    """
    frames = stream_gif(path, VOTES_A_SECOND) if is_gif(path) else stream_video(path, fps=VOTES_A_SECOND)[0]
    scenes: list[Scene] = []
    whole, every = None, 1
    for count, scene in enumerate(_scenes(frames, aligner)):
        whole = scene if whole is None else _together(whole, scene)
        if count % every == 0:
            scenes.append(scene)
        if len(scenes) > MOST_SCENES:  # as many, however long the video is
            scenes, every = scenes[::2], 2 * every
    best = None
    for scene in [whole, *scenes] if len(scenes) > 1 else scenes:
        for reading in _readings(scene, aligner):
            if best is None or reading.score > best.score:
                best = reading
            if best.is_marked:
                return best
    return best
