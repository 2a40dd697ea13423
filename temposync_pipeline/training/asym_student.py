"""Stage `asym_student`: asymmetric distillation of AsymTalker's teacher into a student of few steps (arXiv 2605.02948).

    temposync train asym_student --data FACES --output runs/asym_student --set teacher=runs/asym_teacher --set temporal_vae=runs/temporal \\
        --set speech_autoencoder=runs/speech

The student speaks chunk after chunk from kernels of its own making, as it will; the teacher that corrects it is told the camera's.  So the
student is drawn back to real faces from wherever it has drifted.  Distribution matching (DMD): a critic learns what the student makes, and
the difference between what critic and teacher make of it with noise says where to go; beside it 0.2·Huber to what the camera saw.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import InvalidInputError
from ..models.transformer_talking_head import TalkingHeadTransformer
from ..schedulers.scheduling_async_flow_match import per_frame
from .asym_teacher import draw_levels, rollout_figures
from .chunk_terms import distribution_matching, flow_matching
from .chunks import Chunk, ChunkConfig, ChunkSource, Rollout, chunk_sources, roll_out
from .denoising import load_component
from .loop import Losses, make_accelerator, train_loop
from .losses import huber
from .whole_faces import save_with_scheduler

KERNELS = ("camera", "generated")


@dataclass
class Config(ChunkConfig):
    output: str = "runs/asym_student"
    learning_rate: float = 1e-4
    warmup_steps: int = 50
    teacher: str = "runs/asym_teacher"
    # What the teacher is told of the frames before: the camera's or, to see what the asymmetry is worth, the student's.
    kernels: str = "camera"
    num_steps: int = 4
    # Chunks that the student makes before the one it learns from, and that one.
    max_chunks: int = 3
    critic_updates: int = 5
    matching_weight: float = 1.0
    huber_weight: float = 0.2
    huber_knee: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if self.kernels not in KERNELS:
            raise InvalidInputError(f"kernels: {self.kernels!r}, expected {' or '.join(KERNELS)}")


class AsymModel(nn.Module):
    """What one optimiser trains, in turns: `critic_updates` steps of the critic, then one of the student."""

    def __init__(self, teacher: TalkingHeadTransformer, critic_updates: int):
        super().__init__()
        self.student, self.critic, self.critic_updates = copy.deepcopy(teacher), copy.deepcopy(teacher), critic_updates
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # in the checkpoint: a resumed run goes on with the same turn

    def students_turn(self) -> bool:
        """Whether this step is the student's; counts it."""
        self.steps += 1
        return int(self.steps) % (self.critic_updates + 1) == 0


def score(
    model: nn.Module, made: torch.Tensor, kernel: torch.Tensor, chunk: Chunk, levels: torch.Tensor, noise: torch.Tensor,
    source: ChunkSource,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `model`, told `kernel`, takes the new frames of `made` for when they are at `levels`, and its velocity: [B, c, F - m, h, w]."""
    start = torch.cat([kernel, made[:, :, source.kernel_frames:]], 2)
    noisy = source.scheduler.add_noise(start, noise, levels)
    velocity = model(noisy, levels, chunk.portrait, chunk.codes).sample.float()
    estimate = noisy - per_frame(levels) * velocity
    return estimate[:, :, source.kernel_frames:], velocity[:, :, source.kernel_frames:]


def student_terms(rolled: Rollout, teacher: nn.Module, critic: nn.Module, source: ChunkSource, config: Config) -> Losses:
    """The two terms of the student's loss; nothing flows into teacher or critic."""
    made, new = rolled.made, slice(source.kernel_frames, None)
    levels = draw_levels(len(made), source.scheduler, made.shape[2], made.device)
    noise = torch.randn_like(made)
    told = rolled.kernel if config.kernels == "generated" else rolled.chunk.latents[:, :, :source.kernel_frames]
    with torch.no_grad():
        real, _ = score(teacher, made, told, rolled.chunk, levels, noise, source)
        fake, _ = score(critic, made, rolled.kernel, rolled.chunk, levels, noise, source)
    return {"matching": distribution_matching(made[:, :, new], real, fake),
            "huber": huber(made[:, :, new] - rolled.chunk.latents[:, :, new], config.huber_knee).mean()}


def critic_term(rolled: Rollout, critic: nn.Module, source: ChunkSource) -> torch.Tensor:
    """The flow-matching loss of the critic on what the student has made."""
    made = rolled.made.detach()
    levels = draw_levels(len(made), source.scheduler, made.shape[2], made.device)
    noise = torch.randn_like(made)
    _, velocity = score(critic, made, rolled.kernel, rolled.chunk, levels, noise, source)
    return flow_matching(velocity, noise[:, :, source.kernel_frames:], made[:, :, source.kernel_frames:])


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    device = accelerator.device
    source, judged = chunk_sources(config, device)
    teacher = load_component(TalkingHeadTransformer, config.teacher, "transformer", device)
    model = AsymModel(teacher, config.critic_updates).requires_grad_(True).train()
    if config.init:
        model.student.load_state_dict(load_component(TalkingHeadTransformer, config.init, "transformer", "cpu").state_dict())
    last = {name: torch.zeros((), device=device) for name in ("matching", "huber", "critic")}

    def compute_losses(prepared: nn.Module, progress: float) -> Losses:
        """Of the turn's network; the log shows the others' last values beside it."""
        own: AsymModel = accelerator.unwrap_model(prepared)
        turn = own.students_turn()
        chunks, exit_step = (int(torch.randint(high, ())) for high in (config.max_chunks, config.num_steps))
        clips = source.draw(config.batch_size, chunks + 1)
        cold = torch.rand(config.batch_size, device=device) < config.cold_share
        with torch.set_grad_enabled(turn):
            rolled = roll_out(own.student, source, clips, chunks + 1, config.num_steps, exit_step, cold)
        if turn:
            terms = student_terms(rolled, teacher, own.critic, source, config)
            loss = config.matching_weight * terms["matching"] + config.huber_weight * terms["huber"]
        else:
            terms = {"critic": critic_term(rolled, own.critic, source)}
            loss = terms["critic"]
        last.update({name: value.detach() for name, value in terms.items()})
        return {"loss": loss, **last}

    return train_loop(config, accelerator, model, copy.deepcopy(model), compute_losses,
                      lambda average: rollout_figures(average.student, judged, config),
                      lambda average: save_with_scheduler(average.student, source.scheduler, config.output))
