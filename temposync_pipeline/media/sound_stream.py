"""Sound that comes piece by piece."""

import numpy as np
import soxr

from ..errors import InvalidAudioError
from .audio import SAMPLE_RATE, check_format, silence_impossible, to_float

_NAME = "live sound"


def to_mono(samples: np.ndarray, rate: int) -> np.ndarray:
    """The mean of all channels, float32 [n], of samples [n] or [n, channels], floating point in [-1, 1] or integer, at `rate` Hz.

    Raises InvalidAudioError for what is no sound.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise InvalidAudioError(f"{_NAME}: {samples.dtype} {samples.shape}, expected numbers [n] or [n, channels]")
    check_format(_NAME, rate, samples.shape[1] if samples.ndim == 2 else 1)
    possible = silence_impossible(to_float(samples))
    return possible if possible.ndim == 1 else possible.mean(1, dtype=np.float32)


class SoundStream:
    """Pieces of sound as the models hear them, in whatever pieces they come: float32 [n] in [-1, 1], 16 kHz mono.

    What `media.audio.load_audio` does to a recording, but that nothing can be looked at twice: all channels are averaged, and samples
    beyond full scale are clipped.  Resampling holds the last 40 ms back until more comes.
    """

    def __init__(self) -> None:
        self._rate = 0
        self._resampler: soxr.ResampleStream | None = None

    def take(self, samples: np.ndarray, rate: int) -> np.ndarray:
        """What is certain after a further piece: see `to_mono`.

        Raises InvalidAudioError for what is no sound, and for another rate than before.
        """
        mono = to_mono(samples, rate)
        if self._rate not in (0, rate):
            raise InvalidAudioError(f"{_NAME}: the sampling rate changes from {self._rate} to {rate} Hz")
        self._rate = rate
        if rate != SAMPLE_RATE:
            self._resampler = self._resampler or soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono))
        return np.clip(mono, -1, 1)

    def finish(self) -> np.ndarray:
        """What was held back."""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        return np.clip(self._resampler.resample_chunk(np.empty(0, np.float32), last=True), -1, 1)
