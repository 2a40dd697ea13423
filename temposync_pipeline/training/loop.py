"""The training loop every stage shares: schedule, EMA, log, checkpoint, resume.

A stage brings a model, a function that draws a batch and returns its losses, and a function that
measures validation figures; the loop does the rest, on Accelerate.
"""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from .checkpointing import load_checkpoint, save_checkpoint

Losses = dict[str, torch.Tensor]


@dataclass
class LoopConfig:
    """What every stage can set; a run ends after `max_steps` or `max_minutes`, whichever comes first."""

    data: str = "data"
    output: str = "runs/stage"
    max_steps: int = 1_000_000
    max_minutes: float = 30.0
    batch_size: int = 16
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: str = "bf16"
    device: str = "cpu"
    threads: int = 0
    seed: int = 0
    validate_every_minutes: float = 3.0
    checkpoint_every_minutes: float = 5.0
    resume: bool = False
    init: str = ""


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


class Log:
    """Rows of figures in `log.csv`, one per validation, readable while the run goes on."""

    def __init__(self, folder: Path):
        self.path = folder / "log.csv"

    def add(self, row: dict[str, float]) -> None:
        new = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in row.items()})


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Seeds, sets threads and builds the Accelerator that `config` asks for."""
    torch.manual_seed(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    return Accelerator(mixed_precision=config.mixed_precision, cpu=config.device == "cpu")


def train_loop(
    config: LoopConfig,
    accelerator: Accelerator,
    model: nn.Module,
    ema: nn.Module,
    compute_losses: Callable[[nn.Module, float], Losses],
    validate: Callable[[nn.Module], dict[str, float]],
    save: Callable[[nn.Module], None],
) -> dict[str, float]:
    """Optimise `model`; returns the last validation figures of the EMA weights.

    Args:
        compute_losses: called as (model, progress in [0, 1]) under autocast; returns named scalars, "loss" being the one minimised.
        validate: figures of the EMA model.
        save: writes the EMA model to the run's folder.
    """
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99))
    model, optimizer = accelerator.prepare(model, optimizer)
    ema.to(accelerator.device).requires_grad_(False).eval()
    step, elapsed = 0, 0.0
    state = load_checkpoint(folder / "checkpoint") if config.resume else None
    if state:
        accelerator.unwrap_model(model).load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed = state["step"], state["elapsed"]
        torch.random.set_rng_state(state["rng"])

    log, figures, running = Log(folder), {}, {}
    started = time.monotonic() - elapsed
    next_validation, next_checkpoint = elapsed + 60 * config.validate_every_minutes, elapsed + 60 * config.checkpoint_every_minutes
    bar = tqdm(total=config.max_steps if config.max_steps < 1_000_000 else None, initial=step, mininterval=5, dynamic_ncols=True)

    def progress() -> float:
        return max(step / config.max_steps, (time.monotonic() - started) / (60 * config.max_minutes))

    def write_checkpoint() -> None:
        if accelerator.is_main_process:
            save_checkpoint(folder / "checkpoint", {
                "model": accelerator.unwrap_model(model).state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict(),
                "step": step, "elapsed": time.monotonic() - started, "rng": torch.random.get_rng_state()})
            save(ema)

    def report() -> None:
        nonlocal figures
        figures = validate(ema)
        if accelerator.is_main_process:
            log.add({"step": step, "minutes": (time.monotonic() - started) / 60, **running, **figures})

    model.train()
    while (now := progress()) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(now, step, config)
        with accelerator.autocast():
            losses = compute_losses(model, now)
        accelerator.backward(losses["loss"])
        accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        # A short average at first, so that the EMA forgets the initial weights.
        update_ema(ema, accelerator.unwrap_model(model), min(config.ema_decay, (step + 1) / (step + 10)))
        step += 1
        for name, value in losses.items():
            running[name] = 0.98 * running.get(name, float(value.detach())) + 0.02 * float(value.detach())
        bar.update()
        bar.set_postfix({name: f"{value:.4f}" for name, value in (running | figures).items()}, refresh=False)
        seconds = time.monotonic() - started
        if seconds > next_validation:
            report()
            next_validation = seconds + 60 * config.validate_every_minutes
        if seconds > next_checkpoint:
            write_checkpoint()
            next_checkpoint = seconds + 60 * config.checkpoint_every_minutes
    report()
    write_checkpoint()
    bar.close()
    return figures
