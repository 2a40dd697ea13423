"""Stage `teacher`: the denoiser by noise prediction over all noise levels (equations 4 and 5), with its identity encoder.

    temposync train teacher --data LATENTS --output runs/teacher --set max_minutes=40
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


@dataclass
class Config(DenoiserConfig):
    output: str = "runs/teacher"
    block_out_channels: tuple[int, int] = (128, 384)
    layers_per_block: tuple[int, int] = (2, 1)
    mid_layers: int = 4
    embedding_channels: int = 384
    residual_scale: float = 0.0
    validation_steps: tuple[int, ...] = field(default=(25,))


class TeacherModel(nn.Module):
    """Denoiser and identity encoder, optimised together."""

    def __init__(self, denoiser: TempoSyncDenoiser, identity_encoder: IdentityEncoder):
        super().__init__()
        self.denoiser, self.identity_encoder = denoiser, identity_encoder

    def forward(self, *args, **kwargs):
        return self.denoiser(*args, **kwargs)


def measure_residual_scale(cache: LatentCache, weight: torch.Tensor) -> float:
    """Standard deviation of the residual in the mouth's cells: dividing by it makes σ_data = 1."""
    residual = torch.cat([cache.draw(64).residual for _ in range(16)])
    return float(((weight * residual.square()).mean() / weight.mean()).sqrt())


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    device = accelerator.device
    cache = LatentCache(Path(config.data), config.sources, device, config.seed)
    weight = latent_mouth_weight(config.mouth_weight_floor, config.lip_weight).to(device)
    scale = config.residual_scale or measure_residual_scale(cache, (weight >= 1).float())
    scheduler = TempoSyncScheduler(prediction="ode")
    if config.init:
        denoiser = TempoSyncDenoiser.from_pretrained(config.init, subfolder="denoiser")
        identity_encoder = IdentityEncoder.from_pretrained(config.init, subfolder="identity_encoder")
    else:
        denoiser = TempoSyncDenoiser(
            block_out_channels=config.block_out_channels, layers_per_block=config.layers_per_block, mid_layers=config.mid_layers,
            embedding_channels=config.embedding_channels, residual_scale=scale)
        identity_encoder = IdentityEncoder()
    model = TeacherModel(denoiser, identity_encoder).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(model)

    def compute_losses(prepared: nn.Module, progress: float) -> Losses:
        trained = accelerator.unwrap_model(prepared)
        batch = cache.draw(config.batch_size)
        clean = batch.residual / trained.denoiser.config.residual_scale
        sigmas = draw_sigmas(len(clean), config, scheduler, device)
        noisy = scheduler.add_noise(clean, torch.randn_like(clean), sigmas)
        raw, _ = evaluate_denoiser(prepared, scheduler, noisy, sigmas, conditions(batch, trained.identity_encoder))
        return {"loss": denoising_loss(raw, clean, noisy, sigmas, weight, scheduler)}

    def validate(average: TeacherModel) -> dict[str, float]:
        return sampling_figures(average.denoiser, average.identity_encoder, scheduler, config,
                                average.denoiser.config.residual_scale, config.validation_steps, weight)

    def save(average: TeacherModel) -> None:
        average.denoiser.save_pretrained(Path(config.output) / "denoiser")
        average.identity_encoder.save_pretrained(Path(config.output) / "identity_encoder")

    return train_loop(config, accelerator, model, ema, compute_losses, validate, save)
