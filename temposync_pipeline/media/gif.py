"""GIFs as videos: pictures that follow each other, and a comment."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from ..errors import InvalidVideoError
from ..limits import MAX_FRAME_PIXELS, MAX_FRAMES, MAX_PICTURE_BYTES
from .container import check_bytes

# What browsers make of pictures that are to be shown for no time at all, milliseconds.
_UNSAID = 100


def is_gif(path: str | PathLike) -> bool:
    """By what stands in the file, whatever its name; raises OSError."""
    with open(path, "rb") as file:
        return file.read(6) in (b"GIF87a", b"GIF89a")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with open(path, "rb") as file:
        check_bytes(file, path.name, MAX_PICTURE_BYTES, InvalidVideoError)
        try:
            with Image.open(file, formats=("GIF",)) as gif:
                if gif.width * gif.height > MAX_FRAME_PIXELS:
                    raise InvalidVideoError(
                        f"{path.name}: {gif.width}x{gif.height} px, above the limit of {MAX_FRAME_PIXELS // 10**6} megapixels")
                yield gif
        except InvalidVideoError:
            raise
        except Exception as cause:  # damaged bytes make Pillow raise nearly anything
            raise InvalidVideoError(f"{path.name}: not a readable GIF") from cause


def stream_gif(path: str | PathLike, fps: float) -> Iterator[np.ndarray]:
    """The pictures on display at the times 0, 1 / `fps`, 2 / `fps`, …, each once: uint8 RGB [H, W, 3].

    Raises InvalidVideoError, for a damaged file possibly in the middle, and OSError.
    """
    path, end, following = Path(path), 0.0, 0.0
    with _opened(path) as gif:
        for count, picture in enumerate(ImageSequence.Iterator(gif), 1):
            if count > MAX_FRAMES:
                raise InvalidVideoError(f"{path.name}: more frames than the limit of {MAX_FRAMES}")
            end += (picture.info.get("duration") or _UNSAID) / 1000
            if following < end:
                yield np.asarray(picture.convert("RGB"))
                following = np.ceil(end * fps) / fps


def gif_comment(path: str | PathLike) -> str | None:
    """What the file says of itself; raises InvalidVideoError and OSError."""
    with _opened(Path(path)) as gif:
        comment = gif.info.get("comment")
    return comment.decode("utf-8", "replace") if comment else None
