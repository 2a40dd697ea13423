"""What a generated video can say of where it comes from."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import InvalidInputError
from ..media.planes import luma_of
from .credentials import PRODUCT, Credentials, LocalCredentials
from .watermark import MovingMark, watermark

NOTICE = "AI-generated"


def model_identifier(model: str, revision: str) -> int:
    """32 bits that stand for a model in watermarks: the first ones of the SHA-256 of "model revision"."""
    return int.from_bytes(hashlib.sha256(f"{model} {revision}".encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Origin:
    """Which model made a video, and where in it the face is that a mark can go around.

    Attributes:
        model, revision: see `checkpoints.public_name`.
        photo: uint8 RGB [H, W, 3], the size of the frames.
        matrix: from the photo to the aligned crop, [2, 3].
    """

    model: str
    revision: str
    photo: np.ndarray
    matrix: np.ndarray

    def watermark(self) -> np.ndarray:
        """What `media.planes` adds to the luma of every frame, int16 [H, W], sides rounded up to even."""
        return watermark(luma_of(self.photo), self.matrix, model_identifier(self.model, self.revision))

    def marker(self) -> Callable[[np.ndarray], np.ndarray | None]:
        """A function that is given the frames, uint8 RGB [H, W, 3], in order, and returns their marks as `watermark`; None = no mark.

        It raises InvalidInputError for frames of another size than the model made, in which the face is elsewhere.
        """
        mark = self.watermark()

        def levels(frame: np.ndarray) -> np.ndarray:
            if frame.shape != self.photo.shape:
                (height, width, _), (own_height, own_width, _) = frame.shape, self.photo.shape
                raise InvalidInputError(f"frames of {width}x{height} px, generated at {own_width}x{own_height}: the watermark would be in "
                                        "the wrong place; provenance=False leaves it out")
            return mark

        return levels

    def signing(self, credentials: Credentials | LocalCredentials | None) -> Callable[[Path], None] | None:
        """What puts content credentials into the finished file (`VideoWriter`'s `complete`)."""
        return None if credentials is None else partial(credentials.sign, origin=self)

    def tags(self) -> dict[str, str]:
        """Metadata of the file."""
        return {"comment": f"{NOTICE}: {PRODUCT} {__version__}, model {self.model} {self.revision}".strip()}


@dataclass(frozen=True)
class FilmOrigin(Origin):
    """The same of a film in which somebody was made to speak; `photo` and `matrix` play no part.

    Attributes:
        source: the film.
        faces: of each frame the alignment, from the frame to the crop, [2, 3], and the number of its shot; None where nobody speaks.
    """

    source: Path
    faces: Sequence[tuple[np.ndarray, int] | None] = ()

    def moving_mark(self) -> MovingMark:
        """What lays the mark around a face that moves."""
        return MovingMark(model_identifier(self.model, self.revision))

    def marker(self) -> Callable[[np.ndarray], np.ndarray | None]:
        mark, faces = self.moving_mark(), iter(self.faces)

        def levels(frame: np.ndarray) -> np.ndarray | None:
            face = next(faces, None)
            if face is None:
                return None
            luma = luma_of(frame)
            marked = luma.copy()
            mark.lay(marked, *face)
            return marked.astype(np.int16) - luma

        return levels

    def signing(self, credentials: Credentials | LocalCredentials | None) -> Callable[[Path], None] | None:
        return None if credentials is None else partial(credentials.sign, origin=self, source=self.source)
