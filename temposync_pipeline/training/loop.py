"""The training loop every stage shares: schedule, gradients, EMA, log, checkpoint, resume.

A stage brings a model, a function that draws a batch and returns its losses, and a function that measures validation figures; the loop
does the rest, on Accelerate, in one process or in several (`torchrun --nproc_per_node N -m temposync_pipeline.cli train …`).
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object, set_seed
from torch import nn
from tqdm import tqdm

from ..errors import InvalidInputError
from ..models.precision import has_fast_bfloat16
from ..terminal import say
from .checkpointing import load_checkpoint, save_checkpoint
from .random_state import RandomState
from .run_log import RunLog, start_tensorboard

Losses = dict[str, torch.Tensor]
# Of one process; more would take memory and time for nothing.
_MOST_THREADS = 1024


@dataclass
class LoopConfig:
    """What every stage can set.

    A run ends after `max_steps`, whatever `max_minutes` is; where that is 0, after `max_minutes`.  Only the former can be repeated or
    resumed to the same weights: the schedule then depends on steps alone, otherwise on the clock.  A step sees `batch_size` ×
    `gradient_accumulation_steps` samples a process.
    """

    data: str = "data"
    output: str = "runs/stage"
    max_steps: int = 0
    max_minutes: float = 30.0
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    # no, fp16 or bf16; auto: bf16, but for CPUs that would only imitate it, at a multiple of the time of no.
    mixed_precision: str = "auto"
    device: str = "cpu"
    threads: int = 0
    seed: int = 0
    validate_every_minutes: float = 3.0
    checkpoint_every_minutes: float = 5.0
    tensorboard: bool = True
    resume: bool = False
    init: str = ""

    def __post_init__(self):
        if self.max_steps < 0 or self.max_minutes < 0:
            raise InvalidInputError(f"max_steps {self.max_steps}, max_minutes {self.max_minutes:g}: neither can be negative")
        if self.max_steps == 0 and self.max_minutes == 0:
            raise InvalidInputError("neither max_steps nor max_minutes says when to end")
        if not 0 <= self.seed < 2**32:
            raise InvalidInputError(f"seed: {self.seed}, outside the limits of 0 to {2**32 - 1}")
        if self.batch_size < 1 or self.gradient_accumulation_steps < 1:
            raise InvalidInputError("batch_size and gradient_accumulation_steps must be at least 1")
        for name, most in (("learning_rate", math.inf), ("final_learning_rate", math.inf), ("weight_decay", math.inf),
                           ("max_grad_norm", math.inf), ("ema_decay", 1), ("threads", _MOST_THREADS)):
            value = getattr(self, name)
            if not 0 <= value <= most or math.isinf(value):
                raise InvalidInputError(f"{name}: {value}, expected " + ("0 or more" if most == math.inf else f"0 to {most}"))
        if self.mixed_precision not in ("auto", "no", "fp16", "bf16"):
            raise InvalidInputError(f"mixed_precision: {self.mixed_precision!r}, expected auto, no, fp16 or bf16")


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay·ema + (1 - decay)·model, parameter by parameter; buffers are copied."""
    for average, value in zip(ema.parameters(), model.parameters()):
        average.lerp_(value.detach(), 1 - decay)
    for average, value in zip(ema.buffers(), model.buffers()):
        average.copy_(value)


def learning_rate_at(progress: float, step: int, config: LoopConfig) -> float:
    """Linear warm-up over steps, then a cosine over the run's progress in [0, 1]."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return warmup * (config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine)


def precision_of(config: LoopConfig) -> str:
    """What `auto` means there: no, fp16 or bf16."""
    if config.mixed_precision != "auto":
        return config.mixed_precision
    return "bf16" if has_fast_bfloat16(config.device) else "no"


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Seeds, sets threads and builds the Accelerator that `config` asks for."""
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = Accelerator(mixed_precision=precision_of(config), cpu=config.device == "cpu")
    # Afterwards, since connecting several processes draws numbers, too: the model must be built alike in all of them.
    set_seed(config.seed)
    return accelerator


@torch.no_grad()
def average_gradients(model: nn.Module, accelerator: Accelerator) -> None:
    """Mean over the processes, in one message.

    DistributedDataParallel would only average after a call of the wrapped model itself, but stages also call parts of theirs
    (an encoder, a decoder), so the loop does it.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if accelerator.num_processes == 1 or not gradients:
        return
    flat = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(mean.view_as(gradient))


class Run:
    """One call of `train_loop`: what its steps change, and what a checkpoint keeps."""

    def __init__(self, config: LoopConfig, accelerator: Accelerator, model: nn.Module, ema: nn.Module,
                 generators: Sequence[np.random.Generator]):
        self.config, self.accelerator = config, accelerator
        self.folder = Path(config.output)
        # Evaluation mode: autocast and placement without DistributedDataParallel, see `average_gradients`.
        self.model = accelerator.prepare_model(model, evaluation_mode=True)
        self.ema = ema.to(accelerator.device).requires_grad_(False).eval()
        self.optimizer = accelerator.prepare_optimizer(torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)))
        self.random = RandomState(generators)
        self.step, self.running = 0, {}
        self._started = time.monotonic()
        if accelerator.num_processes > 1:
            self.random.reseed(config.seed, accelerator.process_index)
        state = load_checkpoint(self.folder / "checkpoint") if config.resume else None
        if state:
            self._restore(state)
        elif config.resume and accelerator.is_main_process:
            say(f"{self.folder}: no checkpoint there yet, the run begins at its first step", err=True)

    def elapsed(self) -> float:
        """Seconds of training so far, those before a resume included; the first process's clock counts for all."""
        seconds = time.monotonic() - self._started
        if self.accelerator.num_processes == 1:
            return seconds
        return broadcast(torch.tensor(seconds, dtype=torch.float64, device=self.accelerator.device)).item()

    def progress(self, seconds: float) -> float:
        return self.step / self.config.max_steps if self.config.max_steps else seconds / (60 * self.config.max_minutes)

    def optimise(self, compute_losses: Callable[[nn.Module, float], Losses], progress: float) -> None:
        """One step of the optimiser: the mean gradient of all its batches, in all processes."""
        config, batches = self.config, self.config.gradient_accumulation_steps
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(progress, self.step, config)
        values: dict[str, torch.Tensor] = {}
        for _ in range(batches):
            with self.accelerator.autocast():
                losses = compute_losses(self.model, progress)
            self.accelerator.backward(losses["loss"] / batches)
            values = {name: values.get(name, 0) + value.detach().float() / batches for name, value in losses.items()}
        average_gradients(self.model, self.accelerator)
        self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # A short average at first, so that the EMA forgets the initial weights.
        update_ema(self.ema, self.model, min(config.ema_decay, (self.step + 1) / (self.step + 10)))
        self.step += 1
        for name, value in zip(values, self.accelerator.reduce(torch.stack(list(values.values())), "mean").tolist()):
            self.running[name] = 0.98 * self.running.get(name, value) + 0.02 * value

    @contextmanager
    def without_side_effects(self):
        """Validating or saving at another moment must not change what the training draws."""
        state = self.random.capture()
        try:
            yield
        finally:
            self.random.restore(state)

    def write_checkpoint(self) -> None:
        randoms = gather_object([self.random.capture()])
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder / "checkpoint", {
                "model": self.model.state_dict(), "ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {}, "step": self.step,
                "elapsed": time.monotonic() - self._started, "running": self.running, "random": randoms})

    def _restore(self, state: dict) -> None:
        """Raises InvalidInputError for the state of another model."""
        try:
            self._take(state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(f"{self.folder}: its checkpoint is of another model; without --resume the run begins anew") from error

    def _take(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler") and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.running = state["step"], state.get("running", {})
        self._started -= state["elapsed"]
        # With another number of processes the draws are others anyway.
        randoms = state.get("random", [])
        if len(randoms) == self.accelerator.num_processes:
            self.random.restore(randoms[self.accelerator.process_index])


def train_loop(
    config: LoopConfig,
    accelerator: Accelerator,
    model: nn.Module,
    ema: nn.Module,
    compute_losses: Callable[[nn.Module, float], Losses],
    validate: Callable[[nn.Module], dict[str, float]],
    save: Callable[[nn.Module], None],
    generators: Sequence[np.random.Generator] = (),
) -> dict[str, float]:
    """Optimise `model`; returns the last validation figures of the EMA weights (in the first process; {} in others).

    Resumed, the run goes on from its last checkpoint as if it had never stopped: on a CPU and with `max_steps` set, to the same
    weights to the bit.  Only the first process validates, writes and shows a bar.

    Args:
        compute_losses: called as (model, progress in [0, 1]) under autocast; returns named scalars, "loss" being the one minimised, the
            same names in all processes.
        validate: figures of the EMA model.
        save: writes the EMA model to the run's folder (`checkpointing.save_weights`).
        generators: the numpy generators that `compute_losses` draws from; checkpoints keep their states, and several processes draw
            differently. Those of torch, numpy and random themselves are kept anyway.
    """
    run = Run(config, accelerator, model, ema, generators)
    main = accelerator.is_main_process
    log, figures = RunLog(run.folder, run.step), {}
    if main:
        run.folder.mkdir(parents=True, exist_ok=True)
        if config.tensorboard:
            start_tensorboard(accelerator, run.folder, run.step)
    bar = tqdm(total=config.max_steps or None, initial=run.step, mininterval=5, dynamic_ncols=True, disable=not main)

    def report() -> None:
        nonlocal figures
        if main:
            with run.without_side_effects():
                figures = validate(run.ema)
            log.add({"step": run.step, "minutes": seconds / 60, **run.running, **figures})
            accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=run.step)

    def write() -> None:
        run.write_checkpoint()
        if main:
            with run.without_side_effects():
                save(run.ema)

    run.model.train()
    seconds = run.elapsed()
    next_validation, next_checkpoint = seconds + 60 * config.validate_every_minutes, seconds + 60 * config.checkpoint_every_minutes
    while (progress := run.progress(seconds)) < 1:
        run.optimise(compute_losses, progress)
        bar.update()
        bar.set_postfix({name: f"{value:.4f}" for name, value in (run.running | figures).items()}, refresh=False)
        accelerator.log({**run.running, "learning_rate": run.optimizer.param_groups[0]["lr"]}, step=run.step)
        seconds = run.elapsed()
        if seconds > next_validation:
            report()
            next_validation = seconds + 60 * config.validate_every_minutes
        if seconds > next_checkpoint:
            write()
            next_checkpoint = seconds + 60 * config.checkpoint_every_minutes
    report()
    write()
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    bar.close()
    return figures
