"""Where checkpoints are, in diffusers layout: weights that come with the package, a directory, or a repository of the Hub."""

import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from ..errors import InvalidInputError
from ..files import called

BUNDLED = ("temposync-tiny",)
FOLDER = Path(__file__).parent


def component_folder(folder: Path, subfolder: str) -> Path:
    """Where a component of the checkpoint in `folder` lies: there, or, of a bundled checkpoint without it, in the first bundled one,
    whose networks the others share."""
    own = folder / subfolder
    return FOLDER / BUNDLED[0] / subfolder if folder.parent == FOLDER and not own.is_dir() else own


def bundled_path(name: str) -> Path:
    """Folder of a checkpoint that ships with the package; raises `InvalidInputError` for any other name."""
    if name not in BUNDLED:
        raise InvalidInputError(f"{name}: not a bundled checkpoint (bundled: {', '.join(BUNDLED)})")
    path = FOLDER / name
    if not path.is_dir():
        raise InvalidInputError(f"{name}: its weights are missing from this installation; reinstall the package")
    return path


def checkpoint_folder(name: str | PathLike, components: Iterable[str], **hub_options) -> Path:
    """The folder that holds a checkpoint's components: a bundled name, else a directory, else org/name, downloaded from the Hub.

    Args:
        components: subfolders that will be read. hub_options: keyword arguments of `checkpoints.hub.download_checkpoint`.

    Raises:
        InvalidInputError: nothing of that name, or a component is missing or pickled.
        ConnectionError: the Hub cannot be reached.
    """
    if str(name) in BUNDLED:
        return bundled_path(str(name))
    from .hub import download_checkpoint, select_files

    folder = Path(name)
    if folder.is_dir():
        names = [path.relative_to(folder).as_posix() for path in folder.glob("*/*")]
        select_files(called(folder.absolute()), names, components, hub_options.get("variant"))
        return folder
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(name)):
        raise InvalidInputError(f"{name}: not a bundled checkpoint ({', '.join(BUNDLED)}), a directory or org/name on the Hub")
    return download_checkpoint(str(name), components, **hub_options)


def public_name(name: str | PathLike, folder: Path) -> tuple[str, str]:
    """Name and revision of a checkpoint for everybody to read: a bundled one's and the package's, a repository's and its commit, of any
    other ("local", ""), since the name of a folder is nobody's business.

    `folder` is what `checkpoint_folder` found under the name.
    """
    if str(name) in BUNDLED:
        from .. import __version__

        return str(name), __version__
    return ("local", "") if Path(name).is_dir() else (str(name), folder.name)
