"""Frames and sound to an mp4, one frame at a time; and frames out of any video file."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange

from ..errors import InvalidAudioError, InvalidInputError, InvalidVideoError
from ..files import in_the_name_of, landing, unfinished
from ..interrupts import interrupts_held
from ..limits import MAX_FPS, MAX_FRAME_PIXELS, MAX_FRAMES, MIN_FPS, megapixels
from .audio import Audio, AudioSource, decode_audio, full_scale, load_audio, silence_impossible
from .container import decode_frames, open_container
from .planes import to_planes
from .video_frames import appearance, frames_at, timed_frames, upright_picture

logger = logging.getLogger(__name__)

FPS = 25
CRF = 18
# Frames that x264 looks ahead, and so keeps. With 10, its own choice, a video of 594×726 px takes 10 MB more; its file is a tenth larger,
# and 0.2 dB nearer to the frames.
FRAMES_AHEAD = 5
# The sampling rates AAC knows; sound of any other rate is resampled to 48 kHz.
AAC_RATES = {96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000}
_BT709 = 1
# What covers are stored as: each frame is a picture.
_PICTURES = ("mjpeg", "png", "bmp", "tiff", "webp")
# Seconds of sound that are encoded together: what a piece costs besides its samples, once a frame, was a tenth of a video's time on
# Python's lock.
SOUND_PIECE = Fraction(2, 5)
# Pixels of a frame from which on x264 works at several frames at once instead of slices of one, for which the caller would wait: a sixth
# of the time of a video of 1620×1920, but frames more in memory.
LARGE_FRAME = 1_500_000
# The longer side of a picture that x264 takes, pixels.
MOST_ENCODED = 16_384


def mark_bt709(context: av.VideoCodecContext) -> None:
    """Say what colours the planes of `media.planes` hold: BT.709, in limited range."""
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = ColorRange.MPEG


@dataclass(frozen=True)
class Look:
    """How pictures are labelled, by the numbers of ISO/IEC 23091-2: matrix, primaries, transfer, and range (1 = limited, 2 = full, 0 = not
    said); `aspect` is a pixel's width by its height."""

    matrix: int = _BT709
    primaries: int = _BT709
    transfer: int = _BT709
    range: int = int(ColorRange.MPEG)
    aspect: Fraction = Fraction(1)


class VideoWriter:
    """Write frames to an H.264 (yuv420p) mp4 with the original sound as AAC.

    ```python
    with VideoWriter("talking.mp4", fps=25, audio_path="speech.wav") as writer:
        for frame in frames:  # uint8 RGB [H, W, 3], all of one size
            writer.write(frame)
    ```

    Frames and sound go straight to the encoders, so memory does not grow with the length. Sound keeps its sampling rate and up to two
    channels; it is never cut by less than a frame, and beyond that it ends with the video. Odd sizes are padded to even by repeating the
    last row and column. The file is written beside its target under a hidden name and renamed when complete: on any exception
    it is removed and an existing target stays as it was.

    `audio_path` is a path or a pair `(samples, rate)`; `tags` are metadata of the file, such as "title" and "comment"; `complete` is called
    with the path of the finished file, which it may change, before that takes its name. `look` says how pictures are labelled that are
    given as planes; `tick` is the clock, in seconds, of frames that say when they appear, 1 / `fps` unless given.

    Raises OSError on entering where the folder cannot be written to.
    """

    def __init__(
        self, path: str | PathLike, fps: float | Fraction = FPS, audio_path: AudioSource | None = None,
        tags: Mapping[str, str] | None = None, complete: Callable[[Path], None] | None = None, look: Look = Look(),
        tick: Fraction | None = None,
    ):
        self.path = Path(path)
        self.fps = Fraction(fps).limit_denominator(1001)
        self.audio_path = audio_path
        self.tags, self.complete = tags or {}, complete
        self.look = look
        self.tick = tick or 1 / self.fps
        self.num_frames = 0

    def __enter__(self) -> Self:
        self._target = landing(self.path)
        if self.audio_path is not None and not isinstance(self.audio_path, tuple) and _same_file(self.path, Path(self.audio_path)):
            raise InvalidInputError(f"{self.path.name}: the output would replace its own sound")
        self._temporary = unfinished(self._target, ".mp4")
        with in_the_name_of(self.path, self._temporary):
            open(self._temporary, "xb").close()
        try:
            self._container = av.open(str(self._temporary), "w", format="mp4", options={"movflags": "+faststart"})
            self._container.metadata.update(self.tags)
            self._video: av.VideoStream | None = None
            self._size: tuple[int, int] | None = None
            self._sound: _SoundTrack | None = None
            self._shown_until = Fraction(0)
        except BaseException:
            self._temporary.unlink(missing_ok=True)
            raise
        return self

    def write(self, frame: np.ndarray) -> None:
        """Encode one frame, uint8 RGB [H, W, 3], and now and then the sound up to its end."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is uint8 [H, W, 3], found {frame.dtype} {list(frame.shape)}")
        if self._size not in (None, frame.shape[:2]):
            raise ValueError(f"frame {self.num_frames} is {list(frame.shape[:2])}, the first one was {list(self._size)}")
        self._size = frame.shape[:2]
        self.write_planes(to_planes(frame))

    def write_planes(self, picture: av.VideoFrame, appears: Fraction | None = None, stays: Fraction | None = None) -> None:
        """`write` for a frame as `media.planes` makes it, which may say when it appears and how long it stays, in seconds."""
        if self._video is None:
            self._start(picture.height, picture.width)
        appears = self.num_frames / self.fps if appears is None else appears
        stays = 1 / self.fps if stays is None else stays
        picture.pts, picture.time_base = round(appears / self.tick), self.tick
        picture.duration = round((appears + stays) / self.tick) - picture.pts
        with in_the_name_of(self.path, self._temporary):
            self._container.mux(self._video.encode(picture))
            self._shown_until = appears + stays
            if self._sound and self._shown_until >= self._sound.written + SOUND_PIECE:
                self._sound.write_until(self._shown_until)
        self.num_frames += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                with in_the_name_of(self.path, self._temporary):
                    self._finish()
        except BaseException:
            self._discard()
            raise
        if kind is not None:
            self._discard()

    def _start(self, height: int, width: int) -> None:
        check_sides(self.path.name, width, height)
        options = {"crf": str(CRF), "preset": "veryfast", "rc-lookahead": str(FRAMES_AHEAD)}
        video = self._container.add_stream("libx264", rate=self.fps, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        context, look = video.codec_context, self.look
        context.time_base = self.tick
        if width * height >= LARGE_FRAME:
            context.thread_type = "FRAME"
        context.colorspace, context.color_primaries, context.color_trc = look.matrix, look.primaries, look.transfer
        context.color_range = look.range
        if look.aspect != 1:
            context.sample_aspect_ratio = look.aspect
        self._video = video
        if self.audio_path is not None:
            self._sound = _SoundTrack(self._container, self.audio_path)

    def _finish(self) -> None:
        if self._video is None:
            raise ValueError("no frame was written")
        self._container.mux(self._video.encode(None))
        if self._sound:
            self._sound.write_until(self._shown_until)
            self._sound.finish(1 / self.fps)
        self._close()
        if self.complete:
            self.complete(self._temporary)
        os.replace(self._temporary, self._target)

    def _close(self) -> None:
        """Close the file, where that has not been done, and let go of the encoders, which hold much memory."""
        container = vars(self).pop("_container", None)
        self._video = self._sound = None
        if container is not None:
            container.close()

    def _discard(self) -> None:
        try:
            self._close()
        except Exception as error:  # The cause is already on its way up.
            logger.debug("closing an unfinished video: %s", error)
        self._temporary.unlink(missing_ok=True)


class _SoundTrack:
    """Decodes a sound track chunk by chunk and encodes it as AAC in step with the video."""

    def __init__(self, container: av.container.OutputContainer, source: AudioSource):
        self._container = container
        self._scale = np.float32(full_scale(source))
        self._chunks = decode_audio(source)
        self._pending, self.rate = next(self._chunks, (None, 0))
        if self._pending is None:
            raise InvalidAudioError("no sound could be decoded")
        # More than two channels are mixed to one.
        self._channels = 2 if len(self._pending) == 2 else 1
        aac_rate = self.rate if self.rate in AAC_RATES else 48_000
        self._layout = "stereo" if self._channels == 2 else "mono"
        self._stream = container.add_stream("aac", rate=aac_rate, layout=self._layout)
        self._stream.bit_rate = 96_000 * self._channels
        self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=aac_rate)
        self._written = 0

    @property
    def written(self) -> Fraction:
        """Until when there is sound in the video, in seconds."""
        return Fraction(self._written, self.rate)

    def write_until(self, seconds: Fraction) -> None:
        """Encode what is left of the sound before this moment."""
        end, most = int(seconds * self.rate), max(1, int(SOUND_PIECE * self.rate))
        while self._pending is not None and self._written < end:
            pieces, left = [], min(most, end - self._written)
            while self._pending is not None and left:
                pieces.append(self._pending[:, :left])
                left -= pieces[-1].shape[1]
                rest = self._pending[:, pieces[-1].shape[1]:]
                self._pending = rest if rest.shape[1] else next(self._chunks, (None, 0))[0]
            self._encode(pieces)

    def finish(self, frame_duration: Fraction) -> None:
        """Encode what is left of the sound if that is no longer than a frame, and flush."""
        rest, limit = [], int(frame_duration * self.rate)
        while self._pending is not None and sum(chunk.shape[1] for chunk in rest) <= limit:
            rest.append(self._pending)
            self._pending = next(self._chunks, (None, 0))[0]
        if sum(chunk.shape[1] for chunk in rest) <= limit:
            self._encode(rest)
        self._chunks.close()
        with interrupts_held():
            for frame in self._resampler.resample(None):
                self._container.mux(self._stream.encode(frame))
        self._container.mux(self._stream.encode(None))

    def _encode(self, chunks: Sequence[np.ndarray]) -> None:
        """Encode what comes next, in pieces."""
        if not chunks:
            return
        samples = np.concatenate([self._mixed(silence_impossible(chunk) / self._scale) for chunk in chunks], 1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self._written, Fraction(1, self.rate)
        self._written += samples.shape[1]
        with interrupts_held():
            for resampled in self._resampler.resample(frame):
                self._container.mux(self._stream.encode(resampled))

    def _mixed(self, chunk: np.ndarray) -> np.ndarray:
        return chunk if len(chunk) == self._channels else np.broadcast_to(chunk.mean(0), (self._channels, chunk.shape[1]))


def stream_video(path: str | PathLike, max_frames: int | None = None, fps: float | None = None) -> tuple[Iterator[np.ndarray], float]:
    """Frames (uint8 RGB [H, W, 3], one at a time, turned upright as the file asks) and frames per second of a video file.

    With `fps` given, frame i is what is on display in the middle of [i/fps, (i+1)/fps), by the frames' own time stamps, counted from the
    first one; `load_soundtrack` has the sound of the same moments. Without it the frames are as stored, and the rate is their mean.

    Raises `InvalidVideoError` (for a damaged file possibly in the middle of the iteration) and OSError.
    """
    path = Path(path)
    frames = islice(_decode_video(path, fps), None if max_frames is None else max_frames + 1)
    return frames, next(frames)


def read_video(path: str | PathLike, max_frames: int | None = None, fps: float | None = None) -> tuple[np.ndarray, float]:
    """All frames of `stream_video` at once, uint8 RGB [T, H, W, 3], and frames per second; for short clips."""
    stream, fps = stream_video(path, max_frames, fps)
    frames = list(stream)
    if not frames:
        raise InvalidVideoError(f"{Path(path).name}: no frame could be decoded")
    return np.stack(frames), fps


def read_tags(path: str | PathLike) -> dict[str, str]:
    """Metadata of a video file, names in small letters; raises InvalidVideoError and OSError."""
    with open_container(Path(path), InvalidVideoError) as container:
        return {name.lower(): text for name, text in container.metadata.items()}


def load_soundtrack(path: str | PathLike) -> Audio:
    """The sound of a video on the pictures' clock: sample n is heard n / 16,000 s after the first frame appears.

    Raises `InvalidVideoError`, `InvalidAudioError` and OSError.
    """
    path = Path(path)
    with open_container(path, InvalidVideoError) as container:
        stream = video_stream(container, path.name)
        first = next(decode_frames(container, stream, path.name), None)
        if first is None:
            raise InvalidVideoError(f"{path.name}: no frame could be decoded")
        start = appearance(first, container)
    return load_audio(path, start=start)


def video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    """The first of a container's videos that is no picture, such as a cover; the first of pictures where there is nothing else, as in
    some cameras' films. Raises InvalidVideoError where there is none, or one of frames above the limit."""
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    unattached = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    stream = next((stream for stream in unattached if stream.codec_context.name not in _PICTURES), next(iter(unattached), None))
    if stream is None:
        raise InvalidVideoError(f"{name}: {'a cover picture, but ' if streams else ''}no video in this file")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_FRAME_PIXELS:
        raise InvalidVideoError(f"{name}: {width}x{height} px, above the limit of {megapixels(MAX_FRAME_PIXELS)}")
    return stream


def mean_rate(stream: av.VideoStream, name: str) -> Fraction:
    """Frames a second; raises InvalidVideoError for a rate outside the limits."""
    # Of a Matroska file without a rate of its own, PyAV 19 takes the clock's 1,000 ticks a second for the mean rate.
    rates = [rate for rate in (stream.average_rate, stream.base_rate) if rate] or [Fraction(0)]
    rate = next((rate for rate in rates if MIN_FPS <= rate <= MAX_FPS), rates[0])
    if not MIN_FPS <= rate <= MAX_FPS:
        if stream.frames == 1:
            raise InvalidVideoError(f"{name}: a single picture, no video in this file")
        raise InvalidVideoError(f"{name}: {float(rate):g} frames a second, outside the limits of {MIN_FPS} to {MAX_FPS}")
    return rate


def _decode_video(path: Path, fps: float | None) -> Iterator:
    """Yields the frame rate first, then the frames."""
    with open_container(path, InvalidVideoError) as container:
        stream = video_stream(container, path.name)
        width, height = stream.codec_context.width, stream.codec_context.height
        rate = mean_rate(stream, path.name)
        yield float(rate) if fps is None else fps
        stream.thread_type = "AUTO"
        frames = decode_frames(container, stream, path.name)
        shown, picture = None, None
        if fps is not None:
            frames = frames_at(timed_frames(frames, container, 1 / rate, path.name), Fraction(fps).limit_denominator(1001))
        for count, frame in enumerate(frames, 1):
            if count > MAX_FRAMES:
                raise InvalidVideoError(f"{path.name}: more frames than the limit of {MAX_FRAMES}")
            if frame is not shown:
                if (frame.width, frame.height) != (width, height):
                    raise InvalidVideoError(f"{path.name}: the size changes from {width}x{height} to {frame.width}x{frame.height} px")
                shown, picture = frame, upright_picture(frame)
            yield picture


def check_sides(name: str, width: int, height: int) -> None:
    """Raises InvalidVideoError for pictures that the encoder takes none of."""
    if max(width, height) > MOST_ENCODED:
        raise InvalidVideoError(f"{name}: a video of {width}x{height} px; an mp4 can have {MOST_ENCODED} px a side")


def _same_file(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)
