"""Opening an untrusted audio or video file."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from ..errors import InvalidInputError

logger = logging.getLogger(__name__)

# A playlist (HLS, ffconcat, SDP, DASH) would make FFmpeg open other files or the network: only formats that
# keep everything in one file, whatever the file is called.
_FORMATS = "wav,w64,mp3,flac,ogg,mov,aac,matroska,amr,aiff,caf,avi,mpeg,mpegts"


@contextmanager
def open_container(path: Path, error: type[InvalidInputError]) -> Iterator[av.container.InputContainer]:
    """Open `path` for decoding.

    Raises OSError where the file cannot be read and `error` where its contents cannot be understood, whatever the decoder itself
    raises on damaged bytes (that is an open-ended list).
    """
    if path.exists() and not path.is_file():
        raise error(f"{path.name}: not a file")
    # FFmpeg gets an open file instead of a name, so that no name can be taken for a protocol ("concat:...").
    with open(path, "rb") as file:
        if not file.read(1):
            raise error(f"{path.name}: the file is empty")
        file.seek(0)
        try:
            container = av.open(
                file,
                metadata_errors="replace",
                container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
            )
        except Exception as cause:
            raise error(f"{path.name}: not an audio or video file of a known format (wav, mp3, flac, m4a, ogg, opus, mp4, ...)") from cause
        with container:
            yield container


def decode_frames(container: av.container.InputContainer, stream: av.stream.Stream, name: str) -> Iterator[av.frame.Frame]:
    """Every frame of a stream that can be decoded; damaged packets are skipped and reported once, at the end."""
    damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.error.FFmpegError, MemoryError):
            damaged += 1
            break
        try:
            frames = packet.decode()
        except EOFError:
            break
        except (av.error.FFmpegError, MemoryError):
            damaged += 1
            continue
        yield from frames
    if damaged:
        logger.warning("%s: damaged; %d part%s could not be decoded", name, damaged, "s" * (damaged > 1))
