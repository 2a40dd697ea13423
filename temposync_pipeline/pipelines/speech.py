"""What the lips follow."""

from dataclasses import dataclass

import numpy as np

from ..models.visemes import VISEME_INDEX


@dataclass
class Speech:
    """A recording of T video frames: probabilities of visemes [T, 15] and shapes of the lips [T, 6] (`face.lip_shape`, in units of
    TYPICAL_MOTION, 0 = at rest), None where only visemes are known; `features` [T, F] for methods that follow more of what was heard."""

    visemes: np.ndarray
    lips: np.ndarray | None = None
    features: np.ndarray | None = None

    @property
    def spoken(self) -> list[float]:
        """How surely somebody speaks in each frame, [T] in [0, 1]."""
        return (1 - self.visemes[:, VISEME_INDEX["sil"]]).tolist()

    def __len__(self) -> int:
        return len(self.visemes)

    def __getitem__(self, frames: slice) -> "Speech":
        return Speech(*(None if track is None else track[frames] for track in (self.visemes, self.lips, self.features)))

    def at(self, frames: np.ndarray) -> "Speech":
        """What is said at moments between frames, [n] counted in frames, 0 = the middle of the first; the ends repeat."""
        frames = np.clip(frames, 0, len(self) - 1)
        before = np.floor(frames).astype(int)
        after, share = np.minimum(before + 1, len(self) - 1), (frames - before).astype(np.float32)[:, None]
        return Speech(*(None if track is None else (1 - share) * track[before] + share * track[after]
                        for track in (self.visemes, self.lips, self.features)))

    def around(self, frames: range, reach: int) -> "Speech":
        """Some frames and `reach` more on either side; beyond the ends of the recording its end frames go on."""
        near = np.clip(np.arange(frames.start - reach, frames.stop + reach), 0, len(self) - 1)
        return Speech(*(None if track is None else track[near] for track in (self.visemes, self.lips, self.features)))
