"""How late a recording's sound is: the shift at which the lips do best what the sound lets expect.

The expectation is an opening of the lips over time, heard by the viseme classifier and `models.lip_motion` or, in a checkpoint without it,
the linear baseline (`metrics.linear_baseline`).

Why not the sync expert (`metrics.sync`), which is made for this?  It was nearly as good: on 23 clips of held-out GRID talkers (two of them
7 and 10 frames late) either was right within a frame in all, by 0.24 frames in the median here and 0.29 there; on five clips of natural
speech, 1 to 3 frames late, in 5 here, in 4 there.  But this one needs no picture to be encoded, which takes longer than all the rest.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from ..data.clips import load_landmarks, load_sound
from ..data.manifest import Clip
from ..errors import InvalidInputError
from ..face.landmarks import lip_opening
from ..face.lip_shape import OPENING, TYPICAL_MOTION
from ..media.video import FPS, stream_video
from ..models.face_aligner import FaceAligner
from ..models.lip_motion import LipMotion
from ..models.viseme_classifier import Hearing, VisemeClassifier
from .linear_baseline import LinearBaseline
from .lips import pearson
from .optional_components import load_optional

MAX_OFFSET = 15
# Of a short clip the few frames that a large shift leaves agree by chance: a pause with a pause.
_LARGEST_SHARE = 0.2
# Frames with a face and sound that a comparison needs.
_FEWEST_FRAMES = 40
# A peak that is lower, or not that much higher than what is more than `_PEAK_WIDTH` frames away from it, says nothing.
_LEAST_R, _LEAST_LEAD, _PEAK_WIDTH = 0.4, 0.15, 3


def estimate_offset(expected: np.ndarray, opening: np.ndarray, max_offset: int = MAX_OFFSET) -> float | None:
    """Frames, with a fraction, by which the sound is late (below 0: early), in ±`max_offset` and ±a fifth of the clip; None where that
    cannot be told.

    The shift o of the highest Pearson correlation of expected[t + o] with opening[t], and the vertex of the parabola through it and its
    neighbours.  `expected` [T] is the opening that the sound lets expect, `opening` [T'] that of the real lips, NaN in frames without a
    face, both in interocular distances and from the same moment on.
    """
    length = min(len(expected), len(opening))
    reach = min(max_offset, int(length * _LARGEST_SHARE))
    shifts = np.arange(-reach, reach + 1)
    curve = np.zeros(len(shifts))
    for index, shift in enumerate(shifts):
        heard, seen = expected[max(0, shift):length + min(0, shift)], opening[max(0, -shift):length + min(0, -shift)]
        known = np.isfinite(seen)
        if known.sum() < _FEWEST_FRAMES:
            return None
        curve[index] = pearson(heard[known], seen[known])
    peak = int(curve.argmax())
    elsewhere = curve[np.abs(shifts - shifts[peak]) > _PEAK_WIDTH]
    if peak in (0, len(curve) - 1) or curve[peak] < _LEAST_R or curve[peak] - elsewhere.max() < _LEAST_LEAD:
        return None
    before, top, after = curve[peak - 1:peak + 2]
    return float(shifts[peak] + 0.5 * (before - after) / (before - 2 * top + after))


class OffsetEstimator:
    """`estimate_offset` for recordings.

    Args:
        classifier: listens. expect: the lip opening [T], in interocular distances, that what it hears lets expect.
    """

    def __init__(self, classifier: VisemeClassifier, expect: Callable[[Hearing], np.ndarray]):
        self.classifier, self.expect = classifier, expect

    @classmethod
    def from_checkpoint(cls, model: str, device: str = "cpu") -> "OffsetEstimator | None":
        """That of a checkpoint; None where it has nothing that expects lips of its classifier."""
        classifier = load_optional(VisemeClassifier, model, "viseme_classifier", device)
        lip_motion = load_optional(LipMotion, model, "lip_motion", device)
        baseline = load_optional(LinearBaseline, model, "linear_baseline_hidden", device)
        return cls.of_networks(classifier, lip_motion, baseline)

    @classmethod
    def of_networks(
        cls, classifier: VisemeClassifier, lip_motion: LipMotion | None, baseline: LinearBaseline | None
    ) -> "OffsetEstimator | None":
        if lip_motion is not None:
            return cls(classifier, lambda hearing: TYPICAL_MOTION[OPENING] * lip_motion.predict(hearing)[:, OPENING])
        if baseline is not None and baseline.fits(classifier):
            return cls(classifier, baseline.predict)
        return None

    def estimate(self, landmarks: np.ndarray, samples: np.ndarray) -> float | None:
        """Seconds by which the sound is late; None where that cannot be told, 0 where it is less than a frame, as exact as this is.

        landmarks [T, 131, 2] at 25 frames a second, NaN without a face; samples float [N] at 16 kHz from the first frame on.
        """
        hearing = self.classifier.hear(samples, len(landmarks), FPS)
        frames = estimate_offset(self.expect(hearing), lip_opening(landmarks))
        if frames is None:
            return None
        return round(frames / FPS, 3) if abs(frames) >= 1 else 0.0

    def correct(self, clip: Clip, landmarks: np.ndarray) -> Clip:
        """The clip with its `offset` estimated, unless it has one."""
        return clip if clip.offset is not None else replace(clip, offset=self.estimate(landmarks, load_sound(clip)))


def describe_offset(offset: float | None) -> str:
    """In words, for a user."""
    if offset is None:
        return "whether the sound is late cannot be told"
    return f"the sound is {abs(offset):.2f} s {'late' if offset > 0 else 'early'}" if offset else "sound and picture agree"


def find_offsets(clips: Iterable[Clip], model: str, device: str = "cpu") -> Iterator[Clip]:
    """The clips one by one, each with its `offset` estimated by a checkpoint's networks alone; None where a clip cannot be judged.

    Raises InvalidInputError for a checkpoint that has nothing to estimate it by.
    """
    estimator = OffsetEstimator.from_checkpoint(model, device)
    if estimator is None:
        raise InvalidInputError(f"{model}: neither lip_motion nor a linear baseline of its classifier, by which offsets are estimated")
    aligner = load_optional(FaceAligner, model, "face_aligner", device)
    for clip in clips:
        try:
            landmarks = load_landmarks(clip.landmarks) if clip.landmarks else aligner.track(stream_video(clip.video, fps=FPS)[0])
            yield estimator.correct(clip, landmarks)
        except InvalidInputError:
            yield clip


def correct_clips(clips: Iterable[Clip], model: str, report: Callable[[str], None]) -> list[Clip]:
    """Clips, those with landmarks files and no `offset` with an estimate; every one that is off is reported in a line."""
    estimator, corrected = OffsetEstimator.from_checkpoint(model), []
    for clip in clips:
        if estimator is not None and clip.landmarks is not None:
            clip = estimator.correct(clip, load_landmarks(clip.landmarks))
        if clip.offset:
            report(f"{clip.id}: {describe_offset(clip.offset)}; corrected")
        corrected.append(clip)
    return corrected
