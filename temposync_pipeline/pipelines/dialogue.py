"""Several people of one photo, who speak in turn."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from ..errors import InvalidInputError
from ..face.mouth_box import Patch
from ..media.audio import AudioSource, decode_audio, full_scale, load_audio, silence_impossible
from ..media.planes import StillPlanes
from ..media.video import VideoWriter
from ..provenance.credentials import SigningKey, choose_credentials
from .inputs import AudioInput, ImageInput, as_audio
from .pipeline_output import check_video_name
from .portrait import MAX_SIZE
from .sampling import CHUNK_SIZE
from .talking_head import TalkingHeadPipeline

Turn = tuple[int, AudioInput]


class DialoguePipeline(TalkingHeadPipeline):
    """Adds `dialogue_to_file` to a pipeline that moves the mouth alone."""

    @torch.inference_mode()
    def dialogue_to_file(
        self, image: ImageInput, turns: Sequence[Turn], output_path: str | PathLike, num_inference_steps: int | None = None,
        generator: torch.Generator | None = None, progress: bool = True, mouth_amplitude: float | None = None, chunk_size: int = CHUNK_SIZE,
        max_size: int = MAX_SIZE, provenance: bool | SigningKey = True,
    ) -> dict[str, float | str]:
        """People of one photo speak one after the other; who does not speak rests.

        Args:
            turns: (face index, recording) in the order in which they are heard; 0 = the largest face, and a face may come again.
            The rest as for `generate_to_file`, which says what is returned.

        Raises:
            InvalidInputError: no turn, a face that is not there (FaceError), or a file that cannot be used.
        """
        if not turns:
            raise InvalidInputError("a dialogue needs at least one turn, a face and what it says")
        sampling = self._sampling(num_inference_steps, chunk_size, mouth_amplitude)
        check_video_name(output_path, (".mp4",))
        credentials = choose_credentials(provenance)
        samples, rate, ends = join_recordings([as_audio(recording) for _, recording in turns])
        starts = [0, *ends[:-1]]
        with self._returning_models():
            speakers = []
            for face_index in dict.fromkeys(face for face, _ in turns):
                own = np.zeros_like(samples)
                for (face, _), start, end in zip(turns, starts, ends):
                    if face == face_index:
                        own[:, start:end] = samples[:, start:end]
                portrait = self.prepare_portrait(image, face_index, max_size, sampling.composition)
                speech = self._hear(load_audio((own, rate)))
                noise = self.prepare_latents(sampling.num_inference_steps, generator)
                # All speak at the same time, each on a scheduler of its own.
                apart = replace(sampling, scheduler=copy.copy(sampling.scheduler))
                speakers.append((portrait, self._latent_chunks(portrait, speech, noise, apart), apart))
            photo, count = speakers[0][0].photo, len(speech)
            origin = self._origin(photo, speakers[0][0].matrix)
            planes = StillPlanes(photo, origin.watermark() if provenance else None)
            writing = VideoWriter(output_path, self.config.fps, (samples, rate), origin.tags(), origin.signing(credentials))
            with writing as writer, self._bar(count, progress) as bar, ExitStack() as stack:
                each = [stack.enter_context(closing(self._video_patches(*speaker))) for speaker in speakers]
                for patches in zip(*each):
                    writer.write_planes(planes.with_change(*together(photo, patches)))
                    bar.update()
        return {"output": str(Path(output_path)), "frames": count, "fps": self.config.fps, "seconds": count / self.config.fps}


def join_recordings(sources: Sequence[AudioSource]) -> tuple[np.ndarray, int, list[int]]:
    """Recordings one after the other, as float32 [channels, N], their highest sampling rate, and the sample at which each ends.

    Raises InvalidAudioError for one that cannot be used.
    """
    parts: list[tuple[Any, int]] = []
    for source in sources:
        load_audio(source)  # says what is wrong with it
        chunks = list(decode_audio(source))
        scale = np.float32(full_scale(source))
        parts.append((silence_impossible(np.concatenate([chunk for chunk, _ in chunks], axis=1)) / scale, chunks[0][1]))
    rate, channels = max(rate for _, rate in parts), 2 if any(len(samples) == 2 for samples, _ in parts) else 1
    joined = []
    for samples, own_rate in parts:
        samples = samples if len(samples) in (1, channels) else samples.mean(0, keepdims=True)
        samples = soxr.resample(samples.T, own_rate, rate).T if own_rate != rate else samples
        joined.append(np.broadcast_to(samples, (channels, samples.shape[1])).astype(np.float32))
    return np.concatenate(joined, axis=1), rate, np.cumsum([part.shape[1] for part in joined]).tolist()


def together(photo: np.ndarray, patches: Sequence[Patch]) -> Patch:
    """What several patches change in a photo uint8 [H, W, 3], as one; where they overlap, each gives what it changes."""
    some = [patch for patch in patches if patch.pixels.size]
    if len(some) < 2:
        return some[0] if some else patches[0]
    top, left = min(patch.top for patch in some), min(patch.left for patch in some)
    bottom = max(patch.top + patch.pixels.shape[0] for patch in some)
    right = max(patch.left + patch.pixels.shape[1] for patch in some)
    pixels = photo[top:bottom, left:right].copy()
    for patch in some:
        rows = slice(patch.top - top, patch.top - top + patch.pixels.shape[0])
        columns = slice(patch.left - left, patch.left - left + patch.pixels.shape[1])
        before = photo[top:bottom, left:right][rows, columns]
        changed = (patch.pixels != before).any(-1)
        pixels[rows, columns][changed] = patch.pixels[changed]
    return Patch(top, left, pixels)
