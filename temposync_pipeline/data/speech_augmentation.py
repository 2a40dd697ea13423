"""Random rooms, microphones, noise, music and whispering for speech crops; numpy and scipy, a few FFTs per crop."""

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


@lru_cache(maxsize=8)
def music_reel(number: int) -> np.ndarray:
    """Twenty seconds of plucked chords, a tune above them and a drum, unit variance."""
    generator = np.random.default_rng(number)
    reel = np.zeros(20 * SAMPLE_RATE, np.float32)
    beat = SAMPLE_RATE * 60 / generator.uniform(70, 150)
    root, decay = generator.uniform(45, 57), generator.uniform(0.15, 1.2)
    for start in np.arange(0, len(reel) - beat, beat / 2):
        time = np.arange(min(int(1.5 * SAMPLE_RATE), len(reel) - int(start))) / SAMPLE_RATE
        sound = np.zeros(len(time))
        chord = root + generator.choice((0, 5, 7, 9)) + np.array((0, 4, 7)) if start % (4 * beat) < 1 else np.zeros(0)
        tune = root + 12 + generator.choice((0, 2, 4, 7, 9, 12), size=int(generator.random() < 0.7))
        for note in (*chord, *tune):
            frequency = 440 * 2 ** ((note - 69) / 12)
            for harmonic in range(1, min(12, int(7000 / frequency)) + 1):
                sound += np.sin(2 * np.pi * harmonic * frequency * time) * np.exp(-time / decay * harmonic**0.5) / harmonic
        if generator.random() < 0.4:
            sound += generator.standard_normal(len(time)) * np.exp(-time / 0.04)
        reel[int(start) : int(start) + len(time)] += sound.astype(np.float32)
    return reel / reel.std()


def music(length: int, generator: np.random.Generator) -> np.ndarray:
    """A piece of one of eight tunes, unit variance over the whole tune, float32 [length]."""
    reel = music_reel(int(generator.integers(8)))
    start = generator.integers(len(reel) - length)
    return reel[start : start + length]


def whispered(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Speech without a voice: noise with the speech's spectral envelope, weak at low frequencies as breath is; float32 [N]."""
    size, hop, quefrency = 512, 128, 36
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    padded = np.pad(samples.astype(np.float32), (size, size))
    noise = generator.standard_normal(len(padded)).astype(np.float32)
    starts = np.arange(0, len(padded) - size + 1, hop)
    frames = starts[:, None] + np.arange(size)
    cepstrum = fft.irfft(np.log(np.abs(fft.rfft(padded[frames] * window, axis=1)) + 1e-4), axis=1)
    cepstrum[:, quefrency : size - quefrency + 1] = 0
    envelope = np.exp(fft.rfft(cepstrum, axis=1).real)
    breath = np.minimum(np.arange(size // 2 + 1) * SAMPLE_RATE / size / 900, 1)
    pieces = fft.irfft(fft.rfft(noise[frames] * window, axis=1) * envelope * breath, axis=1) * window
    result = np.zeros(len(padded), np.float32)
    for start, piece in zip(starts, pieces, strict=True):
        result[start : start + size] += piece
    result = result[size : size + len(samples)]
    return result * np.float32(samples.std() / max(float(result.std()), 1e-9))


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
    if generator.random() < 0.06:
        samples = whispered(samples, generator)
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
    if generator.random() < 0.1:
        samples = samples + music(length, generator) * level * 10 ** (-generator.uniform(0, 25) / 20)
    return samples.astype(np.float32)
