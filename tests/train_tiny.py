"""A training run of a second, for tests and for the processes that they start:

    python -m tests.train_tiny FOLDER kill=4,before kill=5,after     # each in a process that dies by SIGKILL in that checkpoint
    torchrun --nproc_per_node 2 -m tests.train_tiny FOLDER           # leaves rank0.pt and rank1.pt besides the run's own files
"""

import copy
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from temposync_pipeline.training import checkpointing
from temposync_pipeline.training.loop import LoopConfig, make_accelerator, train_loop


class Regression(nn.Module):
    """A part of it, `encode`, is called from outside, as stages do with parts of their models."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, hidden: torch.Tensor, dropout: bool) -> torch.Tensor:
        return self.decode(nn.functional.dropout(hidden, 0.1, dropout))


def train(folder: Path, random: bool = True, **settings) -> dict[str, torch.Tensor]:
    """The weights after some steps.  `random`: every kind of generator decides; else each step takes the next eight rows of a table,
    shared out among the processes and accumulated batches."""
    config = LoopConfig(output=str(folder), **{
        "max_steps": 8, "warmup_steps": 2, "learning_rate": 0.05, "mixed_precision": "no", "threads": 1,
        "validate_every_minutes": 0.0, "checkpoint_every_minutes": 0.0, "tensorboard": False} | settings)
    accelerator = make_accelerator(config)
    model = Regression()
    rng = np.random.default_rng(config.seed)
    rows = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)).split(8 // config.gradient_accumulation_steps)
    table = iter(rows)

    def compute_losses(prepared: nn.Module, progress: float) -> dict[str, torch.Tensor]:
        inputs = next(table)[accelerator.process_index::accelerator.num_processes]
        if random:
            inputs = torch.from_numpy(rng.normal(size=(4, 4))).float() + 0.1 * torch.randn(4, 4)
        predicted = prepared(accelerator.unwrap_model(prepared).encode(inputs), dropout=random)
        return {"loss": (predicted - inputs.sum(1, keepdim=True)).square().mean()}

    # Validating and saving draw, too: the run must not notice.
    train_loop(config, accelerator, model, copy.deepcopy(model), compute_losses, lambda average: {"drawn": float(torch.rand(()))},
               lambda average: torch.rand(()), generators=[rng])
    return {**model.state_dict(), "drawn": torch.tensor([torch.rand(()).item(), rng.random(), np.random.rand()])}


def train_until_killed(folder: Path, number: int, place: str) -> None:
    """Die by SIGKILL in the `number`th checkpoint, right "before" or "after" its rename."""
    replace, count = os.replace, 0

    def dying_replace(source: Path, target: Path) -> None:
        nonlocal count
        count += Path(target).name == "state.pt"
        if count < number or place == "after":
            replace(source, target)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpointing.os.replace = dying_replace
    train(folder)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for kill in sys.argv[2:]:
        number, place = kill.removeprefix("kill=").split(",")
        if os.fork() == 0:
            train_until_killed(folder / place, int(number), place)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
    if len(sys.argv) == 2:
        weights = train(folder, random=False)
        torch.save(weights, folder / f"rank{os.environ['RANK']}.pt")
