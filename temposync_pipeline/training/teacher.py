"""Stage `teacher`: the denoiser by noise prediction over all noise levels (equations 4, 5 and 10).

    temposync train teacher --data LATENTS --output runs/teacher --set identity_encoder=runs/identity --set max_minutes=40
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..face.lip_shape import NUM_LIP_SHAPE
from ..models.denoiser_temposync import TempoSyncDenoiser
from ..models.identity_encoder import IdentityEncoder
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from .checkpointing import save_weights
from .denoising import (
    DenoiserConfig,
    conditions,
    denoising_loss,
    draw_sigmas,
    evaluate_denoiser,
    identity_term,
    load_component,
    measure_residual_scale,
    perturb_visemes,
    sampling_figures,
    told_of_lips,
    weighted_total,
)
from .latent_cache import LatentCache, latent_mouth_weight
from .loop import Losses, make_accelerator, train_loop
from .sequence_terms import SequenceTerms


@dataclass
class Config(DenoiserConfig):
    output: str = "runs/teacher"
    block_out_channels: tuple[int, int] = (128, 384)
    layers_per_block: tuple[int, int] = (2, 1)
    mid_layers: int = 4
    embedding_channels: int = 384
    # 0 leaves the shape of the lips to the visemes.
    lip_shape_values: int = NUM_LIP_SHAPE
    # Standard deviation of the residual; 0 measures it on the data.
    residual_scale: float = 0.0
    validation_steps: tuple[int, ...] = field(default=(25,))


def make_teacher(config: Config, cache: LatentCache, weight: torch.Tensor) -> TempoSyncDenoiser:
    if config.init:
        return told_of_lips(load_component(TempoSyncDenoiser, config.init, "denoiser", "cpu"), config.lip_shape_values)
    return TempoSyncDenoiser(
        block_out_channels=config.block_out_channels, layers_per_block=config.layers_per_block, mid_layers=config.mid_layers,
        embedding_channels=config.embedding_channels, lip_shape_values=config.lip_shape_values,
        residual_scale=config.residual_scale or measure_residual_scale(cache, (weight >= 1).float()))


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    device = accelerator.device
    cache = LatentCache(Path(config.data), config.sources, device, config.seed)
    weight = latent_mouth_weight(config.mouth_weight_floor, config.lip_weight).to(device)
    scheduler = TempoSyncScheduler(prediction="sde")
    identity_encoder = load_component(IdentityEncoder, config.identity_encoder, "identity_encoder", device)
    denoiser = make_teacher(config, cache, weight).to(memory_format=torch.channels_last)
    scale = denoiser.config.residual_scale
    sequences = SequenceTerms(config, cache, scheduler, identity_encoder, scale, device)

    def compute_losses(prepared: nn.Module, progress: float) -> Losses:
        batch = cache.draw(config.batch_size)
        batch.visemes = perturb_visemes(batch.visemes, config.viseme_noise)
        batch.lips = batch.lips + config.lip_noise * torch.randn_like(batch.lips)
        clean = batch.residual / scale
        sigmas = draw_sigmas(len(clean), config, scheduler, device)
        noisy = scheduler.corrupt(clean, torch.randn_like(clean), sigmas)
        with torch.no_grad():
            given = conditions(batch, identity_encoder)
        raw, estimate = evaluate_denoiser(prepared, scheduler, noisy, sigmas, given)
        terms = {"diffusion": denoising_loss(raw, clean, noisy, sigmas, weight, scheduler)}
        if config.identity_weight:
            terms["identity"] = identity_term(estimate, batch, given, identity_encoder, scale)
        terms |= sequences(prepared)
        return {"loss": weighted_total(terms, config), **terms}

    def validate(average: TempoSyncDenoiser) -> dict[str, float]:
        return sampling_figures(average, identity_encoder, scheduler, config, scale, config.validation_steps, weight)

    return train_loop(config, accelerator, denoiser, copy.deepcopy(denoiser), compute_losses, validate,
                      lambda average: save_weights(average, Path(config.output) / "denoiser"), generators=[cache.rng])
