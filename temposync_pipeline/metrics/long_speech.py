"""A talker's clips joined end to end, sound and real lips, for videos longer than any clip."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.clips import frames_with_sound, load_landmarks, load_sound
from ..data.manifest import Clip
from ..errors import InvalidInputError
from ..face.landmarks import lip_opening
from ..media.audio import SAMPLE_RATE
from ..media.video import FPS, stream_video
from .offset import OffsetEstimator

SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
Track = Callable[[Iterable[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class LongVoice:
    """Speech and the lips that it came from.

    `samples` float32 [640·T] at 16 kHz, `opening` [T] of the real lips in interocular distances at 25 frames a second, NaN where they
    cannot be seen; after `own_frames` both begin again.
    """

    talker: str
    clips: tuple[str, ...]
    samples: np.ndarray
    opening: np.ndarray
    own_frames: int

    @property
    def source(self) -> tuple[np.ndarray, int]:
        """As the pipeline takes it."""
        return self.samples, SAMPLE_RATE


def by_talker(clips: Iterable[Clip]) -> list[list[Clip]]:
    """The clips of each talker, the talker with the most of them first."""
    talkers: dict[str, list[Clip]] = {}
    for clip in clips:
        talkers.setdefault(clip.talker, []).append(clip)
    return sorted(talkers.values(), key=len, reverse=True)


def join_clips(clips: Sequence[Clip], frames: int, track: Track, offsets: OffsetEstimator | None = None) -> LongVoice:
    """As many clips of one talker as `frames` take, one after the other; where they are not enough, from the start again.

    A single clip may be a long recording: its pictures are looked at one by one.  Sound that is late is moved first (`offsets`).

    Args:
        track: landmarks [T, 131, 2] of pictures, for clips without a file of them, NaN without a face.

    Raises InvalidInputError where there is no sound, or no face.
    """
    samples: list[np.ndarray] = []
    openings: list[np.ndarray] = []
    used: list[str] = []
    for clip in clips:
        missing = frames - sum(map(len, openings))
        if missing <= 0:
            break
        heard, opening = _read(clip, missing, track, offsets)
        samples.append(heard)
        openings.append(opening)
        used.append(clip.id)
    sound, opening = np.concatenate(samples), np.concatenate(openings)
    if not np.isfinite(opening).any():
        raise InvalidInputError(f"{clips[0].talker}: no face in any of these clips, or no sound with it")
    own = len(opening)
    return LongVoice(clips[0].talker, tuple(used), np.resize(sound, frames * SAMPLES_PER_FRAME), np.resize(opening, frames), own)


def _read(clip: Clip, most: int, track: Track, offsets: OffsetEstimator | None) -> tuple[np.ndarray, np.ndarray]:
    """Samples and lip opening of a clip's first `most` frames, those of them that have sound."""
    if clip.landmarks is not None:
        landmarks = load_landmarks(clip.landmarks)[:most]
    else:
        landmarks = track(stream_video(clip.video, most, FPS)[0])
    if offsets is not None:
        clip = offsets.correct(clip, landmarks)
    samples = load_sound(clip)
    kept = frames_with_sound(clip, len(landmarks), len(samples))
    opening = lip_opening(landmarks[kept])[:(len(samples) - kept.start * SAMPLES_PER_FRAME) // SAMPLES_PER_FRAME]
    start = kept.start * SAMPLES_PER_FRAME
    return samples[start:start + len(opening) * SAMPLES_PER_FRAME], opening
