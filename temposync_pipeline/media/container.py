"""Opening an untrusted audio or video file."""

import io
import logging
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from ..errors import InvalidInputError
from ..files import check_is_file
from ..interrupts import interrupts_held
from ..limits import MAX_MEDIA_BYTES

logger = logging.getLogger(__name__)

# A playlist (HLS, ffconcat, SDP, DASH) would make FFmpeg open other files or the network: only formats that
# keep everything in one file, whatever the file is called.
_FORMATS = "wav,w64,mp3,flac,ogg,mov,aac,matroska,amr,aiff,caf,avi,mpeg,mpegts,asf,ac3,eac3,au,tta,wv,flv,gif"
# How what is written about an mp3 begins; of several that were joined, amid the sound.
_MP3_TAGS = (b"ID3", b"TAG")
# AMR by codec: the first frame type that is no speech (comfort noise, nothing), sampling rate in Hz, samples of a frame.
_AMR = {"amrnb": (8, 8_000, 160), "amrwb": (9, 16_000, 320)}
# A list of tags in a WAV or AVI that says it is 1 MB or longer; in a big-endian one (RIFX), any. FFmpeg takes as much memory as a tag
# claims before it reads it.
_ENDLESS_TAGS = re.compile(rb"(LIST..(?:[\x10-\xff].|.[\x01-\xff]))INFO", re.DOTALL)
_ANY_TAGS = re.compile(rb"(LIST....)INFO", re.DOTALL)
_TAGS_HEAD = 12
# Formats whose header states no length; FFmpeg guesses it from the bit rate, or takes what is there.
_LENGTH_GUESSED = {"mp3", "aac", "amr", "mpeg", "mpegts", "ac3", "eac3"}
# What FFmpeg writes into Matroska: when a stream ends.
_MATROSKA_LENGTH = re.compile(r"(\d+):(\d\d):(\d\d\.\d+)")
# Bytes of a packet of an MPEG transport stream, also where a disc's clock or sums to check it by go with it.
_PACKETS = (188, 192, 204)
# A header that speaks of more than this was written before the length was known.
_MADE_UP_SECONDS = 3 * 3600
# Packets of sound that are decoded before a signal is let in between: to ask after each takes as long as to decode it.
_SOUND_PACKETS = 32


@contextmanager
def open_container(path: Path, error: type[InvalidInputError]) -> Iterator[av.container.InputContainer]:
    """Open `path` for decoding.

    Raises OSError where the file cannot be read and `error` where its contents cannot be understood.
    """
    with open_file(path, error) as file, open_stream(file, path.name, error) as container:
        yield container


@contextmanager
def open_file(path: Path, error: type[InvalidInputError]) -> Iterator[BinaryIO]:
    """The bytes of a file that holds some. Raises OSError and `error`."""
    check_is_file(path, error)
    with open(path, "rb") as file:
        if not file.read(1):
            raise error(f"{path.name}: the file is empty")
        file.seek(0)
        check_bytes(file, path.name, MAX_MEDIA_BYTES, error)
        yield file


def check_bytes(file: BinaryIO, name: str, most: int, error: type[InvalidInputError]) -> None:
    """Raises `error` for a file of more than `most` bytes."""
    size = os.fstat(file.fileno()).st_size
    if size > most:
        raise error(f"{name}: {size} bytes, above the limit of {most}")


@contextmanager
def open_stream(file: BinaryIO, name: str, error: type[InvalidInputError]) -> Iterator[av.container.InputContainer]:
    """Open bytes for decoding; `name` is what messages call them.

    FFmpeg gets an open file instead of a name, so that no name can be taken for a protocol ("concat:...").
    """
    # Tags in other alphabets' bytes must not matter; PyAV 19 reads them so by itself and knows no such argument.
    tags = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        with interrupts_held():
            container = av.open(_Input(file), container_options=options, **tags)
    except (av.error.FFmpegError, MemoryError, UnicodeDecodeError) as cause:
        _check_index(file, name, error)
        raise error(f"{name}: not an audio or video file of a known format (wav, mp3, flac, m4a, ogg, opus, wma, mp4, ...)") from cause
    with container:
        if not (container.streams.audio or container.streams.video):
            _check_index(file, name, error)
        yield container


class _Input:
    """An open file for FFmpeg, which lying headers send before its beginning: it expects a number for that, Python raises an exception.

    Lists of tags that claim 1 MB or more bear another name.
    """

    def __init__(self, file: BinaryIO):
        self._file, self.tell = file, file.tell
        file.seek(0)
        self._hidden = _ANY_TAGS if file.read(4) == b"RIFX" else _ENDLESS_TAGS
        file.seek(0)

    def read(self, size: int) -> bytes:
        before = min(self._file.tell(), _TAGS_HEAD - 1)  # a list's head may lie across two reads
        self._file.seek(-before, io.SEEK_CUR)
        content = self._file.read(before + size)
        return self._hidden.sub(rb"\1JUNK", content)[before:]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


def _check_index(file: BinaryIO, name: str, error: type[InvalidInputError]) -> None:
    """Raises `error` for an mp4, m4a, mov or 3gp without its box `moov`, which phones write last."""
    place, end, whole = 0, file.seek(0, io.SEEK_END), []
    while place + 8 <= end:
        file.seek(place)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 1 and place + 16 <= end:
            size = struct.unpack(">Q", file.read(8))[0]
        if size < 8 or place + size > end:
            break
        whole.append(kind)
        place += size
    if whole[:1] == [b"ftyp"] and b"moov" not in whole:
        raise error(f"{name}: breaks off before the end of its index (moov), which says where sound and pictures are")


def decode_frames(container: av.container.InputContainer, stream: av.stream.Stream, name: str) -> Iterator[av.frame.Frame]:
    """Every frame of a stream that can be decoded; damaged packets are skipped and reported once, at the end, unless `name` is empty."""
    damaged, ended, tags = 0, False, 0
    # Asked before decoding: PyAV 19 crashes on the name of a codec that failed to open.
    codec = stream.codec_context.name
    amr = _AMR.get(codec)
    packets = container.demux(stream)
    while not ended:
        frames: list[av.frame.Frame] = []
        with interrupts_held():
            for _ in range(_SOUND_PACKETS if stream.type == "audio" else 1):
                try:
                    packet = next(packets)
                except StopIteration:
                    ended = True
                    break
                except IndexError:  # a packet of a stream that FFmpeg came upon after opening the file, and that PyAV does not know
                    packets = container.demux(stream)
                    continue
                except (av.error.FFmpegError, MemoryError):
                    damaged, ended = damaged + 1, True
                    break
                if amr and packet.size and bytes(packet)[0] >> 3 & 15 >= amr[0]:
                    frames.append(_pause(packet, *amr[1:]))
                    continue
                if codec.startswith("mp3") and bytes(packet)[:3] in _MP3_TAGS:
                    tags += packet.duration or 0  # where it is taken for sound
                    continue
                try:
                    decoded = packet.decode()
                    for frame in decoded if tags else ():
                        frame.pts = None if frame.pts is None else frame.pts - tags
                    frames += decoded
                except EOFError:
                    ended = True
                    break
                except (av.error.FFmpegError, MemoryError, ValueError):  # ValueError: PyAV 19, after a codec that failed to open
                    damaged += 1
        yield from frames
    if damaged and name:
        logger.warning("%s: damaged; %d part%s could not be decoded", name, damaged, "s" * (damaged > 1))


def promised_seconds(container: av.container.InputContainer, stream: av.stream.Stream) -> float:
    """How long the header says that a stream is; 0 where it does not, or not in earnest."""
    formats = set(container.format.name.split(","))
    if formats & _LENGTH_GUESSED:
        return 0.0
    promised = 0.0
    if "caf" in formats and stream.frames and stream.codec_context.name.startswith("pcm"):  # FFmpeg trusts the file's size instead
        promised = stream.frames / stream.codec_context.sample_rate
    elif stream.duration:
        promised = float(stream.duration * stream.time_base)
    elif stated := _MATROSKA_LENGTH.fullmatch(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, stated.groups())
        promised = 3600 * hours + 60 * minutes + seconds - float((stream.start_time or 0) * stream.time_base)
    elif len(container.streams) == 1 and container.duration:  # In Matroska, of the longest stream.
        promised = (container.duration - (container.start_time or 0)) / av.time_base
    return promised if promised < _MADE_UP_SECONDS else 0.0


def ends_within_packet(container: av.container.InputContainer) -> bool:
    """Whether an MPEG transport stream, which states no length, was cut in the middle of a packet, as nearly every cut is."""
    return container.format.name == "mpegts" and all(container.size % size for size in _PACKETS)


def _pause(packet: av.Packet, rate: int, samples: int) -> av.AudioFrame:
    """What a telephone codec sends while nobody speaks, as silence: FFmpeg's own AMR decoder, the only one in PyAV 19, refuses it."""
    frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, packet.pts, packet.time_base
    return frame
