import csv
import subprocess
import sys
from pathlib import Path

import torch

from temposync_pipeline.training.checkpointing import load_checkpoint

from .train_tiny import train


def test_two_processes_train_like_one_on_the_union_of_their_batches(tmp_path):
    """Each process sees one half of every batch; the wrapped model's forward is not all that is called."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.train_tiny"]
    subprocess.run([*command, tmp_path / "two"], cwd=Path(__file__).parent.parent, check=True)
    one, first, second = train(tmp_path / "one", random=False), *(torch.load(tmp_path / "two" / f"rank{rank}.pt") for rank in (0, 1))
    for name in ("encode.weight", "encode.bias", "decode.weight", "decode.bias"):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], one[name], rtol=1e-4, atol=1e-6)
    # What the processes draw differs: torch's generator, the stage's own and numpy's.
    assert (first["drawn"] != second["drawn"]).all()
    assert len(load_checkpoint(tmp_path / "two" / "checkpoint")["random"]) == 2
    losses = {}
    for name in ("one", "two"):
        with open(tmp_path / name / "log.csv", newline="") as file:
            losses[name] = [float(row["loss"]) for row in csv.DictReader(file)]
    # One row a step: only the first process wrote; and the losses are means over both.
    assert len(losses["two"]) == 8
    torch.testing.assert_close(losses["two"], losses["one"], rtol=1e-4, atol=1e-5)
