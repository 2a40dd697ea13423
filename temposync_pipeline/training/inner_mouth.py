"""Stage `inner_mouth`: what `AutoencoderTempoSync.inner_mouth` paints, teeth and tongue at twice the crop's resolution.

Reads `DATA/{train,val}.npz` (`temposync_pipeline.data.inner_mouths`).  Everything else of the autoencoder stays as it is.  Where latents
belong to a true picture it is compared with that, in colour and as a network sees it (`perceptual`); a denoiser's mush says too little for
one answer, so an adversary judges whether what is painted looks like a mouth.

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

from ..data.denoised_latents import LATENT_LEVELS, NUM_WAYS, VOICE_ALONE
from ..data.inner_mouths import FILMED, OWN_TEETH, SOFT, InnerMouths
from ..errors import InvalidInputError
from ..face.inner_mouth import INNER_SHAPE, SCALE, block_of_window, cells_around
from ..face.warp import HIDDEN_FROM, HIDDEN_TO, LIP_RIM
from ..models.autoencoder_temposync import AutoencoderTempoSync
from .adversarial import PatchDiscriminator, hinge_terms
from .checkpointing import save_weights
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .losses import warp
from .perceptual import PerceptualDistance

MUSH_CELL = 16  # crop pixels


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
    # Share of a batch's takes by their kind, and of their latents by the way they came about (`data.inner_mouths`).
    kinds: dict[int, float] = field(default_factory=lambda: {0: 0.6, 1: 0.2, 2: 0.1, 3: 0.1})
    ways: tuple[float, float, float, float] = (0.2, 0.3, 0.3, 0.2)
    latent_noise: float = 0.1
    # The truth behind mush is uncertain: its pixels count less, its colours at large do not.
    pixel_weights: tuple[float, float, float, float] = (1.0, 0.5, 0.4, 0.0)
    coarse_weight: float = 1.0
    perceptual_weight: float = 0.6
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
    known: torch.Tensor  # [R·T, 1, 1, 1], 1 where the frames are the latents' truth
    sharp: torch.Tensor  # [R·T, 1, 1, 1], 1 where they are sharp
    own: torch.Tensor  # [R·T, 1, 1, 1], 1 where they show the person's own teeth, as photographed


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
        return self.batch(takes, self.rng.choice(NUM_WAYS, len(takes), p=np.array(self.config.ways) / sum(self.config.ways)))

    def batch(self, takes: np.ndarray, ways: np.ndarray) -> Batch:
        """These takes with latents of these ways."""
        count, index, way = self.frames.shape[1], torch.from_numpy(takes).to(self.device), torch.from_numpy(ways).to(self.device)

        def pictures(values: torch.Tensor) -> torch.Tensor:
            return (values.flatten(0, -4).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

        def each(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.repeat(values.astype(np.float32), count)).to(self.device)[:, None, None, None]

        kinds = self.kinds[takes]
        soft = (kinds == SOFT) | (kinds == FILMED)
        return Batch(
            pictures(self.references[index]), self.reference_latents[index].float() / LATENT_LEVELS, pictures(self.frames[index]),
            self.latents[index, :, way].flatten(0, 1).float() / LATENT_LEVELS,
            each(np.array(self.config.pixel_weights)[ways] * np.where(soft, 0.3, 1)), each(ways != VOICE_ALONE), each(~soft),
            each(kinds == OWN_TEETH))


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
                 "coarse": self._coarse(pictures, latents, batch)}
        sure = mask * batch.known * batch.sharp
        mixed = torch.lerp(torch.lerp(painted.around, truth, batch.known), pictures, mask)
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(mixed, torch.lerp(mixed.detach(), truth, batch.known), sure)
        terms |= self._over_time(pictures, truth, mask, batch.known)
        real = self._real_frames(batch)
        painter, own = hinge_terms(model.discriminator, mixed, truth[real], mask * batch.sharp, mask[real])
        terms |= {"adversarial": painter, "discriminator": own}
        weight = config.adversarial_weight * min(1.0, max(0.0, progress - config.adversary_from) / 0.1)
        loss = (terms["pixels"] + config.coarse_weight * terms["coarse"] + config.perceptual_weight * terms.get("perceptual", 0)
                + config.temporal_weight * terms["temporal"] + config.steady_weight * terms["steady"] + weight * painter + own)
        return {"loss": loss} | terms

    def _coarse(self, pictures: torch.Tensor, latents: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Colours at large are those of the truth, or, where there is none, still more at large those that the decoder sees in the latents:
        mush has no edges to be kept."""
        with torch.no_grad():
            decoded = F.avg_pool2d(block_of_window(self.vae.decode(latents).sample.float()), MUSH_CELL)
        against_truth = (F.avg_pool2d(pictures, 4 * SCALE) - F.avg_pool2d(batch.frames, 4 * SCALE)).abs()
        against_mush = (F.avg_pool2d(pictures, MUSH_CELL * SCALE) - decoded).abs()
        return (against_truth * batch.known).mean() + (against_mush * (1 - batch.known)).mean()

    def _over_time(self, pictures: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor, known: torch.Tensor) -> Losses:
        """What changes from frame to frame is what changes in truth; and where that is not known, changes go on evenly."""
        def steps(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(0, (-1, self.sampler.frames.shape[1])).diff(dim=1)

        weight = (mask * known).unflatten(0, (-1, self.sampler.frames.shape[1]))[:, 1:]
        change = steps(pictures)
        return {"temporal": _mean((change - steps(truth)).abs(), weight), "steady": change.diff(dim=1).abs().mean()}

    def _real_frames(self, batch: Batch) -> torch.Tensor:
        """Indices of as many frames as there are, of those that show the adversary real teeth, masked where they truly are open."""
        found = (batch.own * batch.known).flatten().nonzero().flatten()
        count = len(batch.frames)
        return found[torch.arange(count, device=found.device) % len(found)] if len(found) else torch.arange(count, device=found.device)


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
    """Of held-out takes, painted from encoded latents and from a denoiser's: levels of error, the perceptual distance, fine detail and
    change from frame to frame relative to the truth's."""
    figures: dict[str, list[float]] = {}
    chosen = _held_out(sampler, 48)
    for takes in np.array_split(chosen, -(-len(chosen) // 8)):
        for way, name in ((0, "encoded"), (2, "denoised"), (3, "voice")):
            batch = sampler.batch(takes, np.full(len(takes), way))
            painted = paint(vae, inner, batch, batch.latents)
            pictures, mask = painted.pictures.clamp(-1, 1), painted.mask
            found = {"levels": 127.5 * _mean((pictures - batch.frames).abs(), mask)} if way < VOICE_ALONE else {}
            if perceptual is not None and way < VOICE_ALONE:
                found["perceptual"] = perceptual(torch.lerp(batch.frames, pictures, mask), batch.frames, mask)
            found["detail"] = _mean(_detail(pictures), mask) / _mean(_detail(batch.frames), mask).clamp(min=1e-9)
            for each, value in found.items():
                figures.setdefault(f"{each}_{name}", []).append(float(value))
    return {name: float(np.mean(values)) for name, values in figures.items()}


def _detail(pictures: torch.Tensor) -> torch.Tensor:
    """(luma - its mean around)², [B, 1, H, W]."""
    luma = pictures.mean(1, keepdim=True)
    return (luma - F.avg_pool2d(luma, 7, 1, 3, count_include_pad=False)).square()


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
