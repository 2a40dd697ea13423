"""What is voice in a recording, at the level the networks know: no rumble, no long-term changes of loudness, no music before it."""

from functools import lru_cache

import numpy as np

from .voice_activity import FRAME, SAMPLE_RATE, voiced_frames

# Below lies wind, traffic, handling noise and what a drifting converter adds; no voice.  Hz, and the filter's reach in samples.
_CUTOFF, _HALF_LENGTH = 70.0, 960
_FFT_LENGTH, _BLOCK = 2**14, 1500
# Loudness is the mean level of the voice nearby, weighted by exp(-|t| / 1.5 s) and no further off than 6 s.
_MEMORY_SECONDS, _HORIZON_SECONDS = 1.5, 6.0
# Frames this much quieter than the loudest one within half a second are pauses, dB.
_GATE, _GATE_REACH = 20.0, 25
# The level voice is brought to, dB: chosen so that on clean recordings of read speech it is that of unit variance.
_TARGET = -0.5
# What is quieter is left where it is: noise would be blown up to speech.
_FLOOR = -60.0


def normalize_loudness(samples: np.ndarray) -> np.ndarray:
    """Voice at one loudness, float32 [N] of about unit variance while somebody speaks, of float samples [N] at 16 kHz.

    The gain follows the loudness of the voice, up to 6 s before and after.  Where there is none, the loudness of everything counts.
    """
    return _normalize(samples)[0]


def hear_voice(samples: np.ndarray) -> np.ndarray:
    """`normalize_loudness`, with silence where nobody speaks."""
    clean, voiced = _normalize(samples)
    clean[~np.repeat(voiced, FRAME)[:len(clean)]] = 0
    return clean


def _normalize(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`normalize_loudness`, and whether somebody speaks in each 20 ms of the result, bool [ceil(N / 320)]."""
    clean = high_pass(samples)
    voiced = voiced_frames(clean)
    if not len(clean):
        return clean, voiced
    gain = 10 ** ((_TARGET - np.maximum(_followed_loudness(_levels(clean), voiced), _FLOOR)) / 20)
    _amplify(clean, gain.astype(np.float32))
    return clean, voiced


def _amplify(samples: np.ndarray, gain: np.ndarray) -> None:
    """Multiply samples, in place, by a gain that is given for the middle of each frame and runs straight from one to the next."""
    edges = np.concatenate([gain[:1], (gain[1:] + gain[:-1]) / 2, gain[-1:]])
    ramp = (np.arange(FRAME, dtype=np.float32) + 0.5) / FRAME
    for frame in range(0, len(gain), _BLOCK):  # without a second recording's worth of memory
        begin, end = edges[frame:frame + _BLOCK + 1][:-1, None], edges[frame:frame + _BLOCK + 1][1:, None]
        piece = samples[frame * FRAME:(frame + _BLOCK) * FRAME]
        piece *= (begin + (end - begin) * ramp).reshape(-1)[:len(piece)]


@lru_cache(maxsize=1)
def _kernel_spectrum() -> np.ndarray:
    """Of a linear-phase high-pass: 60 dB down at 54 Hz and below, flat above 86 Hz."""
    time = np.arange(-_HALF_LENGTH, _HALF_LENGTH + 1) / SAMPLE_RATE
    kernel = -np.sinc(2 * _CUTOFF * time) * np.kaiser(len(time), 6)
    kernel /= -kernel.sum()
    kernel[_HALF_LENGTH] += 1
    return np.fft.rfft(kernel, _FFT_LENGTH).astype(np.complex64)


def high_pass(samples: np.ndarray) -> np.ndarray:
    """Everything above 70 Hz, float32 [N], in its place: the filter is symmetric, its reach 60 ms."""
    spectrum, step = _kernel_spectrum(), _FFT_LENGTH - 2 * _HALF_LENGTH
    # A recording does not begin and end with a click because its mean is not zero.
    padded = np.pad(samples.astype(np.float32), (_HALF_LENGTH, _HALF_LENGTH), mode="edge") if len(samples) else np.zeros(0, np.float32)
    filtered = np.empty(len(samples), np.float32)
    for start in range(0, len(samples), step):
        block = np.fft.irfft(np.fft.rfft(padded[start:start + _FFT_LENGTH], _FFT_LENGTH) * spectrum)
        filtered[start:start + step] = block[2 * _HALF_LENGTH:][:len(filtered) - start]
    return filtered


def _levels(samples: np.ndarray) -> np.ndarray:
    """Root mean square of each 20 ms in dB, [ceil(N / 320)]."""
    frames = np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)
    return 10 * np.log10(np.einsum("tn,tn->t", frames, frames) / FRAME + 1e-12)


def _followed_loudness(levels: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """The gated loudness of the voice around each frame in dB, [T]; that of everything where there is no voice."""
    loudness = np.full(len(levels), 10 * np.log10(np.mean(10 ** (levels / 10))))
    masked = np.where(voiced, levels, -np.inf)
    loudest = np.lib.stride_tricks.sliding_window_view(np.pad(masked, _GATE_REACH, constant_values=-np.inf), 2 * _GATE_REACH + 1).max(-1)
    counted = voiced & (levels > loudest - _GATE)
    if counted.any():
        reach = round(_HORIZON_SECONDS * SAMPLE_RATE / FRAME)
        kernel = np.exp(-np.abs(np.arange(-reach, reach + 1)) * FRAME / SAMPLE_RATE / _MEMORY_SECONDS)
        weight = np.convolve(counted, kernel)[reach:-reach]
        near = weight > 1e-6
        loudness[near] = np.convolve(np.where(counted, levels, 0), kernel)[reach:-reach][near] / weight[near]
    return loudness
