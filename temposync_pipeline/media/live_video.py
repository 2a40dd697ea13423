"""Frames and sound to whoever watches while they are made."""

from collections.abc import Mapping
from fractions import Fraction
from types import TracebackType
from typing import BinaryIO, Self

import av
import numpy as np

from ..interrupts import interrupts_held
from .video import AAC_RATES, CRF, FPS, check_sides, mark_bt709

# A player may begin, or begin again, at a key frame: every second.
KEY_SECONDS = 1
BIT_RATE = 96_000


class _Outlet:
    """An open file that cannot be rewound, written through at once."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._file.flush()
        return len(data)


class LiveVideoWriter:
    """Write frames and sound to an open file or pipe as fragmented mp4: H.264 (yuv420p) and AAC, every packet a fragment of its own, which
    leaves as soon as the next one tells how long it lasts.

    ```python
    with LiveVideoWriter(sys.stdout.buffer, width=512, height=512, fps=25, rate=16_000) as writer:
        writer.hear(samples)    # the sound of the next n / rate seconds; it should come before its frames
        writer.write_planes(planes)  # the next frame, as `media.planes` makes it
    ```

    `tags` are metadata of the file.  Raises InvalidVideoError for sides that cannot be encoded, OSError where the file cannot be written
    to, BrokenPipeError where nobody reads it any more.
    """

    def __init__(self, file: BinaryIO, width: int, height: int, fps: float = FPS, rate: int = 16_000,
                 tags: Mapping[str, str] | None = None):
        self._file, self._size, self.fps, self.rate = file, (width, height), Fraction(fps).limit_denominator(1001), rate
        self.tags, self.num_frames, self._num_samples = tags or {}, 0, 0

    def __enter__(self) -> Self:
        check_sides("live", *self._size)
        # A fragment ends with the packet after it; "frag_every_frame" would mistake the times of packets that wait for one another.
        fragments = {"movflags": "delay_moov+default_base_moof", "frag_duration": "1", "flush_packets": "1"}
        self._container = av.open(_Outlet(self._file), "w", format="mp4", options=fragments)
        self._container.metadata.update(self.tags)
        options = {"crf": str(CRF), "preset": "veryfast", "tune": "zerolatency", "g": str(max(1, round(KEY_SECONDS * self.fps)))}
        self._video = self._container.add_stream("libx264", rate=self.fps, options=options)
        self._video.width, self._video.height = (side + side % 2 for side in self._size)
        self._video.pix_fmt = "yuv420p"
        mark_bt709(self._video.codec_context)
        rate = self.rate if self.rate in AAC_RATES else 48_000
        self._sound = self._container.add_stream("aac", rate=rate, layout="mono")
        self._sound.bit_rate = BIT_RATE
        self._resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        return self

    def hear(self, samples: np.ndarray) -> None:
        """Encode the sound that follows, float32 [n] in [-1, 1]."""
        if len(samples):
            frame = av.AudioFrame.from_ndarray(np.clip(samples, -1, 1)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self._num_samples, Fraction(1, self.rate)
            self._num_samples += len(samples)
            self._encode(frame)

    def write_planes(self, picture: av.VideoFrame) -> None:
        """Encode the next frame."""
        picture.pts, picture.time_base = self.num_frames, 1 / self.fps
        self.num_frames += 1
        with interrupts_held():
            self._container.mux(self._video.encode(picture))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self.num_frames:
                self._container.mux(self._video.encode(None))
                self._encode(None)
                self._container.mux(self._sound.encode(None))
            self._container.close()
        except Exception:
            if kind is None:  # else the cause is already on its way up
                raise

    def _encode(self, frame: av.AudioFrame | None) -> None:
        with interrupts_held():
            for resampled in self._resampler.resample(frame):
                self._container.mux(self._sound.encode(resampled))
