"""Files that survive a kill: written beside their place, synced, then renamed over the old ones."""

import json
import os
import shutil
from pathlib import Path

import torch
from torch import nn

from ..errors import InvalidInputError
from ..files import plain_write_errors


def save_checkpoint(folder: Path, state: dict) -> None:
    """Write `state` as `folder`/state.pt.

    There is one rename and nothing before or after it matters: at every moment the file is the old state or the new one, complete.
    Raises OSError where it cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / "state.pt.staged"
    try:
        with open(staged, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, folder / "state.pt")
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch hides a full disk behind an error of its own
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(folder / "state.pt")) from error
    finally:
        staged.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict | None:
    """The last complete state written by `save_checkpoint`, or None; raises InvalidInputError for a damaged file, and OSError."""
    path = Path(folder) / "state.pt"
    if not path.is_file():
        return None
    path.open("rb").close()  # what the system says of the file itself
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of torch, zip and pickle, OSError among them: whatever damaged bytes lead to
        raise InvalidInputError(f"{path}: damaged, no checkpoint to go on from") from error
    if not isinstance(state, dict) or "step" not in state:
        raise InvalidInputError(f"{path}: not the checkpoint of a training")
    return state


def save_weights(model: nn.Module, folder: Path) -> None:
    """`model.save_pretrained(folder)`, but each file replaces its predecessor when it is complete: readers never see half a file.

    Nor does the configuration tell where its first weights lay.  Raises OSError where they cannot be written.
    """
    folder = Path(folder)
    staged = folder.with_name(f".{folder.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        with plain_write_errors(folder):
            model.save_pretrained(staged)
        config = json.loads((staged / "config.json").read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            (staged / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(staged.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
