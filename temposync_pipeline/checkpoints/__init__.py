"""The weights that come with the package, in diffusers layout."""

import re
from pathlib import Path

from ..errors import InvalidInputError

BUNDLED = ("temposync-tiny",)


def bundled_path(name: str) -> Path:
    """Folder of a checkpoint that ships with the package; raises `InvalidInputError` for any other name."""
    if name not in BUNDLED:
        raise InvalidInputError(f"{name}: not a bundled checkpoint (bundled: {', '.join(BUNDLED)})")
    path = Path(__file__).parent / name
    if not path.is_dir():
        raise InvalidInputError(f"{name}: its weights are missing from this installation; reinstall the package")
    return path


def checkpoint_source(name: str) -> str:
    """What `from_pretrained` is to load for a bundled name, a directory or org/name; raises `InvalidInputError` for anything else."""
    if name in BUNDLED:
        return str(bundled_path(name))
    if not Path(name).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InvalidInputError(f"{name}: not a bundled checkpoint ({', '.join(BUNDLED)}), a directory or org/name on the Hub")
    return name
