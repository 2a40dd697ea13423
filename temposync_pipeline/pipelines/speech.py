"""What the lips follow."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from threading import Lock

import numpy as np

from ..models.viseme_classifier import warn_without_speech
from ..models.visemes import NUM_VISEMES, VISEME_INDEX


@dataclass
class Speech:
    """A recording of T video frames: probabilities of visemes [T, 15] and shapes of the lips [T, 6] (`face.lip_shape`, in units of
    TYPICAL_MOTION, 0 = at rest), None where only visemes are known; `features` [T, F] for methods that follow more of what was heard;
    `loudness` [T, 1] (`Hearing`), None where life does not follow it."""

    visemes: np.ndarray
    lips: np.ndarray | None = None
    features: np.ndarray | None = None
    loudness: np.ndarray | None = None

    @property
    def voice(self) -> Iterable[tuple[float, float]]:
        """Of each frame how surely somebody speaks in it, in [0, 1], and how loud it is, ln of the root mean square."""
        loudness = np.zeros(len(self)) if self.loudness is None else self.loudness[:, 0]
        return list(zip((1 - self.visemes[:, VISEME_INDEX["sil"]]).tolist(), loudness.tolist()))

    @property
    def _tracks(self) -> tuple[np.ndarray | None, ...]:
        return self.visemes, self.lips, self.features, self.loudness

    def __len__(self) -> int:
        return len(self.visemes)

    def __getitem__(self, frames: slice) -> "Speech":
        return Speech(*(None if track is None else track[frames] for track in self._tracks))

    def at(self, frames: np.ndarray) -> "Speech":
        """What is said at moments between frames, [n] counted in frames, 0 = the middle of the first; the ends repeat."""
        frames = np.clip(frames, 0, len(self) - 1)
        before = np.floor(frames).astype(int)
        after, share = np.minimum(before + 1, len(self) - 1), (frames - before).astype(np.float32)[:, None]
        return Speech(*(None if track is None else (1 - share) * track[before] + share * track[after] for track in self._tracks))

    def around(self, frames: range, reach: int) -> "Speech":
        """Some frames and `reach` more on either side; beyond the ends of the recording its end frames go on."""
        near = np.clip(np.arange(frames.start - reach, frames.stop + reach), 0, len(self) - 1)
        return Speech(*(None if track is None else track[near] for track in self._tracks))


class SpeechBeingHeard(Speech):
    """A recording of `count` frames that is heard no further than anybody has asked for, by one thread or another; the fields are what has
    been heard.

    Args:
        name: what messages call the recording.
        pieces: of the speech, in their order; None where more was heard of it, but nothing can be said yet.
    """

    def __init__(self, name: str, pieces: Iterator[Speech | None], count: int):
        self._name, self._pieces, self._count, self._lock = name, pieces, count, Lock()
        self._all_at_once = False
        super().__init__(np.zeros((0, NUM_VISEMES), np.float32))

    def __len__(self) -> int:
        return self._count

    def begin(self) -> Iterator[None]:
        """Listen until the first frames are known; pauses every few seconds of sound."""
        while not len(self.visemes):
            with self._lock:
                self._hear_more()
            yield
        self._all_at_once = len(self.visemes) == self._count
        if self._all_at_once:
            warn_without_speech(self._name, self.visemes)

    def end(self) -> None:
        """Say what `begin` did not know yet: that there was no speech."""
        if not self._all_at_once:
            warn_without_speech(self._name, self.visemes)

    def around(self, frames: range, reach: int) -> Speech:
        self._hear(frames.stop + reach)
        return super().around(frames, reach)

    @property
    def voice(self) -> Iterable[tuple[float, float]]:
        return self._voice()

    def _voice(self) -> Iterator[tuple[float, float]]:
        done = 0
        while done < self._count:
            self._hear(done + 1)
            with self._lock:
                heard = Speech(*self._tracks)[done:]
            yield from heard.voice
            done += len(heard)

    def _hear(self, count: int) -> None:
        with self._lock:
            while len(self.visemes) < min(count, self._count):
                self._hear_more()

    def _hear_more(self) -> None:
        if (piece := next(self._pieces)) is not None:
            known = self._tracks if len(self.visemes) else len(self._tracks) * (None,)
            self.visemes, self.lips, self.features, self.loudness = (
                new if old is None or new is None else np.concatenate([old, new]) for old, new in zip(known, piece._tracks))
