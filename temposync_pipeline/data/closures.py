"""Where stops and nasals really close: phone times moved to what the sound shows.

Synthesisers and aligners agree on the order of phones, not on where a closure lies: espeak-ng reports /p t k/ at the release and the
vowel after /m n l/ late, an aligner counts aspiration to the stop.  A mouth that follows the labels must be shut while the sound is, so
every source goes through `fit_closures`.
"""

from typing import NamedTuple

import numpy as np
from scipy import signal

from .viseme_labels import Phone

_HOP, _WINDOW = 0.002, 0.008
# Below this the hum of a voiced closure is as loud as a vowel, in hertz.
_HUM = 400
# Decibels: what counts as silence below the loudest sound nearby, and by how much a closure must lie below both of its sides.
_DEEPEST, _SHALLOWEST = 45.0, 5.0
_DROP = 9.0
# Lips and tongue take a moment to part after the release, in seconds.
_RELEASE = 0.008
# How far from the reported times a closure is looked for, and how short or long it may be, in seconds.
_REACH, _SHORTEST, _LONGEST = 0.06, 0.012, 0.25

_NASALS = frozenset("M N NG EN m n ɲ ŋ ɳ ɱ".split())
_CLOSURES = _NASALS | frozenset("P T K B D G DX p t k q c ʈ b d g ɡ ɖ ɟ ɾ".split())


class Level(NamedTuple):
    """Short-time level in decibels every 2 ms, from the start of the waveform."""

    decibels: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, sample_rate: int) -> "Level":
        """Of what lies above 400 Hz: the hum of a voiced closure counts little, the formants it cuts off count much."""
        long_enough = len(samples) > 100  # for the filter's edges
        high = signal.sosfiltfilt(signal.butter(4, _HUM, "high", fs=sample_rate, output="sos"), samples) if long_enough else samples
        power = np.concatenate([[0.0], np.cumsum(np.square(high, dtype=np.float64))])
        centres = np.arange(int(len(samples) / sample_rate / _HOP) + 1) * _HOP
        first, last = (np.clip(((centres + shift) * sample_rate).astype(int), 0, len(samples)) for shift in (-_WINDOW / 2, _WINDOW / 2))
        return cls(10 * np.log10((power[last] - power[first]) / np.maximum(last - first, 1) + 1e-10))

    def closure(
        self, earliest: float, latest: float, nominal: tuple[float, float], bursts: bool = True
    ) -> tuple[float | None, float | None]:
        """Start and end of the dip between two times (None where the sound is as low up to that side); (None, None) without a dip.

        It begins half-way, in decibels, down from the loudest sound before it, but not beyond _DROP, since the hum of b, d, g dies away
        slowly.  It ends a third of the way up if it `bursts`, since a burst is not loud; else as it began, since a murmur wavers.
        """
        offset = max(0, round(earliest / _HOP))
        piece = self.decibels[offset : round(latest / _HOP) + 1]
        first, last = (min(max(round(time / _HOP) - offset, 0), len(piece) - 1) for time in nominal)
        if len(piece) < 3 or last <= first:
            return None, None
        piece = np.maximum(piece, piece.max() - _DEEPEST)
        # In silence of even depth any frame is the lowest: take the last one, which is closest to the release.
        lowest = piece[first : last + 1].min()
        bottom = first + int(np.flatnonzero(piece[first : last + 1] <= lowest + 1)[-1])
        edges: list[float | None] = []
        until_loud, until_burst = (1 / 2, _DROP), (2 / 3, np.inf)
        sides = (piece[: bottom + 1][::-1], until_loud), (piece[bottom:], until_burst if bursts else until_loud)
        for side, (share, drop) in sides:
            rise = side.max() - lowest
            crossed = np.flatnonzero(side > side.max() - min(share * rise, drop)) if rise >= _SHALLOWEST else []
            edges.append(float(crossed[0]) if len(crossed) else None)
        start = None if edges[0] is None else (offset + bottom - edges[0] + 0.5) * _HOP
        end = None if edges[1] is None else (offset + bottom + edges[1] - 0.5) * _HOP
        return start, end


def fit_closures(phones: list[Phone], samples: np.ndarray, sample_rate: int, typical: float = 0.06) -> list[Phone]:
    """The phones with stops and nasals over the closure that is heard, their neighbours moved along.

    What follows the release of a stop belongs to the next phone: lips and tongue are on their way to it.  A phone whose closure
    cannot be heard stays where it is.

    samples: float32 [N].  typical: seconds of a closure whose beginning cannot be heard since a pause comes before.
    """
    level = Level.of(samples, sample_rate)
    fitted = list(phones)
    for index, phone in enumerate(fitted):
        symbol = phone.symbol.strip("ːʰʲˈˌ̪̩")
        if symbol not in _CLOSURES:
            continue
        before = fitted[index - 1] if index else None
        after = fitted[index + 1] if index + 1 < len(fitted) else None
        earliest = max(phone.start - _REACH, (before.start + before.end) / 2 if before else 0.0)
        latest = min(phone.end + _REACH, (after.start + after.end) / 2 if after else phone.end)
        nominal = max(phone.start - _REACH / 2, earliest), min(phone.end, latest)
        start, end = level.closure(earliest, latest, nominal, bursts=symbol not in _NASALS)
        if end is None:
            continue
        end = min(end + _RELEASE, latest)
        if start is None:
            after_pause = before is None or before.parts[:1] == (("sil", 1.0),)
            start = max(earliest, end - _RELEASE - typical) if after_pause else phone.start
        if not _SHORTEST <= end - start <= _LONGEST:
            continue
        fitted[index] = phone._replace(start=start, end=end)
        if before:
            fitted[index - 1] = before._replace(end=start)
        if after:
            fitted[index + 1] = after._replace(start=end)
    return [phone for phone in fitted if phone.end > phone.start]
