"""How well visemes are heard: agreement with aligned speech on video frames."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import signal

from ..data.speech_augmentation import coloured_noise, impulse_response, music, whispered
from ..data.viseme_corpus import Utterance, evaluation_utterances
from ..data.viseme_crops import played_at
from ..data.viseme_labels import SAMPLE_RATE, Segment, coverage
from ..models.viseme_classifier import VisemeClassifier
from ..models.visemes import NUM_VISEMES, VISEME_INDEX, VISEMES

_CLOSED = VISEME_INDEX["PP"]
# Closures are timed on frames this short, by the probability this close around them, in seconds.
_FINE_FPS, _NEAR = 100, 0.08


@dataclass
class VisemeScore:
    """Agreement of `argmax` visemes with the aligned ones on 25 fps frames; confusion[i, j] counts frames of viseme i called j."""

    confusion: np.ndarray
    audio_seconds: float
    compute_seconds: float
    closure_offsets: list[float] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / max(self.confusion.sum(), 1))

    @property
    def recall(self) -> np.ndarray:
        return np.diag(self.confusion) / np.maximum(self.confusion.sum(1), 1)

    @property
    def speech_accuracy(self) -> float:
        """Accuracy over frames that are not silence."""
        return float(np.trace(self.confusion[1:, 1:]) / max(self.confusion[1:].sum(), 1))

    def figures(self) -> dict[str, float]:
        """Shares, and by how many milliseconds p, b, m are heard after the middle of the closure (median)."""
        offset = float(np.median(self.closure_offsets)) if self.closure_offsets else math.nan
        return {"accuracy": self.accuracy, "speech_accuracy": self.speech_accuracy, "silence_recall": float(self.recall[0]),
                "pbm_recall": float(self.recall[_CLOSED]), "pbm_offset_ms": 1000 * offset}

    @property
    def times_real_time(self) -> float:
        return self.audio_seconds / max(self.compute_seconds, 1e-9)


def score_visemes(model: VisemeClassifier, utterances: Iterable[Utterance], fps: float = 25) -> VisemeScore:
    """Run `model.predict` over the utterances; a frame's true viseme is the one that fills most of its time."""
    confusion, audio, elapsed, offsets = np.zeros((NUM_VISEMES, NUM_VISEMES), int), 0.0, 0.0, []
    for item in utterances:
        num_frames = math.floor(len(item.samples) / SAMPLE_RATE * fps)
        began = time.perf_counter()
        samples = item.samples.astype(np.float32) / 32768
        predicted = model.predict(samples, num_frames, fps, voice_only=False).argmax(1)
        elapsed += time.perf_counter() - began
        closed = model.predict(samples, math.floor(len(samples) / SAMPLE_RATE * _FINE_FPS), _FINE_FPS, voice_only=False)[:, _CLOSED]
        offsets += closure_offsets(closed, item.segments)
        audio += len(item.samples) / SAMPLE_RATE
        np.add.at(confusion, (coverage(item.segments, num_frames, 1 / fps).argmax(1), predicted), 1)
    return VisemeScore(confusion, audio, elapsed, offsets)


def closure_offsets(closed: np.ndarray, segments: list[Segment]) -> list[float]:
    """Seconds by which each closure is heard late: centre of mass of P(PP) near it, less its middle; those not heard are left out.

    closed: [frames] at 100 fps.
    """
    times = (np.arange(len(closed)) + 0.5) / _FINE_FPS
    offsets = []
    for start, end, viseme in segments:
        near = (times > start - _NEAR) & (times < end + _NEAR)
        if viseme == _CLOSED and closed[near].max(initial=0) > 0.5:
            offsets.append(float((closed[near] * times[near]).sum() / closed[near].sum() - (start + end) / 2))
    return offsets


# --- other languages, other rooms --------------------------------------------------------------------------------------


def _mixed(background: Callable, decibels: float) -> Callable:
    def mix(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        sound = np.concatenate([background(4 * SAMPLE_RATE, generator) for _ in range(math.ceil(len(samples) / 4 / SAMPLE_RATE))])
        return samples + sound[: len(samples)] * max(float(samples.std()), 1e-4) * 10 ** (-decibels / 20)

    return mix


def _in_a_room(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return signal.fftconvolve(samples, impulse_response(0.5, 1.0, generator))[: len(samples)]


def _on_the_telephone(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return signal.sosfiltfilt(signal.butter(4, (300, 3400), "bandpass", fs=SAMPLE_RATE, output="sos"), samples)


# (samples in [-1, 1], generator) -> samples: what the same speech would sound like.
CONDITIONS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "clean": lambda samples, generator: samples,
    "noise at 10 dB": _mixed(lambda length, generator: coloured_noise(length, 1.0, generator), 10),
    "music at 10 dB": _mixed(music, 10),
    "a room of 0.5 s": _in_a_room,
    "telephone": _on_the_telephone,
    "whispered": whispered,
}
_CHILD = 1.3  # as much higher is a child's voice, formants and all


def heard_in(condition: str, utterances: Iterable[Utterance]) -> list[Utterance]:
    """The utterances in one of `CONDITIONS`, or in a child's voice ("child")."""
    if condition == "child":
        return [item._replace(
            samples=played_at(item.samples, _CHILD),
            segments=[Segment(start / _CHILD, end / _CHILD, viseme) for start, end, viseme in item.segments]) for item in utterances]
    generator = np.random.default_rng(0)
    changed = ((item, CONDITIONS[condition](item.samples.astype(np.float32) / 32768, generator)) for item in utterances)
    return [item._replace(samples=_int16(samples)) for item, samples in changed]


def _int16(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.round(samples / max(1.0, np.abs(samples).max()) * 32768), -32768, 32767).astype(np.int16)


def score_conditions(model: VisemeClassifier, utterances: list[Utterance]) -> dict[str, dict[str, float]]:
    """`figures` of the same utterances in each of `CONDITIONS` and in a child's voice."""
    return {name: score_visemes(model, heard_in(name, utterances)).figures() for name in (*CONDITIONS, "child")}


def score_languages(model: VisemeClassifier, voices: Iterable[str]) -> dict[str, dict[str, float]]:
    """`figures` of espeak-ng's evaluation sentences by voice; `of_english` is the accuracy over that of the first voice."""
    results = {voice: score_visemes(model, evaluation_utterances(voice)).figures() for voice in voices}
    first = next(iter(results.values()))["accuracy"]
    return {voice: figures | {"of_english": figures["accuracy"] / first} for voice, figures in results.items()}


def figures_table(results: dict[str, dict[str, float]]) -> str:
    """A Markdown table, a row each: shares in per cent, `_ms` in milliseconds, other figures with two decimals."""
    columns = list(dict.fromkeys(column for figures in results.values() for column in figures))

    def cell(column: str, value: float | None) -> str:
        if value is None or math.isnan(value):
            return ""
        if column.endswith("_ms"):
            return f"{value:.0f}"
        return f"{value:.2f}" if column in ("times_real_time", "of_english") else f"{value:.1%}"

    rows = [f"| {name} | {' | '.join(cell(column, figures.get(column)) for column in columns)} |" for name, figures in results.items()]
    return "\n".join([f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|", *rows]) + "\n"


def plot_confusion(score: VisemeScore, path: Path) -> None:
    """Row-normalised confusion matrix as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    share = score.confusion / np.maximum(score.confusion.sum(1, keepdims=True), 1)
    figure, axes = pyplot.subplots(figsize=(8, 7))
    axes.imshow(share, vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(NUM_VISEMES), VISEMES)
    axes.set_yticks(range(NUM_VISEMES), [f"{name} ({count})" for name, count in zip(VISEMES, score.confusion.sum(1))])
    axes.set_xlabel("predicted")
    axes.set_ylabel("aligned (frames)")
    axes.set_title(f"frame accuracy {score.accuracy:.1%}, speech frames {score.speech_accuracy:.1%}, silence recall {score.recall[0]:.1%}")
    for row, column in zip(*np.nonzero(share > 0.005)):
        colour = "white" if share[row, column] < 0.6 else "black"
        axes.text(column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
