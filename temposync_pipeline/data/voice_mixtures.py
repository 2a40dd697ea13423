"""Recordings of which it is known when somebody speaks: music, then speech, perhaps over it, on any line and at any level."""

from dataclasses import dataclass

import numpy as np

from ..media.loudness import high_pass
from ..media.voice_activity import FRAME, SAMPLE_RATE
from ..models.visemes import VISEME_INDEX
from .speech_augmentation import augment, coloured_noise
from .viseme_corpus import Utterance
from .viseme_labels import coverage

_FRAME_SECONDS = FRAME / SAMPLE_RATE


@dataclass
class Mixture:
    """samples: float32 [N] at 16 kHz, above 70 Hz.  spoken: share of each 20 ms in which somebody speaks, float32 [N / 320]."""

    samples: np.ndarray
    spoken: np.ndarray


class MixtureMaker:
    """Draws mixtures of `seconds` of utterances and of other sounds, float or int16 [N] each at 16 kHz.

    Args:
        mute_share: of the mixtures have no speech; as many have nothing else.
    """

    def __init__(self, utterances: list[Utterance], others: list[np.ndarray], seconds: float = 12.0, mute_share: float = 0.2):
        self.utterances, self.others, self.mute_share = utterances, others, mute_share
        self.frames = round(seconds / _FRAME_SECONDS)
        self.length = self.frames * FRAME

    def draw(self, rng: np.random.Generator) -> Mixture:
        kind = rng.random()
        voice, spoken = np.zeros(self.length, np.float32), np.zeros(self.frames, np.float32)
        other = np.zeros(self.length, np.float32)
        if kind >= self.mute_share:
            voice, spoken = self._speech(rng)
        if kind < 1 - self.mute_share and self.others:
            other = self._other(rng, spoken)
        mixture = voice + other + 10 ** (-rng.uniform(45, 80) / 20) * self._noise(rng)
        mixture = mixture / max(1e-3, float(np.abs(mixture).max())) * 10 ** (-rng.uniform(0, 35) / 20)
        return Mixture(high_pass(mixture), spoken)

    def _speech(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Utterances with pauses between them, from one microphone in one room, of unit deviation while they last."""
        voice, spoken = np.zeros(self.length, np.float32), np.zeros(self.frames, np.float32)
        frame = int(rng.integers(0, self.frames // 2)) if rng.random() < 0.7 else 0
        while frame < self.frames:
            utterance = self.utterances[rng.integers(len(self.utterances))]
            first = int(rng.integers(max(1, len(utterance.samples) // FRAME - self.frames // 2)))  # of a long one, some part
            said = utterance.samples[first * FRAME:(first + self.frames - frame) * FRAME].astype(np.float32)
            said = said[:len(said) // FRAME * FRAME]
            frames = len(said) // FRAME
            if not frames:
                break
            voice[frame * FRAME:(frame + frames) * FRAME] = said / max(1.0, float(said.std()))
            silent = coverage(utterance.segments, frames, _FRAME_SECONDS, first * _FRAME_SECONDS)[:, VISEME_INDEX["sil"]]
            spoken[frame:frame + frames] = 1 - silent
            frame += frames + int(rng.exponential(1.5) / _FRAME_SECONDS)
        if rng.random() < 0.6:
            voice = augment(voice, np.zeros_like(voice), rng)
        return voice, spoken

    def _other(self, rng: np.random.Generator, spoken: np.ndarray) -> np.ndarray:
        """Another sound: louder than a voice where nobody speaks, mostly gone or much fainter where somebody does."""
        sound = self.others[rng.integers(len(self.others))]
        sound = np.roll(sound, int(rng.integers(len(sound)))).astype(np.float32)
        sound = varied(np.resize(sound, 3 * self.length // 2), self.length, rng)
        sound /= max(1e-3, float(sound.std()))
        alone, beneath = 10 ** (rng.uniform(-20, 15) / 20), 10 ** (-rng.uniform(2, 32) / 20)
        if not spoken.any():
            return alone * sound
        near = np.convolve(spoken, np.ones(15), "same") > 0
        # It ends when speech begins, goes on fainter, or was always faint.
        gain = np.where(near, beneath * (rng.random() < 0.7), beneath if rng.random() < 0.3 else alone)
        gain = np.convolve(np.pad(gain, 5, mode="edge"), np.ones(11) / 11, "valid")
        return sound * np.repeat(gain, FRAME).astype(np.float32)

    def _noise(self, rng: np.random.Generator) -> np.ndarray:
        return coloured_noise(self.length, rng.uniform(0, 2), rng)


def varied(sound: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """The beginning of a sound as another instrument, room and line would make it, float32 [length] of [1.4 · length or more].

    It may be faster and higher, or slower and deeper, by a factor of up to 1.4: no instrument has formants of its own.
    """
    if rng.random() < 0.6:
        sound = np.interp(np.arange(length) * rng.uniform(1 / 1.4, 1.4), np.arange(len(sound)), sound).astype(np.float32)
    sound = sound[:length]
    return augment(sound, np.zeros_like(sound), rng) if rng.random() < 0.5 else sound
