"""What the teacher's and the student's stages share: batches, noise levels, the anchor terms, evaluation of a denoiser."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import InvalidInputError
from ..models.conditioning import latent_window
from ..models.denoiser_temposync import TempoSyncDenoiser
from ..models.identity_encoder import IdentityEncoder
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from .latent_cache import DenoiserBatch, LatentCache
from .loop import LoopConfig
from .losses import cross_identity, identity_anchor, total, weighted_mse


@dataclass
class DenoiserConfig(LoopConfig):
    """Settings of both denoiser stages; `data` is a folder of latent caches (`training.latent_cache`)."""

    batch_size: int = 48
    learning_rate: float = 6e-4
    ema_decay: float = 0.99
    # Folders (or checkpoints with such subfolders) of the frozen networks that the terms below need.
    identity_encoder: str = "runs/identity"
    vae: str = "runs/autoencoder"
    # Talkers teach true motion, retargeted portraits hundreds of identities and lips that let go of a smile.
    sources: dict[str, float] = field(default_factory=lambda: {"talkers_train": 0.45, "portraits_train": 0.55})
    validation_sources: dict[str, float] = field(default_factory=lambda: {"talkers_val": 0.5, "portraits_val": 0.5})
    # ln σ of training ~ N(mean, std): most of the mass where the visemes decide the picture.
    log_sigma_mean: float = 0.9
    log_sigma_std: float = 1.2
    mouth_weight_floor: float = 0.2
    lip_weight: float = 3.0
    # Strength of `perturb_visemes`: a few hundred sentences must not be learnt by heart.
    viseme_noise: float = 0.7
    # The same for the lips' shape: standard deviation of the noise, in units of `face.lip_shape.TYPICAL_MOTION`.
    lip_noise: float = 0.1
    # λ of equations 10 and 11; the paper gives no values. 0 leaves a term out.
    identity_weight: float = 0.02
    temporal_weight: float = 1.0
    sync_weight: float = 0.0
    # Of `sequence_terms`: what changes from frame to frame. Not in the paper.
    velocity_weight: float = 0.0
    sync_expert: str = "runs/sync"
    # The terms over consecutive frames are dear: one step in so many, with the weight raised to match.
    sequence_every: int = 6
    validation_count: int = 64


@dataclass
class Conditions:
    """Keyword arguments of the denoiser besides sample and timestep."""

    reference: torch.Tensor
    context: torch.Tensor
    visemes: torch.Tensor
    identity: torch.Tensor
    lips: torch.Tensor | None = None

    def asdict(self) -> dict[str, torch.Tensor]:
        return vars(self)


def conditions(batch: DenoiserBatch, identity_encoder: IdentityEncoder) -> Conditions:
    return Conditions(batch.reference, batch.context, batch.visemes, identity_encoder(batch.reference_full), batch.lips)


def load_component(model_class: type, folder: str, subfolder: str, device: torch.device) -> torch.nn.Module:
    """A frozen network from its own folder, or from a run or checkpoint that holds it as `subfolder`.

    Raises:
        InvalidInputError: the folder does not exist.
    """
    if not Path(folder).is_dir():
        raise InvalidInputError(f"{folder}: no such folder; the stage needs its {subfolder}")
    inside = {"subfolder": subfolder} if (Path(folder) / subfolder).is_dir() else {}
    model = model_class.from_pretrained(folder, **inside)
    return model.to(device).requires_grad_(False).eval()


def told_of_lips(denoiser: TempoSyncDenoiser, values: int) -> TempoSyncDenoiser:
    """The denoiser ready for training; one that was not told of the lips' shape gets the inputs for it, with the same output at first."""
    if values and not denoiser.config.lip_shape_values:
        # What was a default when the weights were saved, from_config would take from the defaults again.
        config = {name: value for name, value in denoiser.config.items() if not name.startswith("_")}
        grown = TempoSyncDenoiser(**config | {"lip_shape_values": values})
        grown.load_state_dict(grown.state_dict() | denoiser.state_dict())
        denoiser = grown
    return denoiser.requires_grad_(True).train()


def measure_residual_scale(cache: LatentCache, weight: torch.Tensor) -> float:
    """Standard deviation of the residual in the mouth's cells, the unit of the diffused variable."""
    residual = torch.cat([cache.draw(64).residual for _ in range(16)])
    return float(((weight * residual.square()).mean() / weight.mean()).sqrt())


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


def shared_noise(samples: torch.Tensor, frames: int) -> torch.Tensor:
    """Standard normal noise like `samples` [B, C, h, w], the same for each `frames` consecutive ones."""
    return torch.randn_like(samples[::frames]).repeat_interleave(frames, dim=0)


@torch.no_grad()
def mix_in_rollouts(clean: torch.Tensor, denoiser: TempoSyncDenoiser, scheduler: TempoSyncScheduler, given: Conditions,
                    share: float, frames: int = 1) -> torch.Tensor:
    """`clean` [B, C, h, w] with a random `share` of the samples replaced by what one step from the highest noise says of them; of
    stretches of `frames` consecutive samples all, from one noise, or none.

    A few-step sampler re-noises its own estimates, which are not distributed as the data are: what a step makes of them must be learnt on
    them (exposure bias of diffusion models, Ning et al. 2024).
    """
    drawn = torch.rand(len(clean) // frames, device=clean.device) < share
    chosen = torch.nonzero(drawn.repeat_interleave(frames)).flatten()
    if len(chosen) == 0:
        return clean
    mixed, some = clean.clone(), Conditions(**{name: value[chosen] for name, value in given.asdict().items()})
    sigmas = torch.full((len(chosen),), scheduler.config.sigma_max, device=clean.device)
    noise = scheduler.config.sigma_max * shared_noise(clean[chosen], frames)
    mixed[chosen] = evaluate_denoiser(denoiser, scheduler, noise, sigmas, some)[1]
    return mixed


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


def perturb_visemes(visemes: torch.Tensor, strength: float) -> torch.Tensor:
    """Another classifier's opinion of the same speech: logits with noise of `strength`, and sharper or blunter by up to e^±strength/2.

    visemes: probabilities [B, window, 15]; windows of zeros ("no speech known") stay zero.  Clips bring few different windows, each of
    which would name its clip; perturbed, they only say how the mouth should look.
    """
    noise = strength * torch.randn_like(visemes)
    sharpness = (strength * (torch.rand_like(visemes[:, :1, :1]) - 0.5)).exp()
    known = visemes.sum((1, 2), keepdim=True) > 0
    return ((visemes.clamp(min=1e-3).log() + noise) * sharpness).softmax(-1) * known


def weighted_total(terms: dict[str, torch.Tensor], config: DenoiserConfig) -> torch.Tensor:
    """Equations 10 and 11 with the configuration's λ: its field `<term>_weight`, 1 for a term that has none."""
    return total(terms, {name: getattr(config, f"{name}_weight", 1.0) for name in terms})


def identity_term(estimate: torch.Tensor, batch: DenoiserBatch, given: Conditions, identity_encoder: IdentityEncoder,
                  scale: float) -> torch.Tensor:
    """Equation 8 in the autoencoder's canonical space: the reference's grid with the estimated mouth put in, against the reference.

    estimate: clean residual in units of `scale`, [B, C, h, w].
    """
    grid = batch.reference_full.clone()
    latent_window(grid).copy_(batch.reference + scale * estimate)
    return identity_anchor(identity_encoder(grid), given.identity)


def replace_references(batch: DenoiserBatch, probability: float) -> tuple[DenoiserBatch, torch.Tensor]:
    """Equation 12: with `probability` a frame gets the reference and context of another clip; returns (batch, who was replaced [B]).

    The clean residual stays the frame's own: what the mouth does is asked of another face.  No real picture of that exists, so the
    data's own loss must leave these samples out; the teacher's and the consistency terms hold for them.  Every sample counts as another
    identity: of hundreds, two of a batch are seldom the same person.
    """
    given, replaced = cross_identity((batch.reference, batch.reference_full, batch.context),
                                     torch.arange(len(batch.target), device=batch.target.device), probability)
    reference, full, context = given
    return DenoiserBatch(reference + batch.residual, reference, full, context, batch.visemes, batch.lips), replaced


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
        cache = LatentCache(Path(config.data), {name: 1.0}, device=denoiser.device, seed=1, still_context=1.0, zero_silence=0.0, rest=0.0,
                            closing=0.0, unknown_lips=0.0)
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
