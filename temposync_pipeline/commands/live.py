"""`temposync live`: speech as it is spoken."""

import logging
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ..errors import InvalidInputError
from .checks import check_files, check_model, check_mp4, check_steps, write_json
from .options import Device, FaceIndex, JsonFile, Model, Seed
from .video import load_pipeline

if TYPE_CHECKING:
    import numpy as np

    from ..pipelines.live import LiveFrame, LiveSession

PIPE = Path("-")
PIECE_SECONDS = 0.02
# Sound that waits this long to be seen is no conversation.
LATE_SECONDS = 2.0

logger = logging.getLogger(__name__)


class SampleFormat(StrEnum):
    """Raw samples, little-endian."""

    s16le, s32le, f32le, u8 = "s16le", "s32le", "f32le", "u8"


_NUMPY_TYPES = {SampleFormat.s16le: "<i2", SampleFormat.s32le: "<i4", SampleFormat.f32le: "<f4", SampleFormat.u8: "u1"}


def live(
    image: Annotated[Path, typer.Option("--image", "--source_image", help="The portrait, a picture file.")],
    audio: Annotated[Path, typer.Option("--audio", "--driven_audio", help="Speech: - for raw samples on stdin, or a file.")] = PIPE,
    output: Annotated[Path, typer.Option(help="- for fragmented mp4 on stdout, or the mp4 to write.")] = PIPE,
    rate: Annotated[int, typer.Option(help="Sampling rate of stdin in Hz.")] = 16_000,
    sample_format: Annotated[SampleFormat, typer.Option("--format", help="Samples on stdin.")] = SampleFormat.s16le,
    channels: Annotated[int, typer.Option(min=1, max=64, help="Channels on stdin, which are averaged.")] = 1,
    real_time: Annotated[bool, typer.Option("--real_time", help="Read a file no faster than it is spoken.")] = False,
    look_ahead: Annotated[int, typer.Option(
        "--look_ahead", min=0, max=50, help="Frames of sound that a frame waits for: fewer come sooner, more are truer.")] = 5,
    chunk_size: Annotated[int, typer.Option("--chunk_size", min=1, max=64, help="Frames made together: more cost less, and wait.")] = 3,
    seed: Seed = 0,
    num_inference_steps: Annotated[int, typer.Option(
        "--num_inference_steps", "--steps", min=1, max=1000, help="Denoising steps a frame.")] = 1,
    face_index: FaceIndex = 0,
    mouth_amplitude: Annotated[float | None, typer.Option(
        "--mouth_amplitude", min=0, max=3, help="Scales the motion; default: the checkpoint's own value.")] = None,
    max_size: Annotated[int, typer.Option(
        "--max_size", min=0, help="Longer side of the video in pixels; larger photos are shrunk to it. 0 = as the photo.")] = 720,
    model: Model = "temposync-tiny",
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Make a portrait speak what is being said, until the sound or Ctrl-C ends it.

    Example: temposync live --image portrait.jpg --audio speech.wav --real_time | ffplay -

    With a microphone: arecord -q -t raw -f S16_LE -r 16000 | temposync live --image portrait.jpg | ffplay -

    A frame is written as soon as its sound, that of the other frames of its chunk, and `--look_ahead` frames more have been heard. The JSON
    has how long frames were late after their sound ("latency_ms") and the share of the time that went into making them
    ("real_time_factor").
    """
    check_files((image, None if audio == PIPE else audio), (None if output == PIPE else output, json_file))
    if output != PIPE:
        check_mp4(output)
    elif sys.stdout.isatty():
        raise InvalidInputError("stdout is a terminal: send the video to a player, or name a file with --output")
    if audio == PIPE and sys.stdin.isatty():
        raise InvalidInputError("stdin is a terminal: send raw samples to it, or name a file with --audio")
    check_model(model)
    check_steps(model, [num_inference_steps])
    pieces = read_samples(sys.stdin.buffer, rate, sample_format, channels) if audio == PIPE else read_file(audio, real_time)
    # What is wrong with the inputs is said before the models are loaded.
    from ..media.image import load_image
    from ..media.sound_stream import to_mono

    load_image(image)
    if audio != PIPE:
        first = next(pieces)
        pieces, rate = chain([first], pieces), first[1]
    to_mono([], rate)
    pipe = load_pipeline(model, device)
    import torch

    session = pipe.session(
        image, num_inference_steps, torch.Generator().manual_seed(seed), face_index, mouth_amplitude, chunk_size, look_ahead, max_size)
    figures = run(session, pieces, rate, output, timed=audio == PIPE or real_time)
    write_json(json_file, {"output": str(output), "look_ahead_ms": 1000 * look_ahead / session.fps, **figures})
    if output != PIPE:
        typer.echo(output)


def run(session: "LiveSession", pieces: Iterator[tuple["np.ndarray", int]], rate: int, output: Path, timed: bool) -> dict:
    """From pieces of sound to the mp4; returns figures for the JSON, with those of the latency if sound came as it was spoken (`timed`)."""
    from ..media.live_video import LiveVideoWriter
    from ..media.planes import StillPlanes
    from ..media.sound_stream import to_mono

    planes, clock, samples = StillPlanes(session.photo), Clock(), 0
    height, width = session.photo.shape[:2]
    try:
        with opened(output) as file, LiveVideoWriter(file, width, height, session.fps, rate) as writer:

            def write(frames: list["LiveFrame"]) -> None:
                for frame in frames:
                    writer.write_planes(planes.with_change(*frame.patch))
                    if timed and frame.time:  # the frame before has left
                        clock.shown(frame.time - 1 / session.fps)

            try:
                for piece, _ in pieces:
                    samples += len(piece)
                    with clock.working(samples / rate):
                        sound = to_mono(piece, rate)
                        writer.hear(sound)
                        write(session.push(sound, rate))
            except KeyboardInterrupt:  # how a conversation ends
                pass
            write(session.flush())
            if not writer.num_frames:
                raise InvalidInputError("no sound came: there is nothing to show")
    except BrokenPipeError:  # the player was closed, which ends a conversation too
        sys.stdout = open(os.devnull, "w")
    seconds = max(samples / rate, 1e-9)
    return {"frames": writer.num_frames, "fps": session.fps, "seconds": writer.num_frames / session.fps,
            "real_time_factor": clock.busy / seconds, **({"latency_ms": clock.latency()} if timed else {})}


class Clock:
    """How long what is spoken takes to be seen, in a memory that does not grow.

    Speech began as late as its pieces allow: no piece can come before it has been spoken.
    """

    def __init__(self) -> None:
        self.busy = 0.0
        self._start = float("inf")
        self._counts: Counter[int] = Counter()  # by milliseconds
        self._warned = False

    @contextmanager
    def working(self, heard: float) -> Iterator[None]:
        """While the sound up to a moment, in seconds, is at work, which has just come."""
        came = time.perf_counter()
        self._start = min(self._start, came - heard)
        try:
            yield
        finally:
            self.busy += time.perf_counter() - came

    def shown(self, moment: float) -> None:
        """The frame that begins at a moment, in seconds, is on its way to the viewer."""
        late = time.perf_counter() - self._start - moment
        self._counts[round(1000 * late)] += 1
        if late > LATE_SECONDS and not self._warned:
            self._warned = True
            logger.warning("frames are more than %g s late: this machine is too slow for it; a smaller --max_size helps", LATE_SECONDS)

    def latency(self) -> dict[str, int]:
        """Milliseconds from a frame's first sample to the frame, in the median and in all but 5 % of the frames."""
        ordered = sorted(self._counts.elements())
        return {f"p{percent}": ordered[percent * (len(ordered) - 1) // 100] for percent in (50, 95)} if ordered else {}


def read_samples(file: BinaryIO, rate: int, sample_format: SampleFormat, channels: int) -> Iterator[tuple["np.ndarray", int]]:
    """Raw samples, [n, channels] a piece, and their rate, as they come."""
    import numpy as np

    kind, rest = np.dtype(_NUMPY_TYPES[sample_format]), b""
    while data := file.read1(1 << 16):
        data = rest + data
        whole = len(data) // (kind.itemsize * channels) * kind.itemsize * channels
        rest = data[whole:]
        yield np.frombuffer(data[:whole], kind).reshape(-1, channels), rate


def read_file(path: Path, real_time: bool) -> Iterator[tuple["np.ndarray", int]]:
    """A recording in short pieces, [n, channels], and its rate; in `real_time` no piece comes before it has been spoken."""
    from ..media.audio import decode_audio

    began, done = None, 0  # the first piece is there at once
    for chunk, rate in decode_audio(path, report=True):
        size = max(1, round(PIECE_SECONDS * rate))
        for start in range(0, chunk.shape[1], size):
            piece = chunk[:, start:start + size].T
            yield piece, rate
            began, done = time.perf_counter() if began is None else began, done + len(piece)
            if real_time:
                time.sleep(max(0.0, began + done / rate - time.perf_counter()))


@contextmanager
def opened(output: Path) -> Iterator[BinaryIO]:
    """Stdout, or a file that is written under a hidden name and gets its own when it is complete."""
    if output == PIPE:
        yield sys.stdout.buffer
        return
    temporary = output.absolute().with_name(f".{secrets.token_hex(8)}.mp4")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
