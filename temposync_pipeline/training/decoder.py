"""Stage `decoder`: what `AutoencoderTempoSync.motion` says, where in the portrait a frame's pixels come from.

Reads `DATA/{train,val}` (`temposync_pipeline.data.motion_pairs`).  Encoder and colours stay as they are: latents, and so everything
trained on them, keep their meaning.  Of photographs made to speak the warp is known and supervised, also where the latents are those that
the denoiser makes of the voice; there it has to agree with the motion that their colours show, too.  Of real pairs the composed picture is
compared with the true one, and hiding a pixel has a small price, so that the photograph is used wherever it can be.

    temposync train decoder --init temposync-tiny --data PAIRS --output runs/decoder
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ..data.denoised_latents import ENCODED, LATENT_LEVELS, MORE_NOISE, MUCH_NOISE, NUM_WAYS, VOICE_ALONE
from ..data.motion_pairs import HEIGHT, LEFT, TOP, WIDTH, MotionPairs
from ..face.crop import mouth_mask
from ..models.autoencoder_temposync import AutoencoderTempoSync
from .checkpointing import save_weights
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .losses import charbonnier, gradient_difference, warp


@dataclass
class Config(LoopConfig):
    output: str = "runs/decoder"
    # Frames; `frames_per_reference` of them share a reference.
    batch_size: int = 16
    frames_per_reference: int = 4
    learning_rate: float = 1e-3
    motion_channels: tuple[int, int, int] = (96, 64, 32)
    motion_blocks: tuple[int, int, int] = (3, 2, 1)
    # Share of a batch's references by their kind: photographs made to speak, clips, two photographs of a person.
    kinds: dict[int, float] = field(default_factory=lambda: {0: 0.7, 1: 0.2, 2: 0.1})
    # Share of each way that latents come about (`data.denoised_latents`); of real pairs only those that keep to the true frame.
    ways: tuple[float, float, float, float] = (0.25, 0.2, 0.2, 0.35)
    # The encoder's are made a little noisy, and their motion a little too small or too large, as a denoiser's are.
    latent_noise: float = 0.08
    amplitudes: tuple[float, float] = (0.85, 1.1)
    flow_weight: float = 0.1
    hidden_weight: float = 0.5
    gradient_weight: float = 0.5
    # Price of hiding a pixel that the photograph may show, in units of half a picture's range: 5 levels.
    hiding_price: float = 0.04
    smoothness_weight: float = 0.02
    # Of how the reference's colours, moved, differ from the frame's where the denoiser made these.
    agreement_weight: float = 2.0


class Batch(NamedTuple):
    """R references and R·k frames of `MotionPairs` as tensors: pictures float32 [B, 3, 160, 192] in [-1, 1], normalised latents
    [B, C, 10, 12], each frame's of one way, the rest as stored."""

    references: torch.Tensor
    reference_latents: torch.Tensor
    frames: torch.Tensor
    latents: torch.Tensor
    is_encoded: torch.Tensor  # bool [B], whether the latents are the encoder's
    is_known: torch.Tensor  # bool [B], whether flow and hidden are
    flow: torch.Tensor
    hidden: torch.Tensor  # float32 [B, 1, 160, 192]


class PairSampler:
    """Random references of each kind with random frames of theirs."""

    def __init__(self, pairs: MotionPairs, config: Config):
        self.pairs, self.config = pairs, config
        self.rng = np.random.default_rng(config.seed)
        owners, kinds = np.asarray(pairs.owners), np.asarray(pairs.kinds)
        self.frames_of = np.split(np.argsort(owners, kind="stable"), np.cumsum(np.bincount(owners))[:-1])
        kind_of = np.array([kinds[frames[0]] for frames in self.frames_of])
        present = [kind for kind in config.kinds if (kind_of == kind).any()]
        self.references_of = {kind: np.flatnonzero(kind_of == kind) for kind in present}
        shares = np.array([config.kinds[kind] for kind in present])
        self.kinds, self.shares = present, shares / shares.sum()

    def draw(self) -> Batch:
        count = self.config.frames_per_reference
        kinds = self.rng.choice(self.kinds, max(1, self.config.batch_size // count), p=self.shares)
        references = np.array([self.rng.choice(self.references_of[kind]) for kind in kinds])
        frames = np.concatenate([self.rng.choice(self.frames_of[reference], count) for reference in references])
        ways = self.rng.choice(NUM_WAYS, len(frames), p=np.array(self.config.ways) / sum(self.config.ways))
        kind = self.pairs.kinds[frames]
        ways[np.isin(ways, (MORE_NOISE, VOICE_ALONE)) & (kind == 1)] = MUCH_NOISE
        ways[kind == 2] = ENCODED  # nobody spoke between two photographs
        return make_batch(self.pairs, references, frames, ways)


def make_batch(pairs: MotionPairs, references: np.ndarray, frames: np.ndarray, ways: np.ndarray) -> Batch:
    """The pairs of these indices; of `frames`, equally many belong to each reference, one after the other, and each comes its own way."""
    def pictures(array: np.ndarray, indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array[indices]).permute(0, 3, 1, 2).float() / 127.5 - 1

    def floats(array: np.ndarray, indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array[indices]).float()

    return Batch(
        pictures(pairs.references, references), floats(pairs.reference_latents, references) / LATENT_LEVELS,
        pictures(pairs.frames, frames), torch.from_numpy(pairs.latents[frames, ways]).float() / LATENT_LEVELS,
        torch.from_numpy(ways == ENCODED), torch.from_numpy(pairs.kinds[frames] == 0), floats(pairs.flow, frames),
        floats(pairs.hidden, frames)[:, None] / 255)


def as_generated(batch: Batch, config: Config) -> torch.Tensor:
    """The frames' latents, the encoder's among them as a denoiser would make them, see `Config`."""
    count = len(batch.latents) // len(batch.references)
    reference = batch.reference_latents.repeat_interleave(count, 0)
    amplitude = torch.empty(len(batch.latents), 1, 1, 1).uniform_(*config.amplitudes)
    noisy = batch.latents + config.latent_noise * torch.rand(len(batch.latents), 1, 1, 1) * torch.randn_like(batch.latents)
    return torch.where(batch.is_encoded[:, None, None, None], reference + amplitude * (noisy - reference), batch.latents)


def block_mask() -> torch.Tensor:
    """`mouth_mask` of the block, [1, 1, 160, 192]: where it is 0, nothing may move."""
    return torch.from_numpy(mouth_mask()[TOP:TOP + HEIGHT, LEFT:LEFT + WIDTH].copy())[None, None]


def full_flow(flow: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Displacements [B, 2, 160, 192] of a flow [B, 2, 80, 96], held at the mask's border."""
    return F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False) * mask


def compose(reference: torch.Tensor, colours: torch.Tensor, flow: torch.Tensor, visibility: torch.Tensor) -> torch.Tensor:
    """visibility · warped reference + (1 - visibility) · colours, pictures [B, 3, 160, 192]; `flow` is the full one."""
    return colours + visibility * (warp(reference, flow) - colours)


def known_terms(flow: torch.Tensor, logit: torch.Tensor, batch: Batch, mask: torch.Tensor) -> Losses:
    """Distances to the true flow and to what is truly hidden, of the frames whose truth is known."""
    known = batch.is_known
    truth, small_mask = batch.flow[known], F.avg_pool2d(mask, 2)
    # Between lips that met where the photograph shows teeth the flow jumps: what is between them comes from nowhere.
    jump = F.pad(truth.diff(dim=-2).abs().amax(1, keepdim=True) > 2, (0, 0, 1, 1)).float()
    jump = torch.maximum(jump[..., 1:, :], jump[..., :-1, :])
    hidden = torch.maximum(batch.hidden[known], F.interpolate(jump, scale_factor=2))
    shown = (1 - F.avg_pool2d(hidden, 2)) * (small_mask > 0)
    distance = ((flow[known] * small_mask - truth).square().sum(1, keepdim=True) + 0.01).sqrt() - 0.1
    entropy = F.binary_cross_entropy_with_logits(logit[known], hidden, reduction="none") * (mask > 0)
    count = (len(hidden) * (mask > 0).sum()).clamp(min=1)
    return {"flow": (distance * shown).sum() / shown.sum().clamp(min=1), "hidden": entropy.sum() / count}


def agreement(
    vae: AutoencoderTempoSync, latents: torch.Tensor, reference: torch.Tensor, flow: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """How far the colours of references [n, C, 10, 12], moved by the full `flow` [n, 2, 160, 192], are from those of `latents` where
    nothing is `hidden` [n, 1, 160, 192]; in halves of a picture's range.

    A denoiser's lips do not move quite as it was told; the photograph's shall move as its do.
    """
    with torch.no_grad():
        before, after = vae.decode(torch.cat([reference, latents])).sample.float().chunk(2)
    distance = ((warp(before, flow) - after).square().mean(1, keepdim=True) + 1e-4).sqrt() - 1e-2
    shown = mask * (1 - hidden.detach())
    return (distance * shown).sum() / shown.sum().clamp(min=1)


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    vae = build(config)
    ema = copy.deepcopy(vae)
    sampler = PairSampler(MotionPairs.load(Path(config.data) / "train"), config)
    held_out = MotionPairs.load(Path(config.data) / "val")
    mask = block_mask().to(accelerator.device)

    def compute_losses(model: torch.nn.Module, progress: float) -> Losses:
        batch = sampler.draw()
        latents = as_generated(batch, config).to(accelerator.device)
        batch = Batch(*(part.to(accelerator.device) for part in batch))
        vae = accelerator.unwrap_model(model)
        flow, logit = vae.motion_logits(latents, batch.reference_latents)
        terms = known_terms(flow, logit, batch, mask)
        seen = ~batch.is_known
        if seen.any():
            with torch.no_grad():
                colours = vae.decode(latents[seen]).sample.float()
            references = batch.references.repeat_interleave(len(latents) // len(batch.references), 0)[seen]
            hidden = logit[seen].sigmoid() * mask
            composed = compose(references, colours, full_flow(flow[seen], mask), 1 - hidden)
            truth = torch.lerp(references, batch.frames[seen], mask)
            terms |= {"picture": charbonnier(composed, truth) + config.gradient_weight * gradient_difference(composed, truth),
                      "price": hidden.mean()}
        else:
            terms |= {"picture": flow.new_zeros(()), "price": flow.new_zeros(())}
        made = batch.is_known & ~batch.is_encoded
        terms["agreement"] = agreement(
            vae, latents[made], batch.reference_latents.repeat_interleave(len(latents) // len(batch.references), 0)[made],
            full_flow(flow[made], mask), logit[made].sigmoid(), mask) if made.any() else flow.new_zeros(())
        terms["rough"] = (flow.diff(dim=-1).diff(dim=-1).abs().mean() + flow.diff(dim=-2).diff(dim=-2).abs().mean())
        loss = (config.flow_weight * terms["flow"] + config.hidden_weight * terms["hidden"] + terms["picture"]
                + config.hiding_price * terms["price"] + config.smoothness_weight * terms["rough"]
                + config.agreement_weight * terms["agreement"])
        return {"loss": loss} | terms

    return train_loop(config, accelerator, vae, ema, compute_losses, lambda model: motion_figures(model, held_out),
                      lambda model: save_weights(model, Path(config.output) / "vae"), generators=[sampler.rng])


def build(config: Config) -> AutoencoderTempoSync:
    """The autoencoder of `init`, with a new motion decoder where it has none, which alone is to be trained."""
    vae = AutoencoderTempoSync.from_pretrained(config.init) if config.init else AutoencoderTempoSync()
    if not vae.knows_motion:
        weights = vae.state_dict()
        settings = {name: value for name, value in vae.config.items() if not name.startswith("_")}
        vae = AutoencoderTempoSync(**settings | {"motion_channels": config.motion_channels, "motion_blocks": config.motion_blocks})
        vae.load_state_dict(weights, strict=False)
    vae.to(memory_format=torch.channels_last).requires_grad_(False)
    vae.motion_decoder.requires_grad_(True)
    return vae


def motion_figures(vae: AutoencoderTempoSync, pairs: MotionPairs, count: int = 96) -> dict[str, float]:
    """Of held-out frames: PSNR (dB) at the mouth of composed pictures and of the decoder's colours alone, encoded from the answer; and
    where the truth is known, encoded and as the denoiser makes them of the voice: the error of the flow in pixels of what is shown, how
    large it is beside the true one, and the share of pixels that are wrongly hidden or shown."""
    chosen = np.linspace(0, len(pairs.owners) - 1, min(len(pairs.owners), count)).astype(int)
    known = chosen[np.asarray(pairs.kinds[chosen]) == 0]
    figures = picture_figures(vae, pairs, chosen)
    for name, way in (("", ENCODED), ("_of_voice", VOICE_ALONE)):
        figures |= {figure + name: value for figure, value in flow_figures(vae, pairs, known, way).items()}
    return figures


def _held_out(pairs: MotionPairs, chosen: np.ndarray, way: int, device: torch.device) -> Iterator[Batch]:
    """The frames `chosen` [n] with latents of one way, eight at a time, each with its own reference."""
    for indices in np.array_split(chosen, -(-len(chosen) // 8)):
        batch = make_batch(pairs, np.asarray(pairs.owners[indices]), indices, np.full(len(indices), way))
        yield Batch(*(part.to(device) for part in batch))


@torch.inference_mode()
def picture_figures(vae: AutoencoderTempoSync, pairs: MotionPairs, chosen: np.ndarray) -> dict[str, float]:
    """The PSNRs (dB) of `motion_figures` over the frames `chosen` [n]."""
    mask, values = block_mask().to(vae.device), {"psnr_composed": [], "psnr_colours": []}
    for batch in _held_out(pairs, chosen, ENCODED, vae.device):
        latents = batch.latents.to(vae.dtype)
        flow, visibility = vae.motion(latents, batch.reference_latents.to(vae.dtype))
        colours = vae.decode(latents).sample.float()
        composed = compose(batch.references, colours, full_flow(flow, mask), 1 - (1 - visibility) * mask)
        for name, pictures in (("psnr_composed", composed), ("psnr_colours", colours)):
            error = ((pictures.clamp(-1, 1) - batch.frames) / 2).square().mean(1, keepdim=True)
            values[name] += (-10 * _mean(error, mask).log10()).tolist()
    return {name: float(np.mean(found)) for name, found in values.items()}


@torch.inference_mode()
def flow_figures(vae: AutoencoderTempoSync, pairs: MotionPairs, chosen: np.ndarray, way: int) -> dict[str, float]:
    """Of the frames `chosen` [n], whose truth is known, with latents of one way; empty where there are none.

    `flow_error` in crop pixels; `wrongly_hidden` in [0, 1]; `flow_size`, Σ flow · truth / Σ truth², 1 for a flow as large as the true one.
    """
    mask, errors, wrong, along, true = block_mask().to(vae.device), [], [], 0.0, 0.0
    small_mask = F.avg_pool2d(mask, 2)
    for batch in _held_out(pairs, chosen, way, vae.device) if len(chosen) else ():
        flow, visibility = vae.motion(batch.latents.to(vae.dtype), batch.reference_latents.to(vae.dtype))
        shown = (1 - F.avg_pool2d(batch.hidden, 2)) * small_mask
        flow = flow * small_mask
        errors += _mean((flow - batch.flow).square().sum(1, keepdim=True).sqrt(), shown).tolist()
        wrong += _mean(((visibility < 0.5) != (batch.hidden > 0.5)).float(), mask).tolist()
        along += float((flow * batch.flow * shown).sum())
        true += float((batch.flow.square() * shown).sum())
    return {"flow_error": float(np.mean(errors)), "wrongly_hidden": float(np.mean(wrong)), "flow_size": along / max(true, 1e-6)} \
        if errors else {}


def _mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean of each picture, [B]."""
    weight = weight.expand_as(values)
    return (values * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-6)
