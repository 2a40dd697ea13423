"""Recordings of which it is known when somebody speaks: music, then speech, perhaps over it, on any line and at any level."""

import math
from dataclasses import dataclass

import numpy as np

from ..media.loudness import high_pass
from ..media.voice_activity import FRAME, SAMPLE_RATE
from ..models.visemes import VISEME_INDEX
from .speech_augmentation import augment, coloured_noise
from .viseme_corpus import Utterance
from .viseme_labels import coverage

_FRAME_SECONDS = FRAME / SAMPLE_RATE
# By how much a voice is made faster and higher: women's become children's.
_HIGHEST_VOICE = 1.35


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
        speed = rng.uniform(0.8, _HIGHEST_VOICE) if rng.random() < 0.3 else 1.0
        total = math.ceil(self.frames * speed)
        voice, spoken = np.zeros(total * FRAME, np.float32), np.zeros(total, np.float32)
        frame = int(rng.integers(0, self.frames // 2)) if rng.random() < 0.7 else 0
        while frame < total:
            utterance = self.utterances[rng.integers(len(self.utterances))]
            first = int(rng.integers(max(1, len(utterance.samples) // FRAME - self.frames // 2)))  # of a long one, some part
            said = utterance.samples[first * FRAME:(first + total - frame) * FRAME].astype(np.float32)
            said = said[:len(said) // FRAME * FRAME]
            frames = len(said) // FRAME
            if not frames:
                break
            voice[frame * FRAME:(frame + frames) * FRAME] = said / max(1.0, float(said.std()))
            silent = coverage(utterance.segments, frames, _FRAME_SECONDS, first * _FRAME_SECONDS)[:, VISEME_INDEX["sil"]]
            spoken[frame:frame + frames] = 1 - silent
            frame += frames + int(rng.exponential(1.5) / _FRAME_SECONDS)
        if speed != 1:  # as a child or a giant would say it
            voice, spoken = played_at(voice, speed, self.length), played_at(spoken, speed, self.frames)
        if rng.random() < 0.6:
            voice = augment(voice, np.zeros_like(voice), rng)
        return voice, spoken

    def _other(self, rng: np.random.Generator, spoken: np.ndarray) -> np.ndarray:
        """Another sound: louder than a voice where nobody speaks, mostly gone or much fainter where somebody does."""
        sound = self._sound(rng)
        if rng.random() < 0.25:  # two at once
            sound = sound + 10 ** (-rng.uniform(0, 12) / 20) * self._sound(rng)
        sound /= max(1e-3, float(sound.std()))
        alone, beneath = 10 ** (rng.uniform(-20, 15) / 20), 10 ** (-rng.uniform(2, 32) / 20)
        if not spoken.any():
            return alone * sound
        near = np.convolve(spoken, np.ones(15), "same") > 0
        # It ends when speech begins, goes on fainter, or was always faint.
        gain = np.where(near, beneath * (rng.random() < 0.7), beneath if rng.random() < 0.3 else alone)
        gain = np.convolve(np.pad(gain, 5, mode="edge"), np.ones(11) / 11, "valid")
        return sound * np.repeat(gain, FRAME).astype(np.float32)

    def _sound(self, rng: np.random.Generator) -> np.ndarray:
        """Some part of one of the other sounds, varied, of unit deviation."""
        sound = self.others[rng.integers(len(self.others))]
        sound = np.roll(sound, int(rng.integers(len(sound)))).astype(np.float32)
        sound = varied(np.resize(sound, 3 * self.length // 2), self.length, rng)
        return sound / max(1e-3, float(sound.std()))

    def _noise(self, rng: np.random.Generator) -> np.ndarray:
        return coloured_noise(self.length, rng.uniform(0, 2), rng)


def varied(sound: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """The beginning of a sound as another instrument, player, room and line would make it, float32 [length] of [1.5 · length or more].

    It may be faster and higher, or slower and deeper, by a factor of up to 1.4: no instrument has formants of its own.  Its pitch may
    waver, as a voice's does, and it may sound through a body with resonances like those of a mouth.
    """
    speed = rng.uniform(1 / 1.4, 1.4) if rng.random() < 0.6 else 1.0
    if rng.random() < 0.2:
        sound = played_at(sound, speed * wavering(length, rng), length)
    elif speed != 1:
        sound = played_at(sound, speed, length)
    sound = sound[:length]
    if rng.random() < 0.4:
        sound = np.fft.irfft(np.fft.rfft(sound) * resonances(length // 2 + 1, rng), length).astype(np.float32)
    return augment(sound, np.zeros_like(sound), rng) if rng.random() < 0.5 else sound


def played_at(values: np.ndarray, speed: float | np.ndarray, length: int) -> np.ndarray:
    """Samples or frames played at another speed, be it one or that of each of them, float32 [length]."""
    position = np.arange(length) * speed if np.isscalar(speed) else np.cumsum(speed)
    return np.interp(position, np.arange(len(values)), values).astype(np.float32)


def wavering(length: int, rng: np.random.Generator) -> np.ndarray:
    """Speeds about 1 [length], within 7 percent: a vibrato, and glides as those of a voice's tune."""
    time = np.arange(length) / SAMPLE_RATE
    vibrato = rng.uniform(0, 0.03) * np.sin(2 * np.pi * rng.uniform(3, 8) * time + rng.uniform(0, 6.3))
    turns = rng.uniform(-0.04, 0.04, max(2, int(time[-1] * rng.uniform(0.5, 6))))
    return 1 + vibrato + np.interp(time, np.linspace(0, time[-1], len(turns)), turns)


def resonances(num_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Magnitude response [num_bins] to 8 kHz of a body with some resonances, of up to 26 dB each."""
    hertz = np.linspace(0, SAMPLE_RATE / 2, 1025)
    response = np.ones(len(hertz))
    for centre in np.exp(rng.uniform(np.log(250), np.log(4000), int(rng.integers(1, 6)))):
        response += rng.uniform(0, 20) / (1 + ((hertz - centre) / (rng.uniform(0.05, 0.3) * centre)) ** 2)
    return np.interp(np.linspace(0, 1024, num_bins), np.arange(1025), response).astype(np.float32)
