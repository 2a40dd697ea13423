"""Checkpoints that survive a kill: staged in a sibling folder, then renamed."""

import os
import shutil
from pathlib import Path

import torch


def save_checkpoint(folder: Path, state: dict) -> None:
    """Write `state` as `folder`/state.pt; the previous checkpoint stays readable until the new one is complete."""
    folder = Path(folder)
    staged = folder.with_name(folder.name + ".staged")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    with open(staged / "state.pt", "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staged.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> dict | None:
    """The newest complete state written by `save_checkpoint`, or None."""
    folder = Path(folder)
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / "state.pt").is_file():
            return torch.load(candidate / "state.pt", map_location="cpu", weights_only=True)
    return None
