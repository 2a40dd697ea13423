"""Speech as it is spoken: sound goes in as it comes, frames come out as soon as they are determined.

A frame is what the pipeline makes of a recording that began `PAST_SECONDS` before and ends `look_ahead` frames after it: of the sound
further off it takes no notice, whatever came.  So frames depend neither on the pieces that the sound comes in nor on how fast it does,
and memory does not grow.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import InvalidInputError
from ..face.mouth_box import Patch
from ..media.audio import SAMPLE_RATE
from ..media.sound_stream import SoundStream
from ..provenance.origin import Origin
from .portrait import Portrait
from .rendering import rendered_part
from .sampling import Sampling
from .speech import Speech

if TYPE_CHECKING:
    from .talking_head_base import TalkingHeadBase

# The opening of the lips in eight clips of talkers and three of free speech, against that heard in the whole recording: r = 0.95 with 1.8 s
# of the past, as with 3 s; 0.94 with 1.2 s.
PAST_SECONDS = 1.8
# Frames. Of what is to come likewise: r = 0.93 with 3 frames, 0.95 with 5 and 6, 0.97 with 8.
LOOK_AHEAD, MAX_LOOK_AHEAD = 5, 50
# One step, as good as four in most figures and not smoothed over time, and few frames at a time: who waits, waits for both.
STEPS, CHUNK_SIZE = 1, 3

Mouth = Callable[[Speech, range], torch.Tensor]


@dataclass(frozen=True)
class LiveFrame:
    """A frame that is shown from `time` on, in seconds after the first sample; `patch` is what it changes in the photo."""

    time: float
    patch: Patch = field(repr=False)
    photo: np.ndarray = field(repr=False)

    @property
    def picture(self) -> np.ndarray:
        """The frame, uint8 [H, W, 3]."""
        return self.patch.onto(self.photo)


def stacked(frames: list[LiveFrame], size: int) -> Iterator[np.ndarray]:
    """The pictures, uint8 [n, H, W, 3], n <= `size`."""
    for start in range(0, len(frames), size):
        yield np.stack([frame.picture for frame in frames[start:start + size]])


class LiveSession:
    """One portrait that speaks what it hears; `TalkingHeadPipeline.session` begins one.  Not for several threads at once.

    Args:
        pipeline: which hears and renders.
        portrait: who speaks.
        mouth: latents [n, C, 16, 16] of a speech's frames.
        sampling: of `chunk_size` frames together.
        look_ahead: frames of sound after a frame that it waits for.
        voice: is told that of each frame (`Speech`) before that is rendered.
        origin: what videos of it can be marked with.
    """

    def __init__(
        self, pipeline: "TalkingHeadBase", portrait: Portrait, mouth: Mouth, sampling: Sampling, look_ahead: int,
        voice: deque[tuple[float, float]], origin: Origin,
    ):
        if isinstance(look_ahead, bool) or not isinstance(look_ahead, int) or not 0 <= look_ahead <= MAX_LOOK_AHEAD:
            raise InvalidInputError(f"look_ahead must be 0 to {MAX_LOOK_AHEAD} frames, got {look_ahead!r}")
        self.fps, self.photo, self.origin = pipeline.config.fps, portrait.photo, origin
        self._pipeline, self._portrait, self._mouth, self._voice = pipeline, portrait, mouth, voice
        self._chunk_size, self._packed = sampling.chunk_size, sampling.packed
        self._look_ahead, self._past = look_ahead, round(PAST_SECONDS * self.fps)
        self._sound, self._ended = SoundStream(), False
        # What may still be heard, and how much has been let go of, in samples; the frame to come.
        self._kept, self._gone, self._next = np.zeros(0, np.float32), 0, 0

    @torch.inference_mode()
    def push(self, samples: np.ndarray, rate: int) -> list[LiveFrame]:
        """The frames that a further piece of sound determines: those that end `look_ahead` frames before its end, in whole chunks.

        `samples` [n] or [n, channels] are floating point in [-1, 1] or integers, at `rate` Hz, the same at each call.

        Raises:
            InvalidInputError: samples that are no sound, another rate than before, or a session that has ended.
        """
        if self._ended:
            raise InvalidInputError("the live session has ended: begin another one")
        self._kept = np.concatenate([self._kept, self._sound.take(samples, rate)])
        frames: list[LiveFrame] = []
        while self._sample(end := self._next + self._chunk_size + self._look_ahead) <= self._gone + len(self._kept):
            frames += self._make(end)
        return frames

    @torch.inference_mode()
    def flush(self) -> list[LiveFrame]:
        """The frames that are left when nothing more is said; the session ends."""
        if self._ended:
            return []
        self._ended = True
        self._kept = np.concatenate([self._kept, self._sound.finish()])
        heard = self._gone + len(self._kept)
        total = max(1, round(heard / SAMPLE_RATE * self.fps)) if heard else 0
        frames: list[LiveFrame] = []
        while self._next < total:
            frames += self._make(min(self._next + self._chunk_size + self._look_ahead, total))
        self._pipeline.maybe_free_model_hooks()
        return frames

    def _make(self, end: int) -> list[LiveFrame]:
        """The next frames, of sound up to the frame `end`."""
        begin = max(0, self._next - self._past)
        wanted = range(self._next, min(self._next + self._chunk_size, end))
        heard = self._kept[self._sample(begin) - self._gone:self._sample(end) - self._gone]
        speech = self._pipeline._hear_samples(heard, end - begin)
        latents = self._mouth(speech, range(wanted.start - begin, wanted.stop - begin))
        self._voice.clear()
        self._voice.extend(speech[wanted.start - begin:wanted.stop - begin].voice)
        patches = self._pipeline._patches(
            self._portrait.renderer, rendered_part(latents, self._portrait.composition), self._packed)
        self._next = wanted.stop
        done = self._sample(max(0, self._next - self._past)) - self._gone
        self._kept, self._gone = self._kept[done:], self._gone + done
        return [LiveFrame(index / self.fps, patch, self.photo) for index, patch in zip(wanted, patches)]

    def _sample(self, frame: int) -> int:
        """The first sample of a frame."""
        return round(frame * SAMPLE_RATE / self.fps)
