"""WAV files whose header does not say what is there, seen through one that does.

Speech synthesis that streams writes sizes it cannot know yet, or one WAV after the other into the same file; some recorders pad samples
to a wider container. FFmpeg reads such a header to the letter: it drops what the header does not cover and takes padding for sound.
"""

import io
import logging
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

logger = logging.getLogger(__name__)

_START = re.compile(rb"RIFF.{4}WAVE", re.DOTALL)
_BLOCK = 2**20
# Nobody's voice recording is this large: a header that says so was written before the length was known. (0 says the same.)
_UNKNOWN_SIZE = 10**9
# A difference shorter than this, in seconds, is padding or a tag and not worth a word.
_NEGLIGIBLE = 0.1
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# Chunks that may follow the samples even where the file ends before they do.
_METADATA = {b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"axml", b"cue ", b"fact", b"smpl", b"inst", b"PEAK", b"JUNK", b"PAD ", b"FLLR"}


@dataclass(frozen=True)
class _Wav:
    """One WAV in a file: the body of its `fmt ` chunk, where its samples begin, how many bytes of them are announced, and are there."""

    format: bytes
    first: int
    announced: int
    length: int

    @property
    def bytes_per_second(self) -> int:
        rate, _, block = struct.unpack_from("<IIH", self.format, 4)
        return max(1, rate * block)


class _Spliced(io.RawIOBase):
    """A header of our own before a range of another file's bytes."""

    def __init__(self, header: bytes, file: BinaryIO, first: int, length: int):
        self._header, self._file, self._first, self._size = header, file, first, len(header) + length
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer) -> int:
        size = max(0, min(len(buffer), self._size - self._place))
        head = self._header[self._place:self._place + size]
        self._file.seek(self._first + max(0, self._place - len(self._header)))
        content = head + self._file.read(size - len(head))
        buffer[:len(content)] = content
        self._place += len(content)
        return len(content)


def sound_files(file: BinaryIO, name: str, report: bool = True) -> list[BinaryIO]:
    """`file` as it is or, if it is a WAV that its own header describes wrongly, each WAV in it with a true header.

    Logs, unless `report` is False, what the header hides and what is missing.
    """
    starts = _find_starts(file)
    end = file.seek(0, io.SEEK_END)
    parts = [part for first, last in zip(starts, [*starts[1:], end]) if (part := _read_header(file, first, last))]
    if report:
        _report(parts, name)
    file.seek(0)
    if not parts or len(parts) == 1 and parts[0].length == parts[0].announced and _container_format(parts[0].format) == parts[0].format:
        return [file]
    return [_Spliced(_header(part), file, part.first, part.length) for part in parts]  # type: ignore[misc]


def _report(parts: list[_Wav], name: str) -> None:
    if len(parts) > 1:
        logger.warning("%s: %d WAV files in one; all of them were read", name, len(parts))
    for part in parts[-1:]:
        seconds, announced = (size / part.bytes_per_second for size in (part.length, part.announced))
        if 0 < part.announced < _UNKNOWN_SIZE and announced > seconds + _NEGLIGIBLE:
            logger.warning("%s: truncated; %d of %d bytes are there, %.2f s", name, part.length, part.announced, seconds)
        elif len(parts) == 1 and part.announced and announced < seconds:
            logger.warning("%s: the header speaks of %.2f s, %.2f s are there and were read", name, announced, seconds)


def _find_starts(file: BinaryIO) -> list[int]:
    """Where WAV files begin; none if the file does not begin as one."""
    starts, place, tail = [], 0, b""
    file.seek(0)
    while block := file.read(_BLOCK):
        content = tail + block
        starts += [place - len(tail) + found.start() for found in _START.finditer(content)]
        if starts[:1] != [0]:
            return []
        place, tail = place + len(block), content[-11:]
    return starts


def _read_header(file: BinaryIO, place: int, end: int) -> _Wav | None:
    """The WAV that begins at `place` and ends before `end`; None where it has no format or no samples."""
    form, place = b"", place + 12
    while place + 8 <= end:
        file.seek(place)
        name, size = struct.unpack("<4sI", file.read(8))
        place += 8
        if name == b"fmt ":
            form = file.read(min(size, 64))
        if name == b"data":
            return _Wav(form, place, size, _data_length(file, place, size, end, form)) if len(form) >= 16 else None
        place += size + size % 2
    return None


def _data_length(file: BinaryIO, first: int, announced: int, end: int, form: bytes) -> int:
    """How many bytes of samples there are, whatever the header announces."""
    available = end - first
    if announced == 0 or announced >= available:
        return available
    rate, _, block = struct.unpack_from("<IIH", form, 4)
    negligible = available - announced <= _NEGLIGIBLE * rate * block
    followed = any(_are_chunks(file, first + announced + padding, end) for padding in {0, announced % 2})
    return announced if negligible or followed else available


def _are_chunks(file: BinaryIO, place: int, end: int) -> bool:
    """Whether what lies there is a chain of RIFF chunks rather than samples."""
    while place + 8 <= end:
        file.seek(place)
        name, size = struct.unpack("<4sI", file.read(8))
        if not all(32 <= letter < 127 for letter in name):
            return False
        place += 8 + size + size % 2
        if place > end + 1:
            return name in _METADATA
    return True


def _container_format(form: bytes) -> bytes:
    """The body of a `fmt ` chunk, the width of a sample set to that of the container that holds it."""
    kind, channels, rate, byte_rate, block, bits = struct.unpack_from("<HHIIHH", form)
    extensible = kind == _EXTENSIBLE and len(form) >= 26
    valid = struct.unpack_from("<H", form, 18)[0] if extensible else 0
    if extensible:
        kind = struct.unpack_from("<H", form, 24)[0]
    if kind not in (_PCM, _FLOAT) or not channels or block % channels or block // channels not in (1, 2, 3, 4, 8):
        return form
    width, stated = 8 * block // channels, valid or bits
    # A sloppy header may err in the block's size as well as in the sample's: its figures must agree with each other.
    if -(-stated // 8) * 8 >= width or width != bits and byte_rate != rate * block:
        return form
    fixed = bytearray(form)
    struct.pack_into("<H", fixed, 14, width)
    if extensible:
        struct.pack_into("<H", fixed, 18, width)
    return bytes(fixed)


def _header(part: _Wav) -> bytes:
    form = _container_format(part.format)
    form += bytes(len(form) % 2)
    size = min(part.length, 2**32 - 1)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", min(len(chunks) + size, 2**32 - 1)) + chunks
