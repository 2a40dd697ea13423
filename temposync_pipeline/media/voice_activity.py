"""Where in a recording somebody speaks: a small network that looks at how spectra move.

Notes, bells, drums and noise have spectra of their own, but none that wander like those of a voice.  The network (75,009 numbers) was
trained on speech of many voices and languages, whispers among it, against tunes, drums, rings, birds, sirens and noise that were
synthesised for it, and against music that was played (model card); level plays no part.  Without torch: listening
must not become slower for it.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

SAMPLE_RATE = 16_000
FRAME = SAMPLE_RATE // 50  # samples for which one judgement holds
_NUM_BANDS = 32
_WINDOW = 2 * FRAME
DILATIONS = (1, 2, 4, 8, 16, 32)  # of the network's convolutions
# Telephone lines carry no more than this, in Hz.
_LOWEST, _HIGHEST = 100.0, 4000.0
# Where the bands of `_steadiness` begin, in bins of 25 Hz.
_STEADY_BANDS = (4, 10, 16, 24, 36, 52, 76, 110)
# Frames that are looked at together, and frames on either side of them that the network sees as well: memory does not grow.
_BLOCK, _REACH = 1500, 120
_LEVEL_REACH = 50
# What is further below the strongest band of a spectrum, in dB, is not looked at: the floor of another recording.
_RANGE = 50
# A voice is believed from the first probability on, and until the second is no longer reached.
_BEGIN, _END = 0.95, 0.25
# In recordings of less than a second, mostly a word, on lower ones: hardly anything surrounds it that the network could go by.
_SHORT, _SHORT_BEGIN, _SHORT_END = 50, 0.2, 0.1
# Frames that a voice takes at least, in all but the shortest recordings: where notes break off, the network is misled for less.
_SHORTEST = 6
# Held notes: more than this share of so many frames (1.2 s) steadier than this.  Among 300 recordings of speech the share never passed
# 0.18; tunes, chords and single notes reach 0.75 and more.
_HELD_SHARE, _HELD_FRAMES, _HELD_STEADINESS = 0.45, 61, 0.8
# Multiplications of a product of matrices for which OpenBLAS takes one thread (interface/gemm.c).
_SINGLE_THREAD = 2**18
# Frames by which speech is widened on both sides: a soft onset, the end of a breath; pauses shorter than twice that close.
_WIDEN = 8


def voiced_frames(samples: np.ndarray) -> np.ndarray:
    """Whether somebody speaks, bool [ceil(N / 320)], for each 20 ms of float samples [N] (16 kHz, above 60 Hz: `loudness.high_pass`)."""
    return regions(voice_probability(samples))


def voice_probability(samples: np.ndarray) -> np.ndarray:
    """What `voiced_frames` decides upon, float32 [ceil(N / 320)] in [0, 1]."""
    total = -(-len(samples) // FRAME)
    parts = [np.zeros(0, np.float32)]
    for start in range(0, total, _BLOCK):
        first, last = max(0, start - _REACH), min(total, start + _BLOCK + _REACH)
        given, steady = _features(_spectra(samples, first, last))
        logits = _network(given, _weights())
        logits[_held_notes(steady)] = -30
        parts.append(logits[start - first:start - first + _BLOCK])
    return 1 / (1 + np.exp(-np.clip(np.concatenate(parts), -30, 30)))


def features(samples: np.ndarray) -> np.ndarray:
    """What the network looks at of each 20 ms, float32 [ceil(N / 320), 41]."""
    return _features(_spectra(samples, 0, -(-len(samples) // FRAME)))[0]


def _spectra(samples: np.ndarray, first: int, last: int) -> np.ndarray:
    """Complex spectra [last - first, 162] of frames `first` to `last`, up to 4 kHz; silence surrounds the recording."""
    before = (_WINDOW - FRAME) // 2
    start, end = first * FRAME - before, last * FRAME + before
    piece = samples[max(0, start):end].astype(np.float32)
    piece = np.pad(piece, (max(0, -start), end - max(0, start) - len(piece)))
    frames = np.lib.stride_tricks.sliding_window_view(piece, _WINDOW)[::FRAME]
    return np.fft.rfft(frames * _analysis()[0])[:, :len(_analysis()[1])]


@lru_cache(maxsize=1)
def _analysis() -> tuple[np.ndarray, np.ndarray]:
    """The window [640] and triangular, mel-spaced bands of unit sum [162, 32]."""
    mel = np.linspace(1127 * np.log1p(_LOWEST / 700), 1127 * np.log1p(_HIGHEST / 700), _NUM_BANDS + 2)
    hertz = 700 * np.expm1(mel / 1127)
    frequency = np.arange(_HIGHEST * _WINDOW / SAMPLE_RATE + 2)[:, None] * SAMPLE_RATE / _WINDOW
    rising, falling = (frequency - hertz[:-2]) / np.diff(hertz)[:-1], (hertz[2:] - frequency) / np.diff(hertz)[1:]
    bands = np.clip(np.minimum(rising, falling), 0, None)
    return np.hanning(_WINDOW + 1)[:-1].astype(np.float32), (bands / np.maximum(bands.sum(0), 1e-9)).astype(np.float32)


def _features(spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shape of each spectrum in bels, how far it is below the loudest within a second, and its `_steadiness` by band: float32 [T, 41];
    and its steadiness as a whole [T]."""
    steadiness, steady = _steadiness(spectra)
    decibels = 10 * np.log10(_product(spectra.real**2 + spectra.imag**2, _analysis()[1]) + 1e-7)
    level = decibels.max(1)
    decibels = np.maximum(decibels, level[:, None] - _RANGE)
    loudest = np.lib.stride_tricks.sliding_window_view(np.pad(level, _LEVEL_REACH, mode="edge"), 2 * _LEVEL_REACH + 1).max(1)
    shape = (decibels - decibels.mean(1, keepdims=True)) / 10
    return np.column_stack([shape, np.clip((level - loudest) / 20, -3, 0), 2 * steadiness]).astype(np.float32), steady


def _steadiness(spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How well the two frames before predict each spectrum: by band [T, 8] and as a whole [T]; 1 for the partials of a held note.

    A partial that keeps its frequency turns its phase by the same angle from frame to frame; those of a voice never do for long.
    """
    magnitude = np.abs(spectra) + 1e-9
    turning = spectra / magnitude
    predicted = magnitude[1:-1] * turning[1:-1] ** 2 * turning[:-2].conj()
    off = np.add.reduceat(np.abs(spectra[2:] - predicted), _STEADY_BANDS, axis=1)
    most = np.add.reduceat(magnitude[2:] + magnitude[1:-1], _STEADY_BANDS, axis=1)
    start = np.zeros((2, len(_STEADY_BANDS)))
    by_band, whole = np.concatenate([start, 1 - off / most]), np.concatenate([start[:, 0], 1 - off.sum(1) / most.sum(1)])
    return by_band[:len(spectra)], whole[:len(spectra)]


def _held_notes(steadiness: np.ndarray) -> np.ndarray:
    """Whether notes are held most of the second around each frame, bool [T], whatever the network thinks of their spectra."""
    around = np.ones(_HELD_FRAMES)
    held, frames = (np.convolve(values, around)[_HELD_FRAMES // 2:][:len(values)] for values in
                    (steadiness > _HELD_STEADINESS, np.ones(len(steadiness))))
    return held > _HELD_SHARE * frames


@lru_cache(maxsize=1)
def _weights() -> dict[str, np.ndarray]:
    return {name: value.astype(np.float32) for name, value in load_file(Path(__file__).with_suffix(".safetensors")).items()}


def _network(features: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Logits [T] of features [T, 41]: residual convolutions of growing dilation, each followed by a ReLU."""
    hidden = np.maximum(_convolve(features, weights["convs.0.weight"], weights["convs.0.bias"], 1), 0)
    for layer, dilation in enumerate(DILATIONS[1:], start=1):
        hidden = hidden + np.maximum(_convolve(hidden, weights[f"convs.{layer}.weight"], weights[f"convs.{layer}.bias"], dilation), 0)
    return (hidden * weights["head.weight"][0, :, 0]).sum(1) + weights["head.bias"][0]


def _convolve(values: np.ndarray, weight: np.ndarray, bias: np.ndarray, dilation: int) -> np.ndarray:
    """A convolution over time, [T, C] to [T, D] with weight [D, C, K]; zeros surround the values."""
    taps = weight.shape[2]
    padded = np.pad(values, ((dilation * (taps // 2),) * 2, (0, 0)))
    columns = [padded[tap * dilation:tap * dilation + len(values)] for tap in range(taps)]
    return _product(np.concatenate(columns, 1), weight.transpose(2, 1, 0).reshape(-1, len(weight))) + bias


def _product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Of [T, K] and [K, N > 1], some rows at a time: so few that OpenBLAS takes one thread for them.

    For more it takes all cores, and its threads keep them for some 0.1 s, waiting for another product, while torch has work for them.
    """
    count = max(1, _SINGLE_THREAD // matrix.size)
    return np.concatenate([rows[start:start + count] @ matrix for start in range(0, len(rows), count)] or [rows @ matrix])


def regions(probability: np.ndarray) -> np.ndarray:
    """Where somebody speaks, bool [T], of probabilities [T]: what stays above the lower threshold and reaches the upper one, widened."""
    begin, end = (_BEGIN, _END) if len(probability) >= _SHORT else (_SHORT_BEGIN, _SHORT_END)
    likely = probability > end
    edges = np.flatnonzero(np.diff(np.concatenate([[False], likely, [False]])))
    voiced = np.zeros(len(probability), bool)
    for first, last in edges.reshape(-1, 2):
        if probability[first:last].max() > begin and last - first >= min(_SHORTEST, len(probability) // 3):
            voiced[max(0, first - _WIDEN):last + _WIDEN] = True
    return voiced
