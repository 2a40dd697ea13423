"""Stage `student`: the small few-step denoiser, distilled from the teacher (equations 6-8, 9, 11 and 12, and consistency).

    temposync train student --data LATENTS --output runs/student --set teacher=runs/teacher --set max_minutes=40

Each term is one weight in the configuration; a weight of 0 leaves the term out and saves its cost:

    L = λ_dist·L_dist + λ_data·L_diff + λ_cons·L_cons + λ_id·L_id + λ_temp·L_temp + λ_sync·L_sync + λ_adv·L_adv + λ_vel·L_vel

Without a teacher (fine-tuning on a person's clips) the first and third fall away.  With `--set lora_rank=8` the checkpoint given by
`--init` stays as it is and the run writes an adapter of about 1 MB (`pipelines.lora`).
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..errors import InvalidInputError
from ..face.lip_shape import NUM_LIP_SHAPE
from ..models.denoiser_temposync import TempoSyncDenoiser
from ..models.identity_encoder import IdentityEncoder
from ..pipelines.lora import add_lora, save_lora
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from .adversarial import LatentDiscriminator, adversarial_terms
from .checkpointing import save_weights
from .denoising import (
    Conditions,
    DenoiserConfig,
    conditions,
    draw_sigmas,
    evaluate_denoiser,
    identity_term,
    load_component,
    measure_residual_scale,
    mix_in_rollouts,
    perturb_visemes,
    raw_target,
    replace_references,
    sampling_figures,
    told_of_lips,
    weighted_total,
)
from .distillation import discretization_at, equal_change_sigmas, estimate_changes, neighbouring_sigmas, teacher_ode_step
from .latent_cache import DenoiserBatch, LatentCache, latent_mouth_weight
from .loop import Losses, make_accelerator, train_loop
from .losses import distillation, pseudo_huber, weighted_mse
from .sequence_terms import SequenceTerms


@dataclass
class Config(DenoiserConfig):
    output: str = "runs/student"
    # Folder of the teacher's run; empty: learn from the data alone.
    teacher: str = "runs/teacher"
    block_out_channels: tuple[int, int] = (112, 192)
    layers_per_block: tuple[int, int] = (2, 1)
    mid_layers: int = 2
    embedding_channels: int = 320
    # 0 leaves the shape of the lips to the visemes.
    lip_shape_values: int = NUM_LIP_SHAPE
    distillation_weight: float = 1.0
    # The data's own term (equation 5) beside the teacher's: while the teacher is young, the data know better.
    data_weight: float = 0.5
    consistency_weight: float = 1.0
    # Of `training.adversarial`; not in the paper.
    adversarial_weight: float = 0.0
    # Share of samples whose noisy latents hold not the data but the student's (its EMA's) own estimate from the highest noise, as when
    # sampling.
    rollout: float = 0.0
    # p of equation 12; only with a teacher.
    cross_identity: float = 0.1
    # Few steps never visit lower noise: the last one goes from above it straight to clean data.
    sigma_min: float = 0.3
    # Noise levels between which the consistency term bridges, at the start and at the end of the run.
    discretization: tuple[int, int] = (9, 36)
    # Share of the run at its start without the consistency term: the EMA must be worth imitating first.
    distillation_only: float = 0.25
    # Numbers of steps for which the stage places noise levels of their own; empty: the scheduler's formula.
    adapt_steps: tuple[int, ...] = field(default=())
    validation_steps: tuple[int, ...] = field(default=(1, 2, 4))
    # Rank of an adapter that is trained in the place of the weights; 0: the weights themselves.
    lora_rank: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.lora_rank < 0 or (self.lora_rank and not self.init):
            raise InvalidInputError(f"lora_rank {self.lora_rank}: an adapter adapts a checkpoint (--init) and has a rank of at least 1")


def make_student(config: Config, teacher: TempoSyncDenoiser | None, cache: LatentCache) -> TempoSyncDenoiser:
    """The student to start from; with a teacher it must measure residuals in the teacher's unit."""
    if config.init:
        student = told_of_lips(load_component(TempoSyncDenoiser, config.init, "denoiser", "cpu"), config.lip_shape_values)
        if teacher:
            student.register_to_config(residual_scale=teacher.config.residual_scale)
        if config.lora_rank:
            add_lora(student, config.lora_rank)
        return student
    moved = (latent_mouth_weight() >= 1).float()
    residual_scale = teacher.config.residual_scale if teacher else measure_residual_scale(cache, moved)
    return TempoSyncDenoiser(
        block_out_channels=config.block_out_channels, layers_per_block=config.layers_per_block, mid_layers=config.mid_layers,
        embedding_channels=config.embedding_channels, residual_scale=residual_scale,
        lip_shape_values=config.lip_shape_values)


class StudentModel(nn.Module):
    """What one optimiser trains: the student and, where the loss asks for one, its adversary."""

    def __init__(self, denoiser: TempoSyncDenoiser, discriminator: LatentDiscriminator | None):
        super().__init__()
        self.denoiser, self.discriminator = denoiser, discriminator


class StudentLoss:
    """The sum above for one batch: called as (model, its EMA, progress of the run in [0, 1])."""

    def __init__(self, config: Config, cache: LatentCache, scheduler: TempoSyncScheduler, teacher: TempoSyncDenoiser | None,
                 identity_encoder: IdentityEncoder, scale: float, device: torch.device):
        self.config, self.cache, self.scheduler, self.scale, self.device = config, cache, scheduler, scale, device
        self.teacher, self.identity_encoder = teacher, identity_encoder
        self.weight = latent_mouth_weight(config.mouth_weight_floor, config.lip_weight).to(device)
        self.sequences = SequenceTerms(config, cache, scheduler, identity_encoder, scale, device)

    def __call__(self, model: StudentModel, average: StudentModel, progress: float) -> Losses:
        config, scheduler = self.config, self.scheduler
        batch, replaced = replace_references(self.cache.draw(config.batch_size), config.cross_identity if self.teacher else 0.0)
        batch.visemes = perturb_visemes(batch.visemes, config.viseme_noise)
        batch.lips = batch.lips + config.lip_noise * torch.randn_like(batch.lips)
        clean = batch.residual / self.scale
        grid = scheduler.sigma_schedule(discretization_at(progress, *config.discretization))[:-1].to(self.device)
        above, below = neighbouring_sigmas(draw_sigmas(len(clean), config, scheduler, self.device), grid)
        with torch.no_grad():
            given = conditions(batch, self.identity_encoder)
            start = mix_in_rollouts(clean, average.denoiser, scheduler, given, config.rollout)
        noisy = scheduler.corrupt(start, torch.randn_like(clean), above)
        raw, estimate = evaluate_denoiser(model.denoiser, scheduler, noisy, above, given)
        terms = self._teacher_terms(average.denoiser, raw, estimate, noisy, above, below, given, progress) if self.teacher else {}
        if config.data_weight:
            target = torch.where(replaced[:, None, None, None], raw.detach(), raw_target(clean, noisy, above, scheduler))
            terms["data"] = scheduler.config.sigma_data**2 * weighted_mse(raw, target, self.weight)
        if config.identity_weight:
            terms["identity"] = identity_term(estimate, batch, given, self.identity_encoder, self.scale)
        if model.discriminator is not None:
            terms |= self._adversarial_terms(model.discriminator, estimate, batch, ~replaced)
        terms |= self.sequences(model.denoiser)
        return {"loss": weighted_total(terms, config), **terms}

    def _adversarial_terms(self, discriminator: LatentDiscriminator, estimate: torch.Tensor, batch: DenoiserBatch,
                           real: torch.Tensor) -> Losses:
        """`real` [B] says which targets are true pictures of their references."""
        generated = batch.reference + self.scale * estimate
        student, own = adversarial_terms(discriminator, generated[real], batch.target[real], batch.reference[real], batch.visemes[real])
        return {"adversarial": student, "discriminator": own}

    def _teacher_terms(self, average: TempoSyncDenoiser, raw: torch.Tensor, estimate: torch.Tensor, noisy: torch.Tensor,
                       above: torch.Tensor, below: torch.Tensor, given: Conditions, progress: float) -> Losses:
        """Equation 7 and the consistency term at noise levels σ_{n+1} = `above` and σ_n = `below`."""
        config, scheduler = self.config, self.scheduler
        with torch.no_grad():
            teacher_raw, teacher_clean = evaluate_denoiser(self.teacher, scheduler, noisy, above, given)
        # Weighted per noise level as `denoising_loss` explains.
        terms = {"distillation": scheduler.config.sigma_data**2 * distillation(raw, teacher_raw, self.weight)}
        if config.consistency_weight and progress >= config.distillation_only:
            with torch.no_grad():
                _, target = evaluate_denoiser(average, scheduler, teacher_ode_step(noisy, teacher_clean, above, below), below, given)
            terms["consistency"] = pseudo_huber(estimate, target, self.weight)
        return terms


def adapt_schedule(config: Config, loss: StudentLoss, student: TempoSyncDenoiser) -> TempoSyncScheduler:
    """The scheduler of the finished student: noise levels placed where its clean estimate changes (`distillation.equal_change_sigmas`)."""
    scheduler = loss.scheduler
    grid = scheduler.sigma_schedule(24)[:-1].to(loss.device)
    batch = loss.cache.draw(config.validation_count)
    clean, given = batch.residual / loss.scale, conditions(batch, loss.identity_encoder)
    changes = estimate_changes(lambda noisy, sigmas: evaluate_denoiser(student, scheduler, noisy, sigmas, given)[1],
                               clean, torch.randn_like(clean), grid, loss.weight)
    placed = {str(steps): equal_change_sigmas(grid, changes, steps) for steps in config.adapt_steps}
    return TempoSyncScheduler.from_config(scheduler.config, few_step_sigmas=placed)


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    device = accelerator.device
    cache = LatentCache(Path(config.data), config.sources, device, config.seed)
    scheduler = TempoSyncScheduler(sigma_min=config.sigma_min, prediction="consistency")
    teacher = load_component(TempoSyncDenoiser, config.teacher, "denoiser", device) if config.teacher else None
    identity_encoder = load_component(IdentityEncoder, config.identity_encoder, "identity_encoder", device)
    student = make_student(config, teacher, cache).to(memory_format=torch.channels_last)
    model = StudentModel(student, LatentDiscriminator() if config.adversarial_weight else None)
    average = copy.deepcopy(model)
    loss = StudentLoss(config, cache, scheduler, teacher, identity_encoder, student.config.residual_scale, device)

    def validate(average: StudentModel) -> dict[str, float]:
        return sampling_figures(average.denoiser, identity_encoder, scheduler, config, loss.scale, config.validation_steps, loss.weight)

    def save(average: StudentModel) -> None:
        if config.lora_rank:
            save_lora(average.denoiser, config.output)
            return
        save_weights(average.denoiser, Path(config.output) / "denoiser")
        adapt_schedule(config, loss, average.denoiser).save_pretrained(Path(config.output) / "scheduler")

    return train_loop(config, accelerator, model, average, lambda model, progress: loss(model, average, progress), validate, save,
                      generators=[cache.rng])
