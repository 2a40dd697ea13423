"""How well visemes are heard: agreement with aligned speech on video frames."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.viseme_corpus import Utterance
from ..data.viseme_labels import SAMPLE_RATE, coverage
from ..models.viseme_classifier import VisemeClassifier
from ..models.visemes import NUM_VISEMES, VISEMES


@dataclass
class VisemeScore:
    """Agreement of `argmax` visemes with the aligned ones on 25 fps frames; confusion[i, j] counts frames of viseme i called j."""

    confusion: np.ndarray
    audio_seconds: float
    compute_seconds: float

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
        return {"accuracy": self.accuracy, "speech_accuracy": self.speech_accuracy, "silence_recall": float(self.recall[0])}

    @property
    def times_real_time(self) -> float:
        return self.audio_seconds / max(self.compute_seconds, 1e-9)


def score_visemes(model: VisemeClassifier, utterances: Iterable[Utterance], fps: float = 25) -> VisemeScore:
    """Run `model.predict` over the utterances; a frame's true viseme is the one that fills most of its time."""
    confusion, audio, elapsed = np.zeros((NUM_VISEMES, NUM_VISEMES), int), 0.0, 0.0
    for item in utterances:
        num_frames = math.floor(len(item.samples) / SAMPLE_RATE * fps)
        began = time.perf_counter()
        predicted = model.predict(item.samples.astype(np.float32) / 32768, num_frames, fps, voice_only=False).argmax(1)
        elapsed += time.perf_counter() - began
        audio += len(item.samples) / SAMPLE_RATE
        np.add.at(confusion, (coverage(item.segments, num_frames, 1 / fps).argmax(1), predicted), 1)
    return VisemeScore(confusion, audio, elapsed)


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
