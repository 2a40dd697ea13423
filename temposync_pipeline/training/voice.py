"""Stage `voice`: the small network of `media.voice_activity`, which says where in a recording somebody speaks.

    temposync train voice --data runs/visemes/corpus --set other=OTHER --output runs/voice

The corpus is that of the stage `visemes`; OTHER holds sound files in which nobody speaks, of any kind that `load_audio` reads
(`examples/train/sounds_without_voice.py` makes some), every tenth of which is held out.  The file it writes takes the place of
`media/voice_activity.safetensors`.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from ..data.sounds import load_sounds
from ..data.viseme_corpus import load_utterances
from ..data.voice_mixtures import Mixture, MixtureMaker
from ..errors import InvalidInputError
from ..media import voice_activity
from .loop import LoopConfig, Losses, make_accelerator, train_loop

FEATURES = 41
SHORT = (10, 60)  # frames of 20 ms


@dataclass
class Config(LoopConfig):
    """`data` is the corpus of the stage `visemes`, a folder with train.npz and validation.npz."""

    output: str = "runs/voice"
    other: str = ""
    # Weights to go on from, a file of this stage's, of a network with no more channels and layers than this one.
    start: str = ""
    max_minutes: float = 6.0
    batch_size: int = 16
    learning_rate: float = 3e-3
    ema_decay: float = 0.998
    mixed_precision: str = "no"
    mixtures: int = 2500
    validation_mixtures: int = 150
    channels: int = 64
    # Of the batches are of recordings as short as `SHORT`.
    short_share: float = 0.3


class VoiceNetwork(nn.Module):
    """Logits [B, T] of features [B, T, 41]: what `media.voice_activity` computes without torch."""

    def __init__(self, channels: int):
        super().__init__()
        inputs = (FEATURES,) + (channels,) * (len(voice_activity.DILATIONS) - 1)
        self.convs = nn.ModuleList(
            nn.Conv1d(size, channels, taps, dilation=dilation, padding=taps // 2 * dilation)
            for size, taps, dilation in zip(inputs, (5,) + (3,) * (len(inputs) - 1), voice_activity.DILATIONS, strict=True))
        self.head = nn.Conv1d(channels, 1, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.convs[0](features.transpose(1, 2)).relu()
        for conv in self.convs[1:]:
            hidden = hidden + conv(hidden).relu()
        return self.head(hidden)[:, 0]


@dataclass
class Examples:
    """features [M, T, 41] and the share of each frame in which somebody speaks [M, T]."""

    features: torch.Tensor
    spoken: torch.Tensor

    @classmethod
    def of(cls, mixtures: list[Mixture]) -> "Examples":
        return cls(torch.from_numpy(np.stack([voice_activity.features(mixture.samples) for mixture in mixtures])).half(),
                   torch.from_numpy(np.stack([mixture.spoken for mixture in mixtures])))


def train(config: Config) -> dict[str, float]:
    if not config.other:
        raise InvalidInputError("train voice needs sounds in which nobody speaks; say where they are with --set other=FOLDER")
    accelerator = make_accelerator(config)
    device = accelerator.device
    others = load_sounds(Path(config.other))
    held_back = others[::10]
    others = [sound for index, sound in enumerate(others) if index % 10]
    examples, held_out = (
        Examples.of([maker.draw(np.random.default_rng((config.seed, first, index)))
                     for index in tqdm(range(count), desc="mixtures", disable=not accelerator.is_main_process)])
        for maker, first, count in (
            (MixtureMaker(load_utterances(Path(config.data) / "train.npz"), others), 0, config.mixtures),
            (MixtureMaker(load_utterances(Path(config.data) / "validation.npz"), held_back), 1, config.validation_mixtures)))
    model = VoiceNetwork(config.channels)
    if config.start:
        go_on_from(Path(config.start), model)
    generator = np.random.default_rng(config.seed)

    def compute_losses(model: nn.Module, progress: float) -> Losses:
        chosen, part = torch.from_numpy(generator.integers(len(examples.spoken), size=config.batch_size)), slice(None)
        if generator.random() < config.short_share:
            length = int(generator.integers(*SHORT))
            start = int(generator.integers(examples.spoken.shape[1] - length + 1))
            part = slice(start, start + length)
        logits = model(examples.features[chosen, part].float().to(device))
        return {"loss": F.binary_cross_entropy_with_logits(logits, examples.spoken[chosen, part].to(device))}

    @torch.inference_mode()
    def validate(average: nn.Module) -> dict[str, float]:
        return figures(average(held_out.features.float().to(device)).sigmoid().cpu(), held_out.spoken)

    return train_loop(config, accelerator, model, copy.deepcopy(model), compute_losses, validate,
                      lambda average: save(average, Path(config.output)), [generator])


@torch.no_grad()
def go_on_from(file: Path, model: VoiceNetwork) -> None:
    """Gives a network the function of one of fewer channels, nearly that of one of fewer layers, too. Raises InvalidInputError."""
    if not file.is_file():
        raise InvalidInputError(f"start: there is no file {file}")
    try:
        given = load_file(file)
        for name, value in model.state_dict().items():
            if name not in given:
                value *= 0.1
                continue
            smaller = given[name].float()
            if value.ndim > 1:
                value[:len(smaller), smaller.shape[1]:] = 0
            value[tuple(slice(size) for size in smaller.shape)] = smaller
    except (RuntimeError, SafetensorError) as error:
        raise InvalidInputError(f"start: {file} does not hold weights of this stage that fit into a network of this size") from error


def figures(probability: torch.Tensor, spoken: torch.Tensor) -> dict[str, float]:
    """Of [M, T]: the shares of spoken frames that are found, and of others that are taken for speech, as listening decides."""
    heard = torch.from_numpy(np.stack([voice_activity.regions(row) for row in probability.numpy()]))
    # Speech is widened on both sides: what is near it does not count.
    near = F.max_pool1d(spoken[:, None], 41, 1, 20)[:, 0] > 0
    return {"found": float(heard[spoken > 0.5].float().mean()), "mistaken": float(heard[~near].float().mean())}


def save(model: VoiceNetwork, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().half().contiguous().cpu() for name, value in model.state_dict().items()},
              folder / "voice_activity.safetensors")
