"""Stage `visemes`: VisemeClassifier, from scratch on aligned and synthesised speech.

The first run aligns the real speech and synthesises the rest into `corpus` (pocketsphinx, libespeak-ng and flite must be
installed); later runs read it from there.

    python -m temposync_pipeline.training.visemes --config examples/train/visemes.yaml --data DATA
    python -m temposync_pipeline.training.visemes --corpus runs/visemes/corpus --evaluate runs/visemes/viseme_classifier --languages
"""

import argparse
import copy
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.sentences import EVALUATION
from ..data.viseme_corpus import (
    Utterance,
    foreign_utterances,
    grid_utterances,
    load_utterances,
    read_utterances,
    save_utterances,
    syllable_utterances,
    synthetic_utterances,
)
from ..data.viseme_crops import NUM_BANDS, CropSampler
from ..data.viseme_labels import SAMPLE_RATE
from ..errors import InvalidInputError
from ..metrics.visemes import figures_table, plot_confusion, score_conditions, score_languages, score_visemes
from ..models.viseme_classifier import VisemeClassifier, VisemeClassifierConfig
from ..models.visemes import NUM_VISEMES, VISEME_INDEX
from ..text_files import read_table_text
from .checkpointing import save_weights
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .settings import build_config, read_settings


@dataclass
class Config(LoopConfig):
    output: str = "runs/visemes"
    corpus: str = "runs/visemes/corpus"
    # Folders under `data`: <talker>/<clip>.mpg + .align; validation talkers must not appear among the training ones.
    grid_train: list[str] = field(default_factory=lambda: ["grid/train", "grid_hq"])
    grid_validation: list[str] = field(default_factory=lambda: ["grid/val"])
    # Folders under `data` with metadata.csv and .flac files; the last few utterances of each are held out.
    read_speech: list[str] = field(default_factory=lambda: ["speech/ljspeech", "speech/dc_tts"])
    read_holdout: int = 8
    # More such folders, all of them for training: natural synthesisers that don't tell their phones' times.
    voices: list[str] = field(default_factory=list)
    num_synthetic: int = 1800
    num_foreign: int = 1500
    num_syllables: int = 250
    source_weights: dict[str, float] = field(default_factory=lambda: {
        "grid": 0.18, "read": 0.32, "voices": 0.17, "synthetic": 0.1, "foreign": 0.1, "syllables": 0.07, "noise": 0.06})
    crop_seconds: float = 2.0
    batch_size: int = 12
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_steps: int = 300
    ema_decay: float = 0.998
    max_minutes: float = 45.0
    # Weight of the loss by which the hidden state keeps how loud the speech is, band by band: lips follow that, too.
    level_weight: float = 0.1
    # weight = frequency ** -power: rare visemes count more, without upsetting the posteriors.
    class_weight_power: float = 0.25
    # p, b, m count this many times more: a mouth that stays open in them is seen at once, one shut too often hardly.
    closure_weight: float = 2.5


def prepare_corpus(config: Config) -> tuple[list[Utterance], list[Utterance]]:
    """Training and validation utterances, from `corpus` or made and stored there."""
    folder, data = Path(config.corpus), Path(config.data)
    paths = folder / "train.npz", folder / "validation.npz"
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        train = [item for root in config.grid_train for item in grid_utterances(data / root)]
        validation = [item for root in config.grid_validation for item in grid_utterances(data / root)]
        transcripts = []
        for root in config.read_speech:
            utterances = list(read_utterances(data / root))
            train += utterances[: -config.read_holdout]
            validation += utterances[-config.read_holdout :]
            lines = read_table_text(data / root / "metadata.csv").splitlines()
            transcripts += [line.split("|")[-1] for line in lines[: -2 * config.read_holdout]]
        train += [item for root in config.voices for item in read_utterances(data / root, "voices")]
        train += synthetic_utterances(config.num_synthetic, transcripts, config.seed)
        train += foreign_utterances(config.num_foreign, transcripts, config.seed)
        train += syllable_utterances(config.num_syllables, config.seed)
        save_utterances(paths[0], train)
        save_utterances(paths[1], validation)
    return load_utterances(paths[0]), load_utterances(paths[1])


def class_weights(utterances: list[Utterance], power: float, closure_weight: float) -> Tensor:
    """frequency ** -power per viseme, scaled so that the mean over time is 1, PP's then times `closure_weight`; float32 [15]."""
    seconds = np.full(NUM_VISEMES, 1e-3)
    for item in utterances:
        for segment in item.segments:
            seconds[segment.viseme] += segment.end - segment.start
    frequency = seconds / seconds.sum()
    weights = frequency**-power
    weights /= (weights * frequency).sum()
    weights[VISEME_INDEX["PP"]] *= closure_weight
    return torch.from_numpy(weights).float()


def soft_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over frames of -sum_v w_v y_v log softmax(logits)_v; logits and labels [B, frames, 15], weights [15]."""
    return -(weights * labels * F.log_softmax(logits.float(), -1)).sum(-1).mean()


class ClassifierWithLevels(nn.Module):
    """A classifier whose hidden state must also tell the level of the clean speech in each band; the second head is for training only."""

    def __init__(self, classifier: VisemeClassifier):
        super().__init__()
        self.classifier = classifier
        self.levels = nn.Linear(classifier.config.hidden_size, NUM_BANDS)
        nn.init.constant_(self.levels.bias, -2)  # about their mean

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, frames, 15] and levels [B, frames, 12] of waveforms [B, N]."""
        hidden = self.classifier.wav2vec2(samples).last_hidden_state
        return self.classifier.head(self.classifier.dropout(hidden)), self.levels(hidden)


def train(config: Config) -> dict[str, float]:
    """Figures of the last validation; the averaged weights go to `output`/viseme_classifier."""
    accelerator = make_accelerator(config)
    utterances, validation = prepare_corpus(config)
    # Eager attention: on crops this short it is twice as fast on a CPU as the fused kernel.
    if config.init:
        classifier = VisemeClassifier.from_pretrained(config.init, attn_implementation="eager")
    else:
        classifier = VisemeClassifier(VisemeClassifierConfig(attn_implementation="eager"))
        classifier.reset_filter_bank()
    # transformers would compute the gradient of the waveform, which nobody needs.
    classifier.wav2vec2.feature_extractor._requires_grad = False
    length = int(config.crop_seconds * SAMPLE_RATE)
    num_frames = int(classifier._get_feat_extract_output_lengths(length))
    generator = np.random.default_rng(config.seed)
    frame_seconds = classifier.hop / SAMPLE_RATE
    sampler = CropSampler(utterances, config.source_weights, length, num_frames, classifier.frame_offset, frame_seconds, generator)
    weights = class_weights(utterances, config.class_weight_power, config.closure_weight).to(accelerator.device)

    def compute_losses(model: nn.Module, progress: float) -> Losses:
        samples, labels, levels = (tensor.to(accelerator.device) for tensor in sampler.batch(config.batch_size))
        logits, heard = model(samples)
        visemes, loudness = soft_cross_entropy(logits, labels, weights), F.mse_loss(heard.float(), levels)
        return {"loss": visemes + config.level_weight * loudness, "visemes": visemes, "levels": loudness}

    def save(model: ClassifierWithLevels) -> None:
        save_weights(model.classifier, Path(config.output) / "viseme_classifier")

    def validate(model: ClassifierWithLevels) -> dict[str, float]:
        figures = {source: score_visemes(model.classifier, [item for item in validation if item.source == source]).figures()
                   for source in dict.fromkeys(item.source for item in validation)}
        return {f"{source}_{name}": value for source in figures for name, value in figures[source].items()}

    student = ClassifierWithLevels(classifier)
    return train_loop(config, accelerator, student, copy.deepcopy(student), compute_losses, validate, save, generators=[generator])


def evaluate(config: Config, folder: str, languages: bool = False) -> dict[str, dict[str, float]]:
    """Figures of a saved model on held-out talkers, on held-out read utterances in all conditions, and in other languages if asked for.

    Writes visemes.md and confusion_<source>.png to `output`.
    """
    torch.set_num_threads(config.threads or 2)
    model = VisemeClassifier.from_pretrained(folder).to(config.device).eval()
    _, validation = prepare_corpus(config)
    results, output = {}, Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    for source in ("grid", "read"):
        score = score_visemes(model, [item for item in validation if item.source == source])
        results[source] = score.figures() | {"times_real_time": score.times_real_time}
        plot_confusion(score, output / f"confusion_{source}.png")
    results |= score_conditions(model, [item for item in validation if item.source == "read"])
    if languages:
        results |= score_languages(model, EVALUATION)
    (output / "visemes.md").write_text(figures_table(results), encoding="utf-8")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", help="YAML file with any of the settings below")
    parser.add_argument("--evaluate", metavar="FOLDER", help="measure this saved model instead of training; writes visemes.md")
    parser.add_argument("--languages", action="store_true", help="measure twelve other languages as well (needs espeak-ng)")
    for setting in dataclasses.fields(Config):
        parser.add_argument(f"--{setting.name}", type=str if setting.type is str else yaml.safe_load, default=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    own = {name: given.pop(name) for name in ("config", "evaluate", "languages")}
    try:
        config = build_config(Config, read_settings(Path(own["config"]) if own["config"] else None, []) | given)
        figures = evaluate(config, own["evaluate"], own["languages"]) if own["evaluate"] else train(config)
    except InvalidInputError as error:
        parser.error(str(error))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
