"""Files that are whole where they exist, and the examples of the source tree."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import InvalidInputError

EXAMPLES = Path(__file__).parents[1] / "examples" / "media"


def write_whole(path: Path, text: str) -> None:
    """Write `text` in UTF-8, under a hidden name first: what stood there stays until the new file is complete."""
    temporary = path.absolute().with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Where compiled networks and the test certificate are kept: $TEMPOSYNC_CACHE, else temposync in $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("TEMPOSYNC_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "temposync"
