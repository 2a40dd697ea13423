"""Random rooms, microphones and noise for speech crops; numpy only, one FFT per crop."""

from functools import lru_cache

import numpy as np
from scipy import fft

SAMPLE_RATE = 16_000


@lru_cache(maxsize=16)
def _noise_reel(exponent: float) -> np.ndarray:
    """Twenty seconds of noise to cut from: making each crop's noise anew would cost more than training on it."""
    length = 20 * SAMPLE_RATE
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(length))
    frequency = np.maximum(np.arange(len(spectrum)), 1 + 20 * length / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum * frequency ** (-exponent / 2), length)
    return (noise / noise.std()).astype(np.float32)


def coloured_noise(length: int, exponent: float, generator: np.random.Generator) -> np.ndarray:
    """Noise of unit variance and power spectrum 1 / f^exponent (0 white, 1 pink, 2 brown; nearest quarter), float32 [length]."""
    reel = _noise_reel(round(4 * exponent) / 4)
    start = generator.integers(len(reel) - length)
    return reel[start : start + length]


def impulse_response(reverberation_time: float, direct_gain: float, generator: np.random.Generator) -> np.ndarray:
    """A synthetic room: the direct sound, then Gaussian noise that falls by 60 dB in `reverberation_time` seconds.

    The tail has unit energy, so `direct_gain` squared is the direct-to-reverberant ratio.  The direct sound comes
    first: labels stay in time.
    """
    length = max(2, int(reverberation_time * SAMPLE_RATE))
    tail = generator.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail[: SAMPLE_RATE // 500] = 0  # no reflection within 2 ms
    tail /= max(np.linalg.norm(tail), 1e-9)
    tail[0] = direct_gain
    return tail / np.linalg.norm(tail)


def channel_response(num_bins: int, generator: np.random.Generator) -> np.ndarray:
    """Magnitude response of a random microphone or line: spectral tilt, broad ripples, sometimes a band limit; [num_bins] to 8 kHz."""
    frequency = np.linspace(0, SAMPLE_RATE / 2, 513)
    octave = np.log2(np.maximum(frequency, 50) / 1000)
    ripple = np.sin(generator.uniform(0.5, 2) * octave + generator.uniform(0, 6.3))
    decibel = generator.uniform(-3, 3) * octave + generator.uniform(0, 4) * ripple
    response = 10 ** (decibel / 20)
    kind = generator.random()
    if kind < 0.15:  # telephone
        response *= (frequency > generator.uniform(200, 350)) & (frequency < generator.uniform(3000, 3800))
    elif kind < 0.35:  # low bit rate
        response *= frequency < generator.uniform(3500, 7500)
    return np.interp(np.linspace(0, 512, num_bins), np.arange(513), response).astype(np.float32)


def augment(samples: np.ndarray, babble: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A crop as another room, line and background would give it, float32 [N].

    samples, babble: float32 [N]; babble is other people's speech, used as background in a fifth of the crops.
    """
    length = len(samples)
    response = np.float32(1)
    size = 2 * length
    if generator.random() < 0.7:
        response = channel_response(length + 1, generator)
    if generator.random() < 0.4:
        room = impulse_response(generator.uniform(0.08, 0.6), generator.uniform(0.8, 4), generator)
        response = response * fft.rfft(room[:length].astype(np.float32), size)
    samples = fft.irfft(fft.rfft(samples.astype(np.float32), size) * response, size)[:length]
    level = max(float(samples.std()), 1e-4)
    # Some recordings are clean; most have a floor between -45 and -5 dB.
    if generator.random() < 0.8:
        noise = coloured_noise(length, generator.uniform(0, 2), generator)
        samples = samples + noise * level * 10 ** (-generator.uniform(5, 45) / 20)
    if generator.random() < 0.2:
        samples = samples + babble / max(float(babble.std()), 1e-4) * level * 10 ** (-generator.uniform(5, 25) / 20)
    return samples.astype(np.float32)
