"""Stage `lips`: how lips move, learnt from talkers' landmarks and, for words they never say, from performers' curves.

    temposync train lips --config examples/train/lips.yaml --data LIPS --output runs/lips

LIPS: `training.lip_corpus`.  A performer's curves mean other things on other faces, so each performer gets a linear reading of the
network's features, thrown away afterwards: what moves them alike in all of them is what stays.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import InvalidInputError
from ..face.landmarks import CLOSED_OPENING
from ..face.lip_shape import OPENING, TYPICAL_MOTION
from ..files import called
from ..metrics.lips import lip_correlation
from ..models.lip_motion import LipMotion
from .checkpointing import save_weights
from .lip_corpus import Recording, load_recordings
from .loop import LoopConfig, Losses, make_accelerator, train_loop

# A performer's curves that move less than this share of the liveliest one are left out.
STILL = 0.05


@dataclass
class Config(LoopConfig):
    output: str = "runs/lips"
    max_steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    ema_decay: float = 0.995
    mixed_precision: str = "no"
    channels: int = 64
    num_layers: int = 3
    kernel_size: int = 5
    dropout: float = 0.3
    crop_frames: int = 50
    # Files of performers in `data`, with the recordings of each in a batch.
    performers: dict[str, int] = field(default_factory=lambda: {"facegood": 8, "address": 6})
    performer_weight: float = 0.3
    velocity_weight: float = 1.0
    # How much more the opening of a talker's shut lips counts: the mean of all likely mouths is never shut.
    shut_weight: float = 4.0
    # Share of the samples in which nothing but visemes is known: those that a user writes by hand.
    visemes_only: float = 0.1
    # What the motion of the network that is written is multiplied by; the figures are those without it.
    motion_scale: float = 1.0


class LipModel(nn.Module):
    """What one optimiser trains: the network, and a reading of its features for each performer."""

    def __init__(self, lip_motion: LipMotion, curves: dict[str, int]):
        super().__init__()
        self.lip_motion = lip_motion
        self.readings = nn.ModuleDict({name: nn.Linear(lip_motion.config.channels, count) for name, count in curves.items()})


class RecordingSampler:
    """Batches of stretches of `frames` frames of recordings; shorter ones are filled up, with weight 0."""

    def __init__(self, recordings: list[Recording], frames: int, generator: np.random.Generator):
        self.recordings, self.frames, self.generator = recordings, frames, generator
        self.chances = np.array([len(item.motion) for item in recordings], np.float64)
        self.chances /= self.chances.sum()

    def draw(self, count: int, visemes_only: float) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """([hidden, loudness, visemes], motion [B, T, D], weight [B, T])."""
        batch = [self._cut(self.recordings[index]) for index in self.generator.choice(len(self.recordings), count, p=self.chances)]
        hidden, loudness, visemes, motion, weight = (torch.from_numpy(np.stack(values)) for values in zip(*batch))
        blind = torch.from_numpy(self.generator.random(count) < visemes_only)
        hidden[blind], loudness[blind] = 0, 0
        return [hidden, loudness, visemes], motion, weight

    def _cut(self, item: Recording) -> tuple[np.ndarray, ...]:
        start = self.generator.integers(max(1, len(item.motion) - self.frames + 1))
        parts = [values[start:start + self.frames] for values in (item.hidden, item.loudness, item.visemes, item.motion)]
        missing = self.frames - len(parts[0])
        weight = np.pad(np.ones(len(parts[0]), np.float32), (0, missing))
        return *(np.pad(values, ((0, missing), *((0, 0),) * (values.ndim - 1))) for values in parts), weight


def motion_loss(predicted: torch.Tensor, motion: torch.Tensor, weight: torch.Tensor, velocity_weight: float) -> torch.Tensor:
    """Mean squared error of motion [B, T, D] and, `velocity_weight` times, of its change from frame to frame; `weight` [B, T] is 0 or 1."""
    def mean(error: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        return (error.square().mean(-1) * share).sum() / share.sum().clamp(min=1)

    return mean(predicted - motion, weight) + velocity_weight * mean((predicted - motion).diff(dim=1), weight[:, 1:] * weight[:, :-1])


def shut_lips(predicted: torch.Tensor, motion: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean over all frames of the squared opening where the real lips are shut and the predicted ones are not; [B, T, 6] twice, [B, T]."""
    shut = weight * (motion[..., OPENING] < CLOSED_OPENING / float(TYPICAL_MOTION[OPENING]))
    return (predicted[..., OPENING].clamp(min=0).square() * shut).sum() / weight.sum().clamp(min=1)


def performer_curves(recordings: list[Recording]) -> list[Recording]:
    """The same with every curve that moves in units of its standard deviation, around its mean."""
    curves = np.concatenate([item.motion for item in recordings])
    mean, std = curves.mean(0), curves.std(0)
    moving = std > STILL * std.max()
    return [Recording(item.hidden, item.loudness, item.visemes, ((item.motion - mean)[:, moving] / std[moving])) for item in recordings]


@torch.no_grad()
def scaled(lip_motion: LipMotion, factor: float) -> LipMotion:
    """The same network whose motion is `factor` times as large."""
    copied = copy.deepcopy(lip_motion)
    for parameter in copied.head.parameters():
        parameter.mul_(factor)
    return copied


@torch.inference_mode()
def lip_figures(lip_motion: LipMotion, recordings: list[Recording]) -> dict[str, float]:
    """Mean over recordings of the correlation and the amplitude (ratio of deviations) of the lip opening."""
    scores = []
    for item in recordings:
        shapes = lip_motion(*(torch.from_numpy(values)[None] for values in (item.hidden, item.loudness, item.visemes)))[0].numpy()
        opening = TYPICAL_MOTION[OPENING] * np.stack([shapes[:, OPENING], item.motion[:, OPENING]])
        scores.append(lip_correlation(*opening))
    return {"lip_r": float(np.mean([score.r for score in scores])),
            "amplitude": float(np.mean([score.amplitude_ratio for score in scores]))}


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    folder, generator = Path(config.data), np.random.default_rng(config.seed)
    missing = [name for name in ("talkers_train", *config.performers) if not (folder / f"{name}.npz").exists()]
    if missing:
        raise InvalidInputError(f"{called(folder)}: no {missing[0]}.npz; `python -m temposync_pipeline.training.lip_corpus` writes it")
    talkers = RecordingSampler(load_recordings(folder / "talkers_train.npz"), config.crop_frames, generator)
    held_out = load_recordings(folder / "talkers_val.npz") if (folder / "talkers_val.npz").exists() else []
    performers = {name: RecordingSampler(performer_curves(load_recordings(folder / f"{name}.npz")), config.crop_frames, generator)
                  for name in config.performers}
    lip_motion = LipMotion(channels=config.channels, num_layers=config.num_layers, kernel_size=config.kernel_size, dropout=config.dropout,
                           hidden_channels=talkers.recordings[0].hidden.shape[1])
    if config.init:
        lip_motion.load_state_dict(LipMotion.from_pretrained(config.init).state_dict())
    model = LipModel(lip_motion, {name: sampler.recordings[0].motion.shape[1] for name, sampler in performers.items()})

    def error(reading: nn.Module, sampler: RecordingSampler, count: int, lip_motion: LipMotion, shut_weight: float = 0.0) -> torch.Tensor:
        heard, motion, weight = sampler.draw(count, config.visemes_only)
        predicted = reading(lip_motion.features(*(values.to(accelerator.device) for values in heard)))
        motion, weight = motion.to(accelerator.device), weight.to(accelerator.device)
        loss = motion_loss(predicted, motion, weight, config.velocity_weight)
        return loss + shut_weight * shut_lips(predicted, motion, weight) if shut_weight else loss

    def compute_losses(model: LipModel, progress: float) -> Losses:
        terms = {"talkers": error(model.lip_motion.head, talkers, config.batch_size, model.lip_motion, config.shut_weight)}
        for name, sampler in performers.items():
            terms[name] = config.performer_weight * error(model.readings[name], sampler, config.performers[name], model.lip_motion)
        return {"loss": sum(terms.values()), **terms}

    return train_loop(config, accelerator, model, copy.deepcopy(model), compute_losses,
                      lambda average: lip_figures(average.lip_motion, held_out) if held_out else {},
                      lambda average: save_weights(scaled(average.lip_motion, config.motion_scale), Path(config.output) / "lip_motion"),
                      generators=[generator])
