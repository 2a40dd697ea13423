"""Files that are whole where they exist, and the examples of the source tree."""

import hashlib
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import InvalidInputError

EXAMPLES = Path(__file__).parents[1] / "examples" / "media"
UNFINISHED = ".temposync-"


def unfinished(path: Path, suffix: str | None = None) -> Path:
    """A hidden name beside `path` for what is to become it, of the same ending or `suffix`; the first time in a folder, what killed
    processes left there under such names is removed."""
    folder = path.absolute().parent
    _sweep_once(folder)
    return folder / f"{UNFINISHED}{_machine()}-{os.getpid()}-{secrets.token_hex(8)}{path.suffix if suffix is None else suffix}"


@cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove the unfinished files of processes of this machine that are no more."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            machine, process, *_ = *entry.name.removeprefix(UNFINISHED).split("-"), ""
            if entry.name.startswith(UNFINISHED) and machine == _machine() and process.isdecimal() and not _is_running(int(process)):
                with suppress(OSError):
                    os.unlink(entry)


@cache
def _machine() -> str:
    """Eight digits of this machine, or of the container in which the numbers of processes are this one's."""
    space = Path("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {os.readlink(space) if space.exists() else ''}".encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    if os.name != "posix":  # where asking would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def whole_file(path: Path, suffix: str | None = None) -> Iterator[Path]:
    """A hidden name beside `path`, of the same ending or `suffix`, to write to: what stands at `path` stays until the block is done.

    What the system says of the hidden one, such as that the disk is full, is said of `path`.
    """
    temporary = unfinished(path, suffix)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write `text` in UTF-8; what stood there stays until the new file is complete."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def example_media(image: Path | None, audio: Path | None) -> tuple[Path, Path]:
    """A portrait and a recording; None takes the example of the source tree. Raises InvalidInputError where there is no such file."""
    image, audio = (given or EXAMPLES / name for given, name in ((image, "portrait_man.jpg"), (audio, "speech_hello.wav")))
    if not image.exists() or not audio.exists():
        raise InvalidInputError(f"{(image if not image.exists() else audio).name}: no such file; name a portrait and a recording")
    return image, audio


def check_not_input(output: str | PathLike, *inputs: Any) -> None:
    """Raises InvalidInputError where the output is the file of an input, by whichever name; inputs that are no paths cannot be."""
    for each in inputs:
        if isinstance(each, (str, PathLike)) and os.path.exists(each) and os.path.exists(output) and os.path.samefile(each, output):
            raise InvalidInputError(f"{Path(output).name}: the output would replace an input")


@contextmanager
def plain_write_errors(path: Path) -> Iterator[None]:
    """A full disk while safetensors writes, as OSError like everybody else's."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path.name}: cannot be written: {error}") from error


def cache_folder() -> Path:
    """Where compiled networks and the test certificate are kept: $TEMPOSYNC_CACHE, else temposync in $XDG_CACHE_HOME or ~/.cache; for a
    user without a home, as in some containers, one in which nothing can be kept."""
    own = os.environ.get("TEMPOSYNC_CACHE")
    try:
        return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "temposync"
    except RuntimeError:
        return Path(os.devnull) / "temposync"
