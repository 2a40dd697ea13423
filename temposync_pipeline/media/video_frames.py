"""Decoded video frames: when each is shown, which way up, and in which colours."""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from ..errors import InvalidVideoError
from ..limits import MAX_STILL_SECONDS

# A time stamp this much earlier, in seconds, than the one before is a slip of who wrote it; its frame appears an instant after the other.
_WAVERING, _INSTANT = Fraction(1, 2), Fraction(1, 1000)


def appearance(frame: av.VideoFrame, container: av.container.InputContainer) -> Fraction | None:
    """When a frame appears on the file's own clock, in seconds; None where the file does not say.

    AVI has no time stamps: its frames follow each other at a constant rate, and what FFmpeg makes up counts the decoder's delay in.
    """
    return None if frame.pts is None or container.format.name == "avi" else frame.pts * frame.time_base


def timed_frames(
    frames: Iterator[av.VideoFrame], container: av.container.InputContainer, duration: Fraction, name: str
) -> Iterator[tuple[Fraction, Fraction, av.VideoFrame]]:
    """Adds when each frame appears, in seconds after the first one, and how long it stays if none follows.

    `duration` is how long a frame stays that does not say so. A frame without a time stamp follows the one before, and so does one whose
    stamp alone is none later, as in some fragmented files. Where time stamps begin anew, as where recordings were joined, they go on
    from there.

    Raises InvalidVideoError for a gap of more than `MAX_STILL_SECONDS`.
    """
    origin, appears, following, advanced = None, Fraction(-1), Fraction(0), False
    for frame in frames:
        stays = Fraction(frame.duration or 0) * frame.time_base if frame.time_base else Fraction(0)
        stays = stays if 0 < stays <= MAX_STILL_SECONDS else duration
        stamp = appearance(frame, container)
        if stamp is None:
            appears = following
        elif advanced and stamp - origin <= appears < stamp - origin + _WAVERING:
            appears, advanced = appears + _INSTANT, False
        else:
            advanced = origin is not None and stamp - origin > appears
            if not advanced:
                origin = stamp - following
            appears = stamp - origin
        if appears - following > MAX_STILL_SECONDS:
            jump = float(appears - following)
            raise InvalidVideoError(f"{name}: its time stamps jump by {jump:.0f} s, above the limit of {MAX_STILL_SECONDS} s")
        yield appears, stays, frame
        following = appears + stays


def frames_at(timed: Iterator[tuple[Fraction, Fraction, av.VideoFrame]], fps: Fraction) -> Iterator[av.VideoFrame]:
    """For each frame of a video of `fps` frames a second what is on display in the middle of its time."""
    shown, end, count = None, Fraction(0), 0
    for appears, stays, frame in timed:
        while shown is not None and (count + Fraction(1, 2)) / fps < appears:
            yield shown
            count += 1
        shown, end = frame, appears + stays
    while shown is not None and (count + Fraction(1, 2)) / fps < end:
        yield shown
        count += 1


def upright_picture(frame: av.VideoFrame) -> np.ndarray:
    """uint8 RGB [H, W, 3], turned or mirrored as the file's display matrix asks.

    Colours are exact to a level: converted straight from subsampled chroma, FFmpeg's are 1 to 2.4 levels dark.
    """
    if len(frame.format.components) >= 3 and not frame.format.is_rgb:
        frame = frame.reformat(format="yuv444p")
    return np.ascontiguousarray(turned(frame.to_ndarray(format="rgb24"), *display_axes(frame)))


def display_axes(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """What a file's display matrix asks for: whether rows become columns, and then whether rows and columns are counted backwards."""
    display = frame.side_data.get("DISPLAYMATRIX")
    if display is None:
        return False, False, False
    # Column by column of the picture to be shown: (a, b) is where its pixels' x goes, (c, d) where y goes.
    a, b, _, c, d = np.frombuffer(display, np.int32)[:5]
    sideways = bool(abs(b) > abs(a))
    if sideways:
        a, d = c, b
    return sideways, bool(d < 0), bool(a < 0)


def turned(picture: np.ndarray, sideways: bool, rows_back: bool, columns_back: bool) -> np.ndarray:
    """A view of a picture [h, w, ...], turned or mirrored as `display_axes` says."""
    picture = picture.swapaxes(0, 1) if sideways else picture
    return picture[::-1 if rows_back else 1, ::-1 if columns_back else 1]
