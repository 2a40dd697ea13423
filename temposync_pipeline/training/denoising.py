"""What the teacher's and the student's stages share: batches, noise levels, evaluation of a denoiser."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..models.denoiser_temposync import TempoSyncDenoiser
from ..models.identity_encoder import IdentityEncoder
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from .latent_cache import DenoiserBatch, LatentCache
from .loop import LoopConfig
from .losses import weighted_mse


@dataclass
class DenoiserConfig(LoopConfig):
    """Settings of both denoiser stages; `data` is a folder of latent caches (`training.latent_cache`)."""

    batch_size: int = 48
    learning_rate: float = 6e-4
    ema_decay: float = 0.99
    # Talkers teach true motion, retargeted portraits hundreds of identities and lips that let go of a smile.
    sources: dict[str, float] = field(default_factory=lambda: {"talkers_train": 0.45, "portraits_train": 0.55})
    validation_sources: dict[str, float] = field(default_factory=lambda: {"talkers_val": 0.5, "portraits_val": 0.5})
    # ln σ of training ~ N(mean, std): most of the mass where the visemes decide the picture.
    log_sigma_mean: float = 0.9
    log_sigma_std: float = 1.2
    mouth_weight_floor: float = 0.2
    lip_weight: float = 3.0
    validation_count: int = 64


@dataclass
class Conditions:
    """Keyword arguments of the denoiser besides sample and timestep."""

    reference: torch.Tensor
    context: torch.Tensor
    visemes: torch.Tensor
    identity: torch.Tensor

    def asdict(self) -> dict[str, torch.Tensor]:
        return vars(self)


def conditions(batch: DenoiserBatch, identity_encoder: IdentityEncoder) -> Conditions:
    return Conditions(batch.reference, batch.context, batch.visemes, identity_encoder(batch.reference_full))


def draw_sigmas(count: int, config: DenoiserConfig, scheduler: TempoSyncScheduler, device: torch.device) -> torch.Tensor:
    """Noise levels [B], log-normal, stratified over the batch so that every batch sees the whole range."""
    strata = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
    normal = torch.special.ndtri(strata.clamp(1e-4, 1 - 1e-4))
    sigmas = (config.log_sigma_mean + config.log_sigma_std * normal).exp()
    return sigmas.clamp(scheduler.config.sigma_min, scheduler.config.sigma_max)


def evaluate_denoiser(
    denoiser: TempoSyncDenoiser, scheduler: TempoSyncScheduler, noisy: torch.Tensor, sigmas: torch.Tensor, given: Conditions
) -> tuple[torch.Tensor, torch.Tensor]:
    """(F, f): the raw output and the clean estimate of `noisy` [B, C, h, w] at noise levels `sigmas` [B]."""
    _, _, c_in = scheduler.boundary_coefficients(sigmas[:, None, None, None])
    raw = denoiser(c_in * noisy, scheduler.timestep(sigmas), **given.asdict()).sample.float()
    return raw, scheduler.pred_original(raw, noisy, sigmas)


def denoising_loss(
    raw: torch.Tensor, clean: torch.Tensor, noisy: torch.Tensor, sigmas: torch.Tensor, weight: torch.Tensor, scheduler: TempoSyncScheduler
) -> torch.Tensor:
    """Equation 5 with a weight per noise level: w·(σ² + σ_d²)·‖ε - ε_θ‖².

    Since ε - ε_θ = (f - z) / σ, this is σ_d²·‖F - F*‖²: the raw output carries the same loss at every level (Karras et al. 2022, section
    5), in units of the residual's variance.
    """
    return scheduler.config.sigma_data**2 * weighted_mse(raw, raw_target(clean, noisy, sigmas, scheduler), weight)


def raw_target(clean: torch.Tensor, noisy: torch.Tensor, sigmas: torch.Tensor, scheduler: TempoSyncScheduler) -> torch.Tensor:
    """The F for which f = clean: (z - c_skip·z̃) / c_out."""
    c_skip, c_out, _ = scheduler.boundary_coefficients(sigmas[:, None, None, None])
    return (clean - c_skip * noisy) / c_out


@torch.inference_mode()
def sampling_figures(
    denoiser: TempoSyncDenoiser, identity_encoder: IdentityEncoder, scheduler: TempoSyncScheduler, config: DenoiserConfig,
    residual_scale: float, steps: tuple[int, ...], weight: torch.Tensor,
) -> dict[str, float]:
    """Held-out sampling quality: explained variance of the mouth's residual, 1 - ‖z - ẑ‖² / ‖z‖², per source and number of steps.

    0 is the still picture, 1 is perfect; the standard deviation ratio tells whether the motion is damped.
    """
    figures = {}
    for name in config.validation_sources:
        if not (Path(config.data) / f"{name}.safetensors").exists():
            continue
        cache = LatentCache(Path(config.data), {name: 1.0}, device=denoiser.device, seed=1, still_context=1.0, zero_silence=0.0)
        batch = cache.draw(config.validation_count)
        given, target = conditions(batch, identity_encoder), batch.residual / residual_scale
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, *target.shape[1:], generator=generator).to(target.device)
        for number in steps:
            generated = sample_residual(denoiser, scheduler, given, noise.expand_as(target), number)
            error = (weight * (generated - target).square()).sum() / (weight * target.square()).sum()
            short = name.split("_")[0]
            figures[f"{short}_ev{number}"] = float(1 - error)
            figures[f"{short}_std{number}"] = float(((weight * generated.square()).sum() / (weight * target.square()).sum()).sqrt())
    return figures


def sample_residual(
    denoiser: TempoSyncDenoiser, scheduler: TempoSyncScheduler, given: Conditions, noise: torch.Tensor, steps: int
) -> torch.Tensor:
    """The scheduler's whole trajectory from unit `noise` [B, C, h, w] to a clean residual in units of its standard deviation."""
    scheduler.set_timesteps(steps, device=noise.device)
    sample = noise * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(1)
    for timestep in scheduler.timesteps:
        raw = denoiser(scheduler.scale_model_input(sample, timestep), timestep, **given.asdict()).sample.float()
        sample = scheduler.step(raw, timestep, sample, generator=generator).prev_sample
    return sample
