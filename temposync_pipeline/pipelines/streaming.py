"""Frames as they are made: of a recording, and of speech as it is spoken."""

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..errors import InvalidInputError
from ..media.audio import SAMPLE_RATE, load_audio
from . import live
from .inputs import AudioInput, ImageInput, as_audio
from .live import LiveSession, Mouth
from .portrait import MAX_SIZE, Portrait
from .sampling import CHUNK_SIZE, Sampling
from .talking_head_base import TalkingHeadBase


class StreamingPipeline(TalkingHeadBase):
    """Adds `session` and `stream` to a pipeline."""

    def _mouth(self, portrait: Portrait, noise: Any, sampling: Sampling) -> Mouth:
        """Latents of some frames at a time, for methods whose frames need no more of the speech than what is around them."""
        raise InvalidInputError(f"{type(self).__name__} listens to a whole recording before it speaks: it cannot speak live")

    def session(
        self, image: ImageInput, num_inference_steps: int = live.STEPS, generator: torch.Generator | None = None, face_index: int = 0,
        mouth_amplitude: float | None = None, chunk_size: int = live.CHUNK_SIZE, look_ahead: int = live.LOOK_AHEAD,
        max_size: int = MAX_SIZE, **options: Any,
    ) -> LiveSession:
        """Speech as it is spoken: `push` sound into the session as it comes, and it returns frames.

        A frame comes when the sound of its chunk of `chunk_size` frames and of `look_ahead` frames more has been pushed: with the default,
        and 25 frames a second, 240 to 320 ms after its beginning, and the time it takes to make it.

        ```python
        session = pipe.session("portrait.jpg")
        for samples in microphone:  # float32 [n]
            for frame in session.push(samples, 16_000):
                show(frame.picture, frame.time)
        ```

        Raises InvalidInputError as `__call__` does, and for a method that cannot speak live.
        """
        sampling = self._sampling(num_inference_steps, chunk_size, mouth_amplitude, **options)
        return self._session(image, sampling, generator, face_index, max_size, look_ahead)

    @torch.inference_mode()
    def _session(
        self, image: ImageInput, sampling: Sampling, generator: torch.Generator | None, face_index: int, max_size: int, look_ahead: int
    ) -> LiveSession:
        portrait = self.prepare_portrait(image, face_index, max_size, sampling.composition)
        mouth = self._mouth(portrait, self.prepare_latents(sampling.num_inference_steps, generator), sampling)
        voice: deque[tuple[float, float]] = deque()
        portrait = self._enliven(portrait, sampling, generator, iter(voice.popleft, None))
        return LiveSession(
            self, portrait, mouth, sampling, look_ahead, voice, self._origin(portrait.photo, portrait.matrix))

    def stream(
        self, image: ImageInput, audio: AudioInput, num_inference_steps: int | None = None, generator: torch.Generator | None = None,
        face_index: int = 0, mouth_amplitude: float | None = None, chunk_size: int = CHUNK_SIZE, max_size: int = MAX_SIZE,
        look_ahead: int | None = None, **options: Any,
    ) -> Iterator[np.ndarray]:
        """The same frames as `__call__`, to the bit, yielded as uint8 [n, H, W, 3], n <= `chunk_size`, while they are made.

        With `look_ahead` they are, to the bit, those of a `session` of the same arguments that is pushed the recording: no frame knows of
        sound that comes more than so many frames after its chunk.
        """
        sampling = self._sampling(num_inference_steps, chunk_size, mouth_amplitude, **options)
        if look_ahead is None:
            return self._stream(image, audio, sampling, generator, face_index, max_size)
        return self._stream_live(image, audio, sampling, generator, face_index, max_size, look_ahead)

    @torch.inference_mode()
    def _stream_live(
        self, image: ImageInput, audio: AudioInput, sampling: Sampling, generator: torch.Generator | None, face_index: int, max_size: int,
        look_ahead: int,
    ) -> Iterator[np.ndarray]:
        """`stream` with a `look_ahead`."""
        with self._returning_models():
            samples = load_audio(as_audio(audio)).samples
            session = self._session(image, sampling, generator, face_index, max_size, look_ahead)
            for start in range(0, len(samples), SAMPLE_RATE):
                yield from live.stacked(session.push(samples[start:start + SAMPLE_RATE], SAMPLE_RATE), sampling.chunk_size)
            yield from live.stacked(session.flush(), sampling.chunk_size)

    @torch.inference_mode()
    def _stream(
        self, image: ImageInput, audio: AudioInput, sampling: Sampling, generator: torch.Generator | None, face_index: int, max_size: int
    ) -> Iterator[np.ndarray]:
        """`stream` of a recording that is heard as a whole."""
        with self._returning_models(), self._prepared_beside(image, face_index, max_size, sampling, generator) as prepared:
            speech = self._begin_to_hear(load_audio(as_audio(audio)))
            for _ in speech.begin():
                pass
            portrait, latents_of = prepared()
            portrait = self._enliven(portrait, sampling, generator, speech.voice)
            with closing(self._video_patches(portrait, latents_of(speech), sampling)) as patches:
                for chunk in sampling.chunks(len(speech)):
                    if frames := [patch.onto(portrait.photo) for patch in islice(patches, len(chunk))]:  # none once it is interrupted
                        yield np.stack(frames)
            speech.end()
