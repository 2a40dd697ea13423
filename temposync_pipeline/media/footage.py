"""A video whose pictures are to be changed in part: its own frames, times, size and colours, forwards and backwards.

Frames are what an H.264 encoder takes, yuv420p of 8 bits, and where the file's own are that already, they are its own to the bit.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange

from ..errors import InvalidVideoError
from ..interrupts import interrupts_held
from .container import decode_frames, ends_within_packet, open_container, promised_seconds
from .hdr import NAMES, is_hdr, to_standard
from .planes import arrays_of, to_planes
from .video import Look, mean_rate, video_stream
from .video_frames import display_axes, timed_frames, turned

logger = logging.getLogger(__name__)

ENDS = ("loop", "freeze", "cut")
# Frames that are kept while a video is read backwards.
BACKWARDS = 16
_PLAIN = ("yuv420p", "yuvj420p")
# Matrices by number; of BT.601 there are two, with the same coefficients.
_BT709, _BT601, _BT601_TOO = 1, 5, 6
_MATRICES = (_BT709, 4, _BT601, 7, 9)
# What may be missing at a video's end without a word, in seconds, if two frames take no longer.
_MISSING_SECONDS = 0.1
# Pixels around what is painted that its chroma depends on.
_MARGIN = 8
# From so many lines on, a file that does not name its colours means BT.709, below BT.601: as players take it.
HD_LINES = 720


@dataclass
class FootageFrame:
    """One frame: when it appears and how long it stays, in seconds, and its picture, upright, yuv420p, free to be changed."""

    appears: Fraction
    stays: Fraction
    planes: av.VideoFrame

    @property
    def middle(self) -> float:
        return float(self.appears + self.stays / 2)


class Footage:
    """A video file.

    Attributes:
        name: what messages call it. height, width: of the upright picture, which an encoder's is padded to even ones of. look: its colours.
        rate: its mean frames per second. tick: its clock, in seconds. seconds: about how long it is, None where it does not say.

    Raises InvalidVideoError and OSError, for a damaged file possibly in the middle of the iteration.
    """

    def __init__(self, path: str | PathLike):
        self.path, self.name = Path(path), Path(path).name
        self._stamps: list[tuple[int | None, Fraction]] = []  # time stamp and how long it stays, of every frame
        with open_container(self.path, InvalidVideoError) as container:
            stream = video_stream(container, self.name)
            self.rate = mean_rate(stream, self.name)
            self.tick = 1 / self.rate if container.format.name == "avi" else Fraction(stream.time_base)
            length = Fraction(stream.duration or 0) * Fraction(stream.time_base) or Fraction(container.duration or 0) / av.time_base
            self.seconds = float(length) if length > 0 else None
            first = next(decode_frames(container, stream, ""), None)
            if first is None:
                raise InvalidVideoError(f"{self.name}: no frame could be decoded")
            if ends_within_packet(container):
                logger.warning("%s: breaks off in the middle of a packet", self.name)
            aspect = Fraction(stream.sample_aspect_ratio or 1)
        self._stored = (first.width, first.height)
        self._axes = display_axes(first)
        sideways = self._axes[0]
        self.width, self.height = self._stored[::-1] if sideways else self._stored
        self.look = self._look(first, 1 / aspect if sideways else aspect)
        matrix = _BT601 if self.look.matrix == _BT601_TOO else self.look.matrix
        self._matrix = matrix if matrix in _MATRICES else _BT709 if min(first.height, first.width) >= HD_LINES else _BT601
        self._range = ColorRange.JPEG if self.look.range == ColorRange.JPEG else ColorRange.MPEG
        self._tell_conversions(first)

    def frames(self, seconds: float, end: str = "loop") -> Iterator[FootageFrame]:
        """Frames until `seconds` are filled (at least one).  Where the footage is shorter, it goes on backwards and forwards again
        ("loop"), with its last frame at its own rate ("freeze"), or not at all ("cut")."""
        clock = Fraction(0)
        for stays, planes in self._in_order(end):
            if clock and clock + stays / 2 >= seconds:
                return
            stays = min(stays, max(Fraction(seconds).limit_denominator(10**6) - clock, 1 / self.rate))
            yield FootageFrame(clock, stays, planes)
            clock += stays

    def picture(self, planes: av.VideoFrame) -> np.ndarray:
        """RGB uint8 [H, W, 3] of a frame's planes."""
        whole = planes.reformat(format="yuv444p", src_colorspace=self._matrix, dst_colorspace=self._matrix,
                                src_color_range=self._range, dst_color_range=self._range)
        picture = whole.reformat(format="rgb24", src_colorspace=self._matrix, src_color_range=self._range,
                                 dst_color_range=ColorRange.JPEG).to_ndarray(format="rgb24")
        return picture[:self.height, :self.width]

    def paint(self, planes: av.VideoFrame, picture: np.ndarray, top: int, left: int, pixels: np.ndarray) -> None:
        """Lay `pixels` uint8 [h, w, 3] into a frame at (top, left); where they are those of its `picture`, its planes stay as they are."""
        if not pixels.size:
            return
        y0, x0 = (max(0, start - start % 2 - _MARGIN) for start in (top, left))
        before = picture[y0:top + pixels.shape[0] + _MARGIN, x0:left + pixels.shape[1] + _MARGIN]
        after = before.copy()
        after[top - y0:top - y0 + pixels.shape[0], left - x0:left - x0 + pixels.shape[1]] = pixels
        changed = (after != before).any(-1)
        if changed.shape[0] % 2 or changed.shape[1] % 2:
            changed = np.pad(changed, ((0, changed.shape[0] % 2), (0, changed.shape[1] % 2)), mode="edge")
        halved = changed.reshape(changed.shape[0] // 2, 2, changed.shape[1] // 2, 2).any((1, 3))
        painted = arrays_of(to_planes(after, matrix=self._matrix, levels=self._range))
        for target, source, where, scale in zip(arrays_of(planes), painted, (changed, halved, halved), (1, 2, 2)):
            place = target[y0 // scale:y0 // scale + where.shape[0], x0 // scale:x0 // scale + where.shape[1]]
            place[where] = source[where]

    def _in_order(self, end: str) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        yield from self._forwards(record=True)
        count = len(self._stamps)
        if not count:
            raise InvalidVideoError(f"{self.name}: no frame could be decoded")
        if end == "cut":
            return
        if end == "freeze" or count == 1:
            last = self._again(count - 1, count)[0]
            while True:
                yield 1 / self.rate, self._planes(last)
        while True:
            yield from self._backwards()
            yield from self._forwards(first=1)

    def _forwards(self, record: bool = False, first: int = 0) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """How long each frame stays, and its planes; a frame stays until the next one appears."""
        shown, number = None, 0
        with open_container(self.path, InvalidVideoError) as container:
            stream = video_stream(container, self.name)
            stream.thread_type = "AUTO"
            name = self.name if record else ""
            for appears, stays, frame in timed_frames(decode_frames(container, stream, name), container, 1 / self.rate, self.name):
                if shown is not None:
                    yield from self._shown(shown, appears - shown[0], record, number, first)
                    number += 1
                shown = appears, stays, frame
            if shown is not None:
                yield from self._shown(shown, shown[1], record, number, first)
                if record:
                    self._warn_if_cut(promised_seconds(container, stream), float(shown[0] + shown[1]))

    def _shown(self, shown: tuple, stays: Fraction, record: bool, number: int, first: int) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        if record:
            self._stamps.append((shown[2].pts, stays))
        if number >= first:
            yield stays, self._planes(shown[2])

    def _backwards(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """All frames but the last one, from the end; a few at a time are decoded again from the key frame before them."""
        for stop in range(len(self._stamps) - 1, 0, -BACKWARDS):
            start = max(0, stop - BACKWARDS)
            frames = [self._planes(frame) for frame in self._again(start, stop)]
            for (_, stays), planes in zip(reversed(self._stamps[start:stop]), reversed(frames)):
                yield stays, planes

    def _again(self, start: int, stop: int) -> list[av.VideoFrame]:
        """Frames `start` to `stop - 1`; from the file's beginning, if its time stamps do not lead there."""
        wanted = self._stamps[start][0]
        for seek in (True, False):
            with open_container(self.path, InvalidVideoError) as container:
                stream = video_stream(container, self.name)
                stream.thread_type = "AUTO"
                if seek and (wanted is None or container.format.name == "avi"):
                    continue
                try:
                    if seek:
                        with interrupts_held():
                            container.seek(wanted, stream=stream)
                except av.error.FFmpegError:
                    continue
                found = self._count(decode_frames(container, stream, ""), start, stop, wanted if seek else None)
            if len(found) == stop - start:
                return found
        raise InvalidVideoError(f"{self.name}: cannot be read a second time")

    def _count(self, frames: Iterator[av.VideoFrame], start: int, stop: int, wanted: int | None) -> list[av.VideoFrame]:
        found: list[av.VideoFrame] = []
        for number, frame in enumerate(frames):
            if found or (frame.pts == wanted if wanted is not None else number == start):
                expected = self._stamps[start + len(found)][0]
                if wanted is not None and frame.pts != expected:
                    return []
                found.append(frame)
                if len(found) == stop - start:
                    break
            elif wanted is not None and (frame.pts is None or frame.pts > wanted):
                return []
        return found

    def _planes(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A decoded frame, upright, as yuv420p of even sides in memory of its own."""
        if (frame.width, frame.height) != self._stored:
            width, height = self._stored
            raise InvalidVideoError(f"{self.name}: the size changes from {width}x{height} to {frame.width}x{frame.height} px")
        if is_hdr(frame.color_trc):
            frame = to_planes(to_standard(frame))
        elif frame.format.is_rgb or len(frame.format.components) < 3:
            frame = to_planes(frame.to_ndarray(format="rgb24"))
        elif frame.format.name not in _PLAIN:
            frame = frame.reformat(format="yuv420p", src_colorspace=self._matrix, dst_colorspace=self._matrix,
                                   src_color_range=self._range, dst_color_range=self._range)
        return self._copy(frame, *self._axes)

    def _copy(self, frame: av.VideoFrame, *axes: bool) -> av.VideoFrame:
        copy = av.VideoFrame(self.width + self.width % 2, self.height + self.height % 2, "yuv420p")
        for target, source in zip(arrays_of(copy), arrays_of(frame)):
            source = turned(source, *axes) if axes else source
            missing = [(0, target.shape[axis] - source.shape[axis]) for axis in (0, 1)]
            target[:] = np.pad(source, missing, mode="edge") if any(after for _, after in missing) else source
        copy.colorspace, copy.color_range = self.look.matrix, self.look.range
        return copy

    def _look(self, frame: av.VideoFrame, aspect: Fraction) -> Look:
        if is_hdr(frame.color_trc) or frame.format.is_rgb or len(frame.format.components) < 3:
            return Look(aspect=aspect)
        full = frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG
        return Look(int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc),
                    int(ColorRange.JPEG) if full else int(frame.color_range), aspect)

    def _warn_if_cut(self, promised: float, seconds: float) -> None:
        """Log what is missing at the end, where the header tells how long the video is."""
        if seconds < promised - max(_MISSING_SECONDS, float(2 / self.rate)):
            logger.warning("%s: breaks off; %.2f s of the announced %.2f s could be decoded", self.name, seconds, promised)

    def _tell_conversions(self, frame: av.VideoFrame) -> None:
        depth = max(component.bits for component in frame.format.components)
        if is_hdr(frame.color_trc):
            logger.warning("%s: high dynamic range (%s); the video has standard range, 8 bits", self.name, NAMES[frame.color_trc])
        elif depth > 8:
            logger.warning("%s: %d bits a colour; the video has 8", self.name, depth)
        elif frame.format.name not in _PLAIN:
            logger.warning("%s: colours stored as %s; the video has yuv420p", self.name, frame.format.name)
