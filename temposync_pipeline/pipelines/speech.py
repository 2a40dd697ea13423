"""What the lips follow."""

from dataclasses import dataclass

import numpy as np

from ..models.visemes import VISEME_INDEX


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
    def voice(self) -> list[tuple[float, float]]:
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
