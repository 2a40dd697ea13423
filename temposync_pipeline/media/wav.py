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

from ..errors import InvalidAudioError
from .spliced import Spliced

logger = logging.getLogger(__name__)

_RIFF = (b"RIFF", b"RF64", b"BW64")
_BLOCK = 2**20
# Sizes of which a header that was written before the length was known says one: nobody's voice recording is as large as the first, and
# none ends by chance within so many bytes of a multiple of the others. (0 says the same.)
_UNKNOWN_SIZE, _ROUND_SIZES, _HEADER_SIZE = 10**9, (10**8, 2**24), 128
# RF64 says its sizes in a chunk of their own, and this where they belong.
_SIZE_ELSEWHERE = 2**32 - 1
# A difference shorter than this, in seconds, is padding or a tag and not worth a word.
_NEGLIGIBLE = 0.1
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# 18 bytes and what they say may follow: the codec's own.
_LONGEST_FORMAT = 18 + 2**16 - 1
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


def wav_files(file: BinaryIO, name: str, report: bool = True) -> list[BinaryIO]:
    """Each piece of sound in a WAV, mostly one, with a true header and nothing else: no tag, whole or damaged, reaches FFmpeg. [] for
    anything else, and for a WAV without sound.

    Logs, unless `report` is False, what the header hides and what is missing. Raises InvalidAudioError where a damaged chunk hides the
    sound.
    """
    starts = _find_starts(file)
    end = file.seek(0, io.SEEK_END)
    parts = [part for first, last in zip(starts, [*starts[1:], end]) for part in _read_parts(file, first, last)]
    if starts and not parts:
        _check_chunks(file, end, name)
    if report:
        _report(parts, len(starts), name)
    return [Spliced(_header(part), file, part.first, part.length) for part in parts]  # type: ignore[misc]


def _report(parts: list[_Wav], num_files: int, name: str) -> None:
    if num_files > 1:
        logger.warning("%s: %d WAV files in one; all of them were read", name, num_files)
    elif len(parts) > 1:
        logger.warning("%s: its sound lies in %d pieces; all of them were read", name, len(parts))
    # Where no header is true, they were all written before the lengths were known.
    if parts and (len(parts) == 1 or any(part.length == part.announced for part in parts)):
        part = parts[-1]
        seconds, announced = (size / part.bytes_per_second for size in (part.length, part.announced))
        if announced > seconds + _NEGLIGIBLE and not _is_made_up(part.announced):
            logger.warning("%s: truncated; %d of %d bytes are there, %.2f s", name, part.length, part.announced, seconds)
        elif len(parts) == 1 and part.announced and announced < seconds:
            logger.warning("%s: the header speaks of %.2f s, %.2f s are there and were read", name, announced, seconds)


def _is_made_up(size: int) -> bool:
    return size >= _UNKNOWN_SIZE or any((size + _HEADER_SIZE) % unit <= 2 * _HEADER_SIZE < size for unit in _ROUND_SIZES)


def _find_starts(file: BinaryIO) -> list[int]:
    """Where WAV files begin; none if the file does not begin as one."""
    starts, place, tail = [], 0, b""
    file.seek(0)
    while block := file.read(_BLOCK):
        content = tail + block
        found = (match.start() - 8 for match in re.finditer(b"WAVE", content))  # a plain word is found far faster than a pattern
        starts += [place - len(tail) + start for start in found if start >= 0 and content[start:start + 4] in _RIFF]
        if starts[:1] != [0]:
            return []
        place, tail = place + len(block), content[-11:]
    return starts


def _read_parts(file: BinaryIO, place: int, end: int) -> list[_Wav]:
    """The pieces of sound, mostly one, of the WAV that begins at `place` and ends before `end`; none where it has no format."""
    parts: list[_Wav] = []
    form, long_size, place = b"", 0, place + 12
    while place + 8 <= end:
        file.seek(place)
        name, size = struct.unpack("<4sI", file.read(8))
        place += 8
        if name == b"ds64" and size >= 16:
            long_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        if name == b"fmt ":
            form = file.read(min(size, _LONGEST_FORMAT))
        if name == b"data" and len(form) >= 16:
            announced = long_size if size == _SIZE_ELSEWHERE and long_size else size
            size = _data_length(file, place, announced, end, form)
            parts.append(_Wav(form, place, announced, size))
        place += size + (size % 2 and not _begins_chunk(file, place + size))
    return parts


def _begins_chunk(file: BinaryIO, place: int) -> bool:
    """Whether one of the usual chunks lies there, at an odd place: not every program pads those of odd length."""
    file.seek(place)
    return file.read(4) in (b"fmt ", b"data", *_METADATA)


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


def _check_chunks(file: BinaryIO, end: int, name: str) -> None:
    """Raises InvalidAudioError for a chunk that claims to reach beyond the end of the file."""
    place = 12
    while place + 8 <= end:
        file.seek(place)
        kind, size = struct.unpack("<4sI", file.read(8))
        place += 8
        if place + size > end and kind in _METADATA | {b"fmt "}:
            chunk = kind.decode().strip()
            raise InvalidAudioError(f"{name}: damaged before its sound; the chunk {chunk} claims {size} bytes, {end - place} follow")
        place += size + size % 2


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
