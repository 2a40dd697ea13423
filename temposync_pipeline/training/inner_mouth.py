"""Stage `inner_mouth`: what `AutoencoderTempoSync.inner_mouth` paints, teeth and tongue at twice the crop's resolution.

Reads `DATA/{train,val}.npz` (`temposync_pipeline.data.inner_mouths`).  Everything else of the autoencoder stays as it is.  What is
painted is compared with the true picture, in colour and as a network sees it (`perceptual`); a denoiser's mush says too little for one
answer, so there shall be as much contrast as in truth, wherever it is, and an adversary judges whether it looks like a mouth.

    temposync train inner_mouth --init temposync-tiny --data MOUTHS --output runs/inner_mouth --set perceptual=EFFICIENTNET
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..data.denoised_latents import ENCODED, LATENT_LEVELS, MORE_NOISE, NUM_WAYS, VOICE_ALONE
from ..data.inner_mouths import DRIVEN, FILMED, PHOTOGRAPHED, InnerMouths
from ..errors import InvalidInputError
from ..face.inner_mouth import INNER_SHAPE, SCALE, block_of_window, cells_around
from ..face.warp import HIDDEN_FROM, HIDDEN_TO, LIP_RIM
from ..models.autoencoder_temposync import AutoencoderTempoSync
from .adversarial import PatchDiscriminator, hinge_terms
from .checkpointing import save_weights
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .losses import warp
from .perceptual import PerceptualDistance


@dataclass
class Config(LoopConfig):
    output: str = "runs/inner_mouth"
    # Takes of three frames.
    batch_size: int = 16
    learning_rate: float = 6e-4
    max_grad_norm: float = 10.0
    inner_channels: tuple[int, int, int, int] = (80, 64, 48, 32)
    inner_blocks: tuple[int, int, int, int] = (1, 2, 2, 2)
    # EfficientNet-Lite0's weights.
    perceptual: str = ""
    # Share of a batch's takes by their kind, and of their latents by the way they came about (`data.inner_mouths`), which of photographs
    # as they are is the encoder's.
    kinds: dict[int, float] = field(default_factory=lambda: {0: 0.5, 1: 0.2, 2: 0.1, 3: 0.15, 4: 0.05})
    ways: tuple[float, float, float, float] = (0.1, 0.2, 0.2, 0.5)
    latent_noise: float = 0.1
    # The truth behind mush is uncertain: its pixels count less, its colours at large do not.
    pixel_weights: tuple[float, float, float, float] = (1.0, 0.5, 0.4, 0.3)
    coarse_weight: float = 1.0
    perceptual_weight: float = 0.6
    # Of how much contrast there is in fine detail, wherever it is: a mean of what may be has less.
    contrast_weight: float = 6.0
    temporal_weight: float = 0.5
    steady_weight: float = 0.1
    adversarial_weight: float = 0.08
    # Share of the run before the adversary has its say.
    adversary_from: float = 0.08


class Batch(NamedTuple):
    """R takes of T frames on the training device; pictures float32 [B, 3, 128, 192] in [-1, 1], B = R or R·T."""

    reference: torch.Tensor
    reference_latents: torch.Tensor
    frames: torch.Tensor
    latents: torch.Tensor
    pixel_weight: torch.Tensor  # [R·T, 1, 1, 1], of comparing pixels
    real: torch.Tensor  # [R·T, 1, 1, 1], 1 where they show the person's own teeth, as photographed or filmed


class TakeSampler:
    """Random takes; all data stay on the device."""

    def __init__(self, mouths: InnerMouths, config: Config, device: torch.device):
        self.config, self.rng, self.device = config, np.random.default_rng(config.seed), device
        references, frames = mouths.pictures()
        self.references = torch.from_numpy(references).to(device)
        self.frames = torch.from_numpy(frames.copy()).to(device)
        self.reference_latents = torch.from_numpy(mouths.reference_latents).to(device)
        self.latents = torch.from_numpy(mouths.latents).to(device)
        self.kinds = mouths.kinds
        present = {kind: np.flatnonzero(mouths.kinds == kind) for kind in config.kinds}
        self.takes_of = {kind: takes for kind, takes in present.items() if len(takes)}
        self.shares = np.array([config.kinds[kind] for kind in self.takes_of])
        self.shares /= self.shares.sum()

    def draw(self) -> Batch:
        kinds = self.rng.choice(list(self.takes_of), self.config.batch_size, p=self.shares)
        takes = np.array([self.rng.choice(self.takes_of[kind]) for kind in kinds])
        ways = self.rng.choice(NUM_WAYS, len(takes), p=np.array(self.config.ways) / sum(self.config.ways))
        return self.batch(takes, np.where(kinds == PHOTOGRAPHED, ENCODED, ways))

    def batch(self, takes: np.ndarray, ways: np.ndarray) -> Batch:
        """These takes with latents of these ways."""
        count, index, way = self.frames.shape[1], torch.from_numpy(takes).to(self.device), torch.from_numpy(ways).to(self.device)

        def pictures(values: torch.Tensor) -> torch.Tensor:
            return (values.flatten(0, -4).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

        def each(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.repeat(values.astype(np.float32), count)).to(self.device)[:, None, None, None]

        return Batch(
            pictures(self.references[index]), self.reference_latents[index].float() / LATENT_LEVELS, pictures(self.frames[index]),
            self.latents[index, :, way].flatten(0, 1).float() / LATENT_LEVELS,
            each(np.array(self.config.pixel_weights)[ways]), each(self.kinds[takes] != DRIVEN))


class Painted(NamedTuple):
    """What is painted and where, [R·T, …, 128, 192]."""

    pictures: torch.Tensor
    mask: torch.Tensor  # 1 where the product would show it
    around: torch.Tensor  # the reference's own pixels, moved


def paint(vae: AutoencoderTempoSync, inner: nn.Module, batch: Batch, latents: torch.Tensor) -> Painted:
    """Paint `batch` with these latents; nothing flows into the rest of the autoencoder."""
    with torch.no_grad():
        flow, visibility = vae.motion(latents, batch.reference_latents)
        hidden = block_of_window(1 - visibility)
        doubt = ((hidden - HIDDEN_FROM) / (HIDDEN_TO - HIDDEN_FROM)).clamp(0, 1)
        mask = F.max_pool2d(doubt, 2 * LIP_RIM + 1, 1, LIP_RIM)
        mask = F.interpolate(mask, scale_factor=SCALE, mode="bilinear")
        displacement = F.interpolate(block_of_window(flow, 0.5), scale_factor=2 * SCALE, mode="bilinear") * SCALE
        around = warp(batch.reference.repeat_interleave(len(latents) // len(batch.reference), 0), displacement)
    seen = inner.seen(batch.reference)
    painted = inner(cells_around(latents), cells_around(batch.reference_latents), hidden, *seen)
    return Painted(painted.float(), mask.float(), around.float())


class MouthModel(nn.Module):
    """The painter and its adversary."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.discriminator = inner, PatchDiscriminator()


class MouthLoss:
    def __init__(self, config: Config, vae: AutoencoderTempoSync, sampler: TakeSampler):
        self.config, self.vae, self.sampler = config, vae, sampler
        self.perceptual = PerceptualDistance(config.perceptual).to(sampler.device) if config.perceptual else None

    def __call__(self, model: MouthModel, progress: float) -> Losses:
        config, batch = self.config, self.sampler.draw()
        noise = config.latent_noise * torch.rand(len(batch.latents), 1, 1, 1, device=batch.latents.device)
        latents = batch.latents + noise * torch.randn_like(batch.latents[:1])
        painted = paint(self.vae, model.inner, batch, latents)
        pictures, mask, truth = painted.pictures, painted.mask, batch.frames
        terms = {"pixels": _mean((pictures - truth).abs() * batch.pixel_weight, 0.1 + mask),
                 "coarse": (F.avg_pool2d(pictures, 4 * SCALE) - F.avg_pool2d(truth, 4 * SCALE)).abs().mean(),
                 "contrast": contrast_difference(pictures, truth, mask)}
        mixed = torch.lerp(truth, pictures, mask)
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(mixed, truth, mask)
        terms |= self._over_time(pictures, truth, mask)
        real = self._real_frames(batch)
        seen = torch.lerp(painted.around, pictures, mask)
        painter, own = hinge_terms(model.discriminator, seen, truth[real], mask, mask[real])
        terms |= {"adversarial": painter, "discriminator": own}
        weight = config.adversarial_weight * min(1.0, max(0.0, progress - config.adversary_from) / 0.1)
        loss = (terms["pixels"] + config.coarse_weight * terms["coarse"] + config.contrast_weight * terms["contrast"]
                + config.perceptual_weight * terms.get("perceptual", 0) + config.temporal_weight * terms["temporal"]
                + config.steady_weight * terms["steady"] + weight * painter + own)
        return {"loss": loss} | terms

    def _over_time(self, pictures: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> Losses:
        """What changes from frame to frame is what changes in truth, and changes go on evenly."""
        def steps(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(0, (-1, self.sampler.frames.shape[1])).diff(dim=1)

        weight = mask.unflatten(0, (-1, self.sampler.frames.shape[1]))[:, 1:]
        change = steps(pictures)
        return {"temporal": _mean((change - steps(truth)).abs(), weight), "steady": change.diff(dim=1).abs().mean()}

    def _real_frames(self, batch: Batch) -> torch.Tensor:
        """Indices of as many frames as there are, of those that show the adversary real teeth."""
        found = batch.real.flatten().nonzero().flatten()
        count = len(batch.frames)
        return found[torch.arange(count, device=found.device) % len(found)] if len(found) else torch.arange(count, device=found.device)


def contrast_difference(pictures: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean difference, in [0, 1], between pictures [B, 3, H, W] in [-1, 1] of how much luma deviates from its mean over 5 and over 11
    pixels, in windows of 16; where the `mask` [B, 1, H, W] in [0, 1] is.
    """
    weight = F.avg_pool2d(mask, 16, 8)

    def deviations(values: torch.Tensor) -> torch.Tensor:
        energies = torch.cat([_detail(values, size) for size in (5, 11)], 1)
        return (F.avg_pool2d(energies * mask, 16, 8) / weight.clamp(min=1e-3) + 1e-4).sqrt()

    return _mean((deviations(pictures) - deviations(truth)).abs(), weight)


def _mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    weight = weight.expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1)


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    vae = build(config).to(accelerator.device)
    model = MouthModel(vae.inner_decoder)
    ema = copy.deepcopy(model)
    sampler = TakeSampler(InnerMouths.load(Path(config.data) / "train.npz"), config, accelerator.device)
    held_out = TakeSampler(InnerMouths.load(Path(config.data) / "val.npz"), config, accelerator.device)
    loss = MouthLoss(config, vae, sampler)

    def validate(average: MouthModel) -> dict[str, float]:
        figures = mouth_figures(vae, average.inner, held_out, loss.perceptual)
        write_sheet(vae, average.inner, held_out, Path(config.output) / "mouths.png")
        print(" ".join(f"{name} {value:.4f}" for name, value in figures.items()), flush=True)
        return figures

    def save(average: MouthModel) -> None:
        finished = copy.deepcopy(vae)
        finished.inner_decoder.load_state_dict(average.inner.state_dict())
        save_weights(finished, Path(config.output) / "vae")

    return train_loop(config, accelerator, model, ema, loss, validate, save, generators=[sampler.rng])


def build(config: Config) -> AutoencoderTempoSync:
    """The autoencoder of `init`, whose painter of mouths alone is to be trained: a new one where it has none, else the same, which is
    taught the block's places if it did not know them."""
    if not config.init:
        raise InvalidInputError("inner_mouth builds on an autoencoder that knows motion: give its checkpoint with --init")
    vae = AutoencoderTempoSync.from_pretrained(config.init)
    if not vae.knows_motion:
        raise InvalidInputError("this autoencoder does not know what a frame hides: train the stage decoder first")
    if not vae.knows_inner_mouth or vae.config.inner_placed is None:
        weights = vae.state_dict()
        settings = {name: value for name, value in vae.config.items() if not name.startswith("_")}
        widths = {} if vae.knows_inner_mouth else {"inner_channels": config.inner_channels, "inner_blocks": config.inner_blocks}
        vae = AutoencoderTempoSync(**settings | widths | {"inner_placed": INNER_SHAPE})
        vae.load_state_dict(weights, strict=False)
    vae.to(memory_format=torch.channels_last).requires_grad_(False)
    vae.inner_decoder.requires_grad_(True)
    return vae


def _held_out(sampler: TakeSampler, count: int) -> np.ndarray:
    """Takes spread over those that show what teeth look like."""
    takes = np.flatnonzero(sampler.kinds < FILMED)
    return takes[np.linspace(0, len(takes) - 1, min(len(takes), count)).astype(int)]


@torch.inference_mode()
def mouth_figures(
    vae: AutoencoderTempoSync, inner: nn.Module, sampler: TakeSampler, perceptual: PerceptualDistance | None
) -> dict[str, float]:
    """Of held-out takes, painted from encoded latents and from a denoiser's: levels of error, the perceptual distance, and fine detail
    relative to the truth's."""
    figures: dict[str, list[float]] = {}
    chosen = _held_out(sampler, 48)
    for takes in np.array_split(chosen, -(-len(chosen) // 8)):
        for way, name in ((ENCODED, "encoded"), (MORE_NOISE, "denoised"), (VOICE_ALONE, "voice")):
            batch = sampler.batch(takes, np.full(len(takes), way))
            painted = paint(vae, inner, batch, batch.latents)
            pictures, mask = painted.pictures.clamp(-1, 1), painted.mask
            found = {"levels": 127.5 * _mean((pictures - batch.frames).abs(), mask)}
            if perceptual is not None:
                found["perceptual"] = perceptual(torch.lerp(batch.frames, pictures, mask), batch.frames, mask)
            found["detail"] = _mean(_detail(pictures), mask) / _mean(_detail(batch.frames), mask).clamp(min=1e-9)
            for each, value in found.items():
                figures.setdefault(f"{each}_{name}", []).append(float(value))
    return {name: float(np.mean(values)) for name, values in figures.items()}


def _detail(pictures: torch.Tensor, size: int = 7) -> torch.Tensor:
    """(luma - its mean over `size` pixels around)², [B, 1, H, W]."""
    luma = pictures.mean(1, keepdim=True)
    return (luma - F.avg_pool2d(luma, size, 1, size // 2, count_include_pad=False)).square()


@torch.inference_mode()
def write_sheet(vae: AutoencoderTempoSync, inner: nn.Module, sampler: TakeSampler, path: Path) -> None:
    """A picture of held-out takes, a row each: reference, true frame, as decoded so far, painted from each way's latents."""
    batches = [sampler.batch(_held_out(sampler, 12), np.full(min(12, len(_held_out(sampler, 12))), way)) for way in range(4)]
    columns = [batches[0].reference, batches[0].frames[1::3], _as_decoded(vae, batches[2])[1::3]]
    for batch in batches:
        painted = paint(vae, inner, batch, batch.latents)
        columns.append(torch.lerp(painted.around, painted.pictures, painted.mask)[1::3])
    pictures = torch.stack(columns, 1).clamp(-1, 1).add(1).mul(127.5).round().byte().cpu().permute(0, 3, 1, 4, 2)
    rows, height, across, width, channels = pictures.shape
    cv2.imwrite(str(path), pictures.reshape(rows * height, across * width, channels).numpy()[..., ::-1])


def _as_decoded(vae: AutoencoderTempoSync, batch: Batch) -> torch.Tensor:
    """The block as the autoencoder's own decoder sees it, enlarged."""
    return F.interpolate(block_of_window(vae.decode(batch.latents).sample.float()), scale_factor=SCALE, mode="bicubic")
