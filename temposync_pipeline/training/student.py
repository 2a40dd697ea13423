"""Stage `student`: the small few-step denoiser, distilled from the teacher (equations 6 and 7, and consistency).

    temposync train student --data LATENTS --output runs/student --set teacher=runs/teacher --set max_minutes=40

One teacher evaluation serves both terms.  At a noise level σ_{n+1} of a discretised range it gives the
target of L_dist; its Euler step to σ_n gives the point where the EMA student's clean estimate is
the target of the consistency term (consistency distillation, Song et al. 2023).
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..models.denoiser_temposync import TempoSyncDenoiser
from ..models.identity_encoder import IdentityEncoder
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from .denoising import DenoiserConfig, conditions, denoising_loss, draw_sigmas, evaluate_denoiser, sampling_figures
from .latent_cache import LatentCache, latent_mouth_weight
from .loop import Losses, make_accelerator, train_loop
from .losses import pseudo_huber, weighted_mse


@dataclass
class Config(DenoiserConfig):
    output: str = "runs/student"
    teacher: str = "runs/teacher"
    block_out_channels: tuple[int, int] = (112, 192)
    layers_per_block: tuple[int, int] = (2, 1)
    mid_layers: int = 2
    embedding_channels: int = 320
    # Share of the data's own term (equation 5) beside the teacher's: while the teacher is young, the data know better.
    data_weight: float = 0.5
    # Few steps never visit lower noise: the last one goes from above it straight to clean data.
    sigma_min: float = 0.3
    # Noise levels between which the consistency term bridges.
    discretization: int = 18
    consistency_weight: float = 1.0
    # Share of the run at its start in which only L_dist counts: the EMA must be worth imitating first.
    distillation_only: float = 0.25
    validation_steps: tuple[int, ...] = field(default=(1, 2, 4))


def neighbouring_sigmas(sigmas: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Snap continuous noise levels [B] to a falling `grid` [N]: returns (σ_{n+1}, σ_n), the level at or above and the next below it."""
    index = torch.searchsorted(-grid, -sigmas).clamp(1, len(grid) - 1)
    return grid[index - 1], grid[index]


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    device = accelerator.device
    cache = LatentCache(Path(config.data), config.sources, device, config.seed)
    weight = latent_mouth_weight(config.mouth_weight_floor, config.lip_weight).to(device)
    scheduler = TempoSyncScheduler(sigma_min=config.sigma_min, prediction="consistency")
    teacher = TempoSyncDenoiser.from_pretrained(config.teacher, subfolder="denoiser").to(device, memory_format=torch.channels_last)
    identity_encoder = IdentityEncoder.from_pretrained(config.teacher, subfolder="identity_encoder").to(device)
    scale = teacher.config.residual_scale
    if config.init:
        student = TempoSyncDenoiser.from_pretrained(config.init, subfolder="denoiser")
        student.register_to_config(residual_scale=scale)
    else:
        student = TempoSyncDenoiser(
            block_out_channels=config.block_out_channels, layers_per_block=config.layers_per_block, mid_layers=config.mid_layers,
            embedding_channels=config.embedding_channels, residual_scale=scale)
    student.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(student)
    grid = scheduler.sigma_schedule(config.discretization)[:-1].to(device)

    def compute_losses(prepared: nn.Module, progress: float) -> Losses:
        batch = cache.draw(config.batch_size)
        clean = batch.residual / scale
        above, below = neighbouring_sigmas(draw_sigmas(len(clean), config, scheduler, device), grid)
        noise = torch.randn_like(clean)
        noisy = scheduler.add_noise(clean, noise, above)
        with torch.no_grad():
            given = conditions(batch, identity_encoder)
            teacher_raw, teacher_clean = evaluate_denoiser(teacher, scheduler, noisy, above, given)
        raw, estimate = evaluate_denoiser(prepared, scheduler, noisy, above, given)
        # Equation 7 with the weight per noise level that `denoising_loss` explains.
        distillation = scheduler.config.sigma_data**2 * weighted_mse(raw, teacher_raw, weight)
        data = denoising_loss(raw, clean, noisy, above, weight, scheduler)
        base = distillation + config.data_weight * data
        losses = {"loss": base, "distillation": distillation, "data": data}
        if progress >= config.distillation_only and config.consistency_weight:
            with torch.no_grad():
                ratio = (below / above)[:, None, None, None]
                _, target = evaluate_denoiser(ema, scheduler, teacher_clean + ratio * (noisy - teacher_clean), below, given)
            consistency = pseudo_huber(estimate, target, weight)
            losses |= {"loss": base + config.consistency_weight * consistency, "consistency": consistency}
        return losses

    def validate(average: TempoSyncDenoiser) -> dict[str, float]:
        return sampling_figures(average, identity_encoder, scheduler, config, scale, config.validation_steps, weight)

    return train_loop(config, accelerator, student, ema, compute_losses, validate,
                      lambda average: average.save_pretrained(Path(config.output) / "denoiser"))
