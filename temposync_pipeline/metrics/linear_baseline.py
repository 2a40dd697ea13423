"""What a method must beat: the opening of the lips as a linear map of a few frames of what the viseme classifier hears.

    python -m temposync_pipeline.metrics.linear_baseline --lips LIPS --model temposync-tiny --output CHECKPOINT

LIPS: `training.lip_corpus`, made with MODEL's classifier.  Fits a map of the visemes (±5 frames) and one of the classifier's hidden state
(±4 frames) on the training talkers, prints how they do on the others and writes them to CHECKPOINT/linear_baseline_{visemes,hidden}, from
where `temposync evaluate` reads them.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..checkpoints import checkpoint_folder
from ..errors import InvalidInputError
from ..face.lip_shape import OPENING, TYPICAL_MOTION
from ..files import called
from ..models.conditioning import viseme_windows
from ..models.viseme_classifier import Hearing, VisemeClassifier
from .lips import lip_correlation

# What is read, and how many frames before and after.
RADII = {"visemes": 5, "hidden": 4}
# Of 0.01 to 1, the one that follows held-out talkers and natural speech best; a factor of three matters little.
RIDGE = 0.1


class LinearBaseline(ModelMixin, ConfigMixin):
    """opening[t] = bias + Σ weight[k] · heard[t + k], k in ±radius; the ends repeat.

    Args:
        reads: the field of `Hearing` that it reads, with `channels` numbers a frame.
        classifier: `classifier_hash` of the classifier it was fitted to: hidden states mean something else in every other.
    """

    @register_to_config
    def __init__(self, reads: str = "visemes", channels: int = 15, radius: int = 5, classifier: str = ""):
        super().__init__()
        self.weigh = nn.Conv1d(channels, 1, 2 * radius + 1, padding=radius, padding_mode="replicate")

    def forward(self, heard: torch.Tensor) -> torch.Tensor:
        """Opening [B, T], in interocular distances, of what is heard [B, T, channels]."""
        return self.weigh(heard.transpose(1, 2))[:, 0]

    @torch.inference_mode()
    def predict(self, hearing: Hearing) -> np.ndarray:
        """Opening of one recording, float32 [T]; unlike an opening it may be below 0."""
        heard = torch.from_numpy(getattr(hearing, self.config.reads)).to(self.device, self.dtype)
        return self(heard[None])[0].float().cpu().numpy()

    def fits(self, classifier: VisemeClassifier) -> bool:
        """Whether it understands this classifier; visemes are the same in all of them."""
        return self.config.reads == "visemes" or self.config.classifier == classifier_hash(classifier)


def classifier_hash(classifier: nn.Module) -> str:
    """SHA-256, its first 16 digits, of a network's weights, the same for float16 and float32 copies of what float16 can hold."""
    digest = hashlib.sha256()
    for name, weight in sorted(classifier.state_dict().items()):
        digest.update(name.encode() + weight.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def fit(heard: list[np.ndarray], openings: list[np.ndarray], reads: str, radius: int, classifier: str = "",
        ridge: float = RIDGE) -> LinearBaseline:
    """Ridge regression (Hoerl and Kennard 1970): the weights w of least mean (w·x - opening)² + ridge · Σ (std(x)·w)².

    `heard` [T, channels] and `openings` [T], in interocular distances, of each recording.  Each opening counts from its own mean, which is
    the talker's and cannot be heard; the bias puts their common mean back.
    """
    channels, size = heard[0].shape[1], 2 * radius + 1
    x = np.concatenate([viseme_windows(values, size).reshape(len(values), -1) for values in heard]).astype(np.float32)
    y = np.concatenate([opening - opening.mean() for opening in openings])
    mean, std = x.mean(0), x.std(0) + 1e-3
    x -= mean
    x /= std
    gram = x.T @ x / len(x) + ridge * np.eye(x.shape[1], dtype=np.float32)
    weight = np.linalg.solve(gram, x.T @ y / len(x)) / std
    baseline = LinearBaseline(reads, channels, radius, classifier)
    with torch.no_grad():
        baseline.weigh.weight.copy_(torch.from_numpy(weight.reshape(size, channels).T))
        baseline.weigh.bias.fill_(float(np.concatenate(openings).mean() - mean @ weight))
    return baseline.eval()


def fit_to_corpus(folder: Path, model: str) -> dict[str, LinearBaseline]:
    """The baselines of `RADII`, fitted on LIPS/talkers_train.npz; prints their figures on talkers_val.npz where there is one."""
    from ..training.lip_corpus import load_recordings

    if not (folder / "talkers_train.npz").exists():
        raise InvalidInputError(f"{called(folder)}: no talkers_train.npz; `python -m temposync_pipeline.training.lip_corpus` writes it")
    classifier = VisemeClassifier.from_pretrained(checkpoint_folder(model, ("viseme_classifier",)), subfolder="viseme_classifier")
    recordings = load_recordings(folder / "talkers_train.npz")
    held_out = load_recordings(folder / "talkers_val.npz") if (folder / "talkers_val.npz").exists() else []
    baselines = {}
    for reads, radius in RADII.items():
        openings = [TYPICAL_MOTION[OPENING] * item.motion[:, OPENING] for item in recordings]
        baselines[reads] = fit([getattr(item, reads) for item in recordings], openings, reads, radius, classifier_hash(classifier))
        scores = [lip_correlation(baselines[reads].predict(item), TYPICAL_MOTION[OPENING] * item.motion[:, OPENING]) for item in held_out]
        if scores:
            r, best, amplitude = (np.mean([getattr(score, name) for score in scores]) for name in ("r", "r_at_best_lag", "amplitude_ratio"))
            print(f"{reads}: lip r {r:.3f}, at the best lag {best:.3f}, amplitude {amplitude:.2f} on {len(scores)} held-out recordings")
    return baselines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lips", type=Path, required=True)
    parser.add_argument("--model", default="temposync-tiny")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    for reads, baseline in fit_to_corpus(arguments.lips, arguments.model).items():
        baseline.save_pretrained(arguments.output / f"linear_baseline_{reads}")


if __name__ == "__main__":
    main()
