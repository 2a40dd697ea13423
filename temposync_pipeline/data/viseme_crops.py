"""Random augmented crops of a viseme corpus, with soft labels on the classifier's frame grid."""

import math
from functools import lru_cache

import numpy as np
import torch
from scipy import fft

from ..models.viseme_classifier import normalize_loudness
from ..models.visemes import NUM_VISEMES
from .speech_augmentation import augment, coloured_noise, music
from .viseme_corpus import Utterance
from .viseme_labels import SAMPLE_RATE, coverage

NUM_BANDS = 12
BAND_WINDOW = 400


class CropSampler:
    """Draws crops of `length` samples from the sources by weight; "noise" is a source of its own, silence in any room.

    The label of frame n is the share of each viseme in [frame_offset + n * frame_seconds, + frame_seconds).
    """

    def __init__(
        self,
        utterances: list[Utterance],
        source_weights: dict[str, float],
        length: int,
        num_frames: int,
        frame_offset: float,
        frame_seconds: float,
        generator: np.random.Generator,
    ):
        self.groups = {source: [item for item in utterances if item.source == source] for source in source_weights}
        weights = {source: weight for source, weight in source_weights.items() if source == "noise" or self.groups[source]}
        self.sources, self.weights = list(weights), np.array(list(weights.values())) / sum(weights.values())
        self.length, self.num_frames = length, num_frames
        self.offset, self.frame_seconds = frame_offset, frame_seconds
        self.generator = generator

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised waveforms [size, N], labels [size, frames, 15] and `band_levels` of the speech alone [size, frames, 12]."""
        samples, labels, levels = (torch.from_numpy(np.stack(items)) for items in zip(*(self._crop() for _ in range(size))))
        return samples, labels, levels

    def _crop(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        generator = self.generator
        source = self.sources[generator.choice(len(self.sources), p=self.weights)]
        if source == "noise":
            # Nobody speaks: room tone of any colour, which normalisation lifts to the level of speech, or music.
            playing = generator.random() < 0.3
            sound = music(self.length, generator) if playing else coloured_noise(self.length, generator.uniform(0, 2.5), generator)
            samples, speech = sound * 10 ** (-generator.uniform(10, 80) / 20), np.zeros(self.length, np.float32)
            labels = np.zeros((self.num_frames, NUM_VISEMES), np.float32)
            labels[:, 0] = 1
        else:
            utterance = self._utterance(source)
            # Playing faster raises pitch and formants together, as a shorter vocal tract does; the fastest sound like children.
            speed = math.exp(generator.uniform(-0.22, 0.32)) if generator.random() < 0.8 else 1.0
            duration = len(utterance.samples) / SAMPLE_RATE
            span = self.length / SAMPLE_RATE * speed
            start = generator.uniform(min(-0.3, duration - span), max(0.3, duration - span + 0.3))
            speech = _read(utterance.samples, start, speed, self.length)
            babble = sum(_read(self._utterance(source).samples, 0.0, 1.0, self.length) for _ in range(2))
            samples = augment(speech, babble, generator)
            near = [item for item in utterance.segments if item.end > start - 0.1 and item.start < start + span + 0.1]
            labels = coverage(near, self.num_frames, self.frame_seconds * speed, start + self.offset * speed)
        # Recordings differ in how much of them is silence, hence in the level normalisation gives their speech.
        samples = normalize_loudness(samples) * np.float32(10 ** (generator.uniform(-8, 6) / 20))
        return samples, labels, band_levels(speech, self.num_frames, self.offset, self.frame_seconds)

    def _utterance(self, source: str) -> Utterance:
        group = self.groups[source]
        return group[self.generator.integers(len(group))]


@lru_cache(maxsize=1)
def band_filters() -> np.ndarray:
    """Triangles on the mel scale from 100 Hz to 7 kHz: float32 [bins, 12]."""
    mel = np.linspace(1127 * math.log1p(100 / 700), 1127 * math.log1p(7000 / 700), NUM_BANDS + 2)
    edges = 700 * np.expm1(mel / 1127)
    hertz = np.fft.rfftfreq(512, 1 / SAMPLE_RATE)[:, None]
    rising, falling = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return np.maximum(np.minimum(rising, falling), 0).astype(np.float32)


def band_levels(samples: np.ndarray, num_frames: int, offset: float, frame_seconds: float) -> np.ndarray:
    """log10 of the power in twelve mel bands around each frame's middle, relative to the crop's mean and not below -4: [num_frames, 12]."""
    middles = (offset + (np.arange(num_frames) + 0.5) * frame_seconds) * SAMPLE_RATE
    first = np.round(middles).astype(int)  # in the padded signal: half a window earlier
    frames = np.pad(samples, BAND_WINDOW // 2 + 1)[first[:, None] + np.arange(BAND_WINDOW)] * np.hanning(BAND_WINDOW).astype(np.float32)
    power = np.abs(fft.rfft(frames, 512, axis=1)) ** 2 @ band_filters()
    return np.log10(power / max(float(power.mean()), 1e-9) + 1e-4).astype(np.float32)


def played_at(samples: np.ndarray, speed: float) -> np.ndarray:
    """The whole recording faster and higher by `speed`, as int16."""
    return (_read(samples, 0.0, speed, int(len(samples) / speed)) * 32767).astype(np.int16)


def _read(samples: np.ndarray, start: float, speed: float, length: int) -> np.ndarray:
    """`length` samples from `start` seconds at `speed`, float32 in [-1, 1]; zeros outside the recording."""
    position = start * SAMPLE_RATE + np.arange(length) * speed
    first = max(0, math.floor(position[0]))
    piece = samples[first : max(first, math.ceil(position[-1]) + 1)].astype(np.float32) / 32768
    if not len(piece):
        return np.zeros(length, np.float32)
    if speed == 1.0 and first == position[0]:
        return np.pad(piece[:length], (0, max(0, length - len(piece))))  # interpolation is the slower way
    return np.interp(position - first, np.arange(len(piece)), piece, left=0, right=0).astype(np.float32)
