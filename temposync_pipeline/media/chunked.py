"""AIFF, Wave64, CAF and AU whose header does not say how long the sound is, seen through one that does; `wav` does it for WAV.

Who writes them as a stream leaves a size of 0 or a quarter behind. FFmpeg then drops what the header does not cover, or the file.
"""

import logging
import struct
from dataclasses import dataclass
from typing import BinaryIO

from .spliced import Spliced

logger = logging.getLogger(__name__)

# Bytes after the announced end that are not worth a word; sizes that nobody's recording has say that the length was not known.
_NEGLIGIBLE, _UNKNOWN_SIZE = 4096, 10**9
# Chunks before the sound that hold more are no metadata.
_LONGEST_HEADER = 2**26
_WAVE64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")


@dataclass(frozen=True)
class _Format:
    """How a format writes its chunks: `size` after a name, counting `head` bytes besides what follows, padded to multiples of `step`;
    the sound is the chunk `sound`, with `before` bytes before the samples; the whole file's size stands at `whole`."""

    first: int
    name_length: int
    size: str
    step: int
    sound: bytes
    before: int
    head: int = 0
    whole: int | None = None

    @property
    def header(self) -> int:
        return self.name_length + struct.calcsize(self.size)

    @property
    def largest(self) -> int:
        return 2**(8 * struct.calcsize(self.size) - (1 if self.size.islower() else 0)) - 1

    def chunk(self, file: BinaryIO, place: int) -> tuple[bytes, int]:
        """Name and size of the body of the chunk at `place`."""
        file.seek(place)
        header = file.read(self.header)
        return header[:self.name_length], struct.unpack_from(self.size, header, self.name_length)[0] - self.head

    def is_name(self, name: bytes) -> bool:
        return name[4:] == _WAVE64 if self.name_length == 16 else all(32 <= letter < 127 for letter in name)


_FORMATS = {
    b"FORM": _Format(12, 4, ">I", 2, b"SSND", 8, whole=4),
    b"riff": _Format(40, 16, "<Q", 8, b"data" + _WAVE64, 0, head=24, whole=16),
    b"caff": _Format(8, 4, ">q", 1, b"data", 4),
}


def with_true_size(file: BinaryIO, name: str, report: bool = True) -> BinaryIO:
    """`file`, or where its header hides a part of the sound that is there: the same with another header.

    Logs, unless `report` is False, what a header that speaks of less would have hidden.
    """
    file.seek(0)
    start = file.read(12)
    end = file.seek(0, 2)
    if start[:4] == b".snd" and start[8:12] == bytes(4):
        return Spliced(start[:8] + b"\xff\xff\xff\xff", file, 12, end - 12)  # type: ignore[return-value]
    form = _FORMATS.get(start[:4])
    found = form and _find_sound(file, form, end)
    if not form or not found:
        return file
    place, announced = found
    samples = place + form.header + form.before
    available, announced = end - samples, announced - form.before
    unknown = announced <= 0 or announced >= _UNKNOWN_SIZE
    if not unknown and (available - announced <= _NEGLIGIBLE or _are_chunks(file, form, samples + announced, end)):
        return file
    if report and not unknown:
        logger.warning("%s: the header speaks of %d bytes of sound, %d are there and were read", name, announced, available)
    file.seek(0)
    header = bytearray(file.read(samples))
    _put(header, form, place + form.name_length, available + form.before + form.head)
    if form.whole is not None:
        _put(header, form, form.whole, end if form.head else end - 8)
    return Spliced(bytes(header), file, samples, available)  # type: ignore[return-value]


def _put(header: bytearray, form: _Format, place: int, size: int) -> None:
    struct.pack_into(form.size, header, place, min(size, form.largest))


def _find_sound(file: BinaryIO, form: _Format, end: int) -> tuple[int, int] | None:
    """Where the chunk with the sound begins, and the size it announces; None where there is none, or a damaged one before it."""
    place = form.first
    while place + form.header + form.before < min(end, _LONGEST_HEADER):
        name, size = form.chunk(file, place)
        if name == form.sound:
            return place, size
        if size < 0 or not form.is_name(name):
            return None
        place += form.header + -(-size // form.step) * form.step
    return None


def _are_chunks(file: BinaryIO, form: _Format, place: int, end: int) -> bool:
    """Whether a chain of chunks reaches from the first padded place on to the end: then it is no sound."""
    place = -(-place // form.step) * form.step
    while place + form.header <= end:
        name, size = form.chunk(file, place)
        if size < 0 or not form.is_name(name):
            return False
        place += form.header + -(-size // form.step) * form.step
    return place - end in range(-form.step, form.step + 1)
