"""Files that are whole where they exist, and the examples of the source tree."""

import hashlib
import os
import platform
import secrets
import shutil
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


def called(path: str | PathLike) -> str:
    """What messages call a file or folder: its name, or what was given where that has none, as "." and "/"."""
    return Path(path).name or str(path)


def check_is_file(path: Path, error: type[InvalidInputError] = InvalidInputError) -> None:
    """Raises `error` for a folder, and for a pipe or a device, which would be waited for or has no end; nothing where nothing is."""
    if path.exists() and not path.is_file():
        raise error(f"{called(path)}: {'a folder' if path.is_dir() else 'a pipe or a device'}, not a file")


def read_bounded(path: Path, most: int) -> bytes:
    """A file of at most so many bytes; raises InvalidInputError for a larger one and for what is no file, and OSError."""
    check_is_file(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        content = file.read(min(size, most) + 1)  # memory is taken for as much as it asks for
    if len(content) > most:
        raise InvalidInputError(f"{called(path)}: {size} bytes, above the limit of {most}")
    return content


def landing(path: Path, name: str | None = None) -> Path:
    """Where an output is to be written: `path`, or where that is a link the file it leads to, so that the link stays.

    Raises InvalidInputError, in which it is called `name`, for a link that leads to no file, a folder, a pipe or a device.
    """
    name = name or called(path)
    if path.is_dir():
        raise InvalidInputError(f"{name}: the output is a folder")
    # /dev/stdout and the like stand for what the process has open, a file or not; a file would take its place.
    if path.exists() and not path.is_file() or path.is_symlink() and os.readlink(path).startswith("/proc/"):
        raise InvalidInputError(f"{name}: the output is a pipe or a device, not a file")
    if not path.is_symlink():
        return path
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise InvalidInputError(f"{name}: the output is a link that leads to no file") from error


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
    """Remove the unfinished files and folders of processes of this machine that are no more."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            machine, process, *_ = *entry.name.removeprefix(UNFINISHED).split("-"), ""
            if entry.name.startswith(UNFINISHED) and machine == _machine() and process.isdecimal() and not _is_running(int(process)):
                with suppress(OSError):
                    shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


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
    """A hidden name beside `path`, of the same ending or `suffix`, to write to: what stands at `path` (`landing`) stays until the block is
    done.

    What the system says of the hidden one, such as that the disk is full, is said of `path`.
    """
    target = landing(path)
    temporary = unfinished(target, path.suffix if suffix is None else suffix)
    try:
        with in_the_name_of(path, temporary):
            yield temporary
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def in_the_name_of(path: Path, temporary: Path) -> Iterator[None]:
    """What the system says of the hidden file, or of none, is said of `path`, which it is to become."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


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
            raise InvalidInputError(f"{called(output)}: the output would replace an input")


@contextmanager
def plain_write_errors(path: Path) -> Iterator[None]:
    """A full disk while safetensors writes, as OSError like everybody else's."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path.name}: cannot be written: {error}") from error


def make_cache_folder(name: str) -> Path:
    """A folder of the cache; raises InvalidInputError where it cannot be made."""
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "there is no home folder" if cache_folder().parent == Path(os.devnull) else f"{cache_folder()}: {error.strerror}"
        raise InvalidInputError(f"no place to keep compiled networks ({reason}); name a folder in TEMPOSYNC_CACHE") from error
    return folder


def cache_folder() -> Path:
    """Where compiled networks and the test certificate are kept: $TEMPOSYNC_CACHE, else temposync in $XDG_CACHE_HOME or ~/.cache; for a
    user without a home, as in some containers, one in which nothing can be kept."""
    own = os.environ.get("TEMPOSYNC_CACHE")
    try:
        return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "temposync"
    except RuntimeError:
        return Path(os.devnull) / "temposync"
