"""Files that are whole where they exist."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import InvalidInputError


def write_whole(path: Path, text: str) -> None:
    """Write `text` in UTF-8, under a hidden name first: what stood there stays until the new file is complete."""
    temporary = path.absolute().with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
