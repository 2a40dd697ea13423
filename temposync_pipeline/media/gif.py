"""GIFs as videos: pictures that follow each other, and a comment."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import GifImagePlugin, Image, ImageSequence

from ..errors import InvalidInputError, InvalidVideoError
from ..files import check_is_file
from ..limits import MAX_FRAME_PIXELS, MAX_FRAMES, MAX_PICTURE_BYTES, megapixels
from .container import check_bytes

# What browsers make of pictures that are to be shown for no time at all, milliseconds.
_UNSAID = 100


def is_gif(path: str | PathLike) -> bool:
    """By what stands in the file, whatever its name; raises InvalidVideoError for a folder, a pipe or a device, and OSError."""
    check_is_file(Path(path), InvalidVideoError)
    with open(path, "rb") as file:
        return file.read(6) in (b"GIF87a", b"GIF89a")


class GifFile(GifImagePlugin.GifImageFile):
    """A GIF whose pictures may not make it larger than `most` pixels: one that reaches beyond the screen does, which raises `error` before
    memory is taken for it. `file` is open and begins as a GIF, `name` is what messages call it."""

    def __init__(self, file: BinaryIO, name: str, most: int, error: type[InvalidInputError]):
        self._most, self._error, self._name = most, error, name
        super().__init__(file)

    @property
    def _size(self) -> tuple[int, int]:
        return self._pixels

    @_size.setter
    def _size(self, size: tuple[int, int]) -> None:
        if size[0] * size[1] > self._most:
            raise self._error(f"{self._name}: {size[0]}x{size[1]} px, above the limit of {megapixels(self._most)}")
        self._pixels = size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    check_is_file(path, InvalidVideoError)
    with open(path, "rb") as file:
        check_bytes(file, path.name, MAX_PICTURE_BYTES, InvalidVideoError)
        try:
            with GifFile(file, path.name, MAX_FRAME_PIXELS, InvalidVideoError) as gif:
                yield gif
        except InvalidVideoError:
            raise
        except Exception as cause:  # damaged bytes make Pillow raise nearly anything
            raise InvalidVideoError(f"{path.name}: not a readable GIF") from cause


def stream_gif(path: str | PathLike, fps: float) -> Iterator[np.ndarray]:
    """The pictures on display at the times 0, 1 / `fps`, 2 / `fps`, …, each once: uint8 RGB [H, W, 3], the size of the first.

    Raises InvalidVideoError, for a damaged file possibly in the middle, and OSError.
    """
    path, end, following = Path(path), 0.0, 0.0
    with _opened(path) as gif:
        size = gif.size
        for count, picture in enumerate(ImageSequence.Iterator(gif), 1):
            if count > MAX_FRAMES:
                raise InvalidVideoError(f"{path.name}: more frames than the limit of {MAX_FRAMES}")
            end += (picture.info.get("duration") or _UNSAID) / 1000
            if following < end:
                yield np.asarray(picture.convert("RGB").crop((0, 0, *size)))
                following = np.ceil(end * fps) / fps


def gif_comment(path: str | PathLike) -> str | None:
    """What the file says of itself; raises InvalidVideoError and OSError."""
    with _opened(Path(path)) as gif:
        comment = gif.info.get("comment")
    return comment.decode("utf-8", "replace") if comment else None
