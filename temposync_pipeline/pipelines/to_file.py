"""Straight into files, for recordings of any length: videos, the latents of videos, and from those on to videos."""

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..bases.packed import PackedWeights
from ..errors import InvalidInputError
from ..face.mouth_box import Patch
from ..files import check_not_input
from ..media.audio import AudioSource, load_audio
from ..media.planes import StillPlanes
from ..media.video import VideoWriter
from ..provenance.credentials import SigningKey, choose_credentials
from .ahead import ahead
from .inputs import AudioInput, ImageInput, as_audio
from .latent_video import LatentVideo, audio_bytes, autoencoder_hash
from .pipeline_output import check_video_name
from .portrait import MAX_SIZE, Portrait
from .rendering import rendered_part
from .sampling import CHUNK_SIZE
from .talking_head_base import TalkingHeadBase


class ToFilePipeline(TalkingHeadBase):
    """Adds `generate_to_file`, `latents_to_file`, `decode_to_file` and their kin to a pipeline."""

    def generate_to_file(
        self, image_path: ImageInput, audio_path: AudioInput, output_path: str | PathLike, num_inference_steps: int | None = None,
        generator: torch.Generator | None = None, progress: bool = True, **kwargs,
    ) -> dict[str, float | str]:
        """Stream the video straight into an mp4 with the original audio; returns {"output", "frames", "fps", "seconds"}.

        Further arguments are those of `stream_to_file`.
        """
        stages = self.stream_to_file(image_path, audio_path, output_path, num_inference_steps, generator, **kwargs)
        _, count, total = next(stage for stage in stages if stage[0] == "visemes")
        with self._bar(total, progress) as bar:
            for _, count, _ in stages:
                bar.update(count - bar.n)
        return {"output": str(Path(output_path)), "frames": count, "fps": self.config.fps, "seconds": count / self.config.fps}

    @torch.inference_mode()
    def stream_to_file(
        self, image: ImageInput, audio_path: AudioInput, output_path: str | PathLike, num_inference_steps: int | None = None,
        generator: torch.Generator | None = None, face_index: int = 0, mouth_amplitude: float | None = None, chunk_size: int = CHUNK_SIZE,
        max_size: int = MAX_SIZE, provenance: bool | SigningKey = True, **options: Any,
    ) -> Iterator[tuple[str, int, int]]:
        """`generate_to_file` at the caller's pace: yields (stage just done, frames written, frames in all).

        The stages are "listening" (after the first seconds of sound, or every few), "visemes", "portrait", "frames" (after every chunk) and
        "video", the finished file. Closing the generator before its end stops the work where it is and leaves no file.

        `provenance` marks the video as generated, see `TempoSyncPipelineOutput.save`.
        """
        sampling = self._sampling(num_inference_steps, chunk_size, mouth_amplitude, **options)
        check_video_name(output_path, (".mp4",))
        check_not_input(output_path, image, audio_path)
        credentials = choose_credentials(provenance)
        audio = as_audio(audio_path)
        self._make_room()
        with self._returning_models(), self._prepared_beside(image, face_index, max_size, sampling, generator) as prepared:
            speech = self._begin_to_hear(load_audio(audio))
            for _ in speech.begin():
                yield "listening", 0, 0
            yield "visemes", 0, len(speech)
            portrait, latents_of = prepared()
            yield "portrait", 0, len(speech)
            portrait = self._enliven(portrait, sampling, generator, speech.voice)
            origin = self._origin(portrait.photo, portrait.matrix)
            planes = StillPlanes(portrait.photo, origin.watermark() if provenance else None)
            self._make_room(len(speech))
            writing = VideoWriter(output_path, self.config.fps, audio, origin.tags(), origin.signing(credentials))
            with writing as writer, closing(self._video_patches(portrait, latents_of(speech), sampling)) as patches:
                for patch in patches:
                    writer.write_planes(planes.with_change(*patch))
                    if writer.num_frames % sampling.chunk_size == 0 or writer.num_frames == len(speech):
                        yield "frames", writer.num_frames, len(speech)
            speech.end()
        yield "video", len(speech), len(speech)

    def _latent_video(
        self, portrait: Portrait, latents: torch.Tensor, visemes: np.ndarray, audio: AudioSource, chunk_size: int
    ) -> LatentVideo:
        return LatentVideo(
            latents=rendered_part(latents, portrait.composition), portrait_latents=portrait.latents.cpu(), matrix=portrait.matrix,
            visemes=visemes, photo=portrait.photo, audio=audio, fps=self.config.fps, chunk_size=chunk_size,
            model=Path(self.config.get("_name_or_path") or "").name, autoencoder=autoencoder_hash(self.vae),
            composition=portrait.composition)

    @torch.inference_mode()
    def decode_latents(self, video: LatentVideo) -> Iterator[np.ndarray]:
        """Frames uint8 [n, H, W, 3], n <= `video.chunk_size`: the second half of mode E2, bit-identical to `__call__` on the same machine.

        Raises InvalidInputError where the latents come from another autoencoder.
        """
        with closing(self._decoded_patches(video)) as patches:
            while frames := [patch.onto(video.photo) for patch in islice(patches, video.chunk_size)]:
                yield np.stack(frames)

    @torch.inference_mode()
    def _decoded_patches(self, video: LatentVideo) -> Generator[Patch, None, None]:
        """What each frame changes in the photo."""
        if video.latents.shape[1] != self.vae.config.latent_channels or video.autoencoder != autoencoder_hash(self.vae):
            raise InvalidInputError(f"the latents were made with another autoencoder, that of {video.model or 'an unnamed checkpoint'}")
        with self._returning_models():
            device, dtype = self._execution_device, self.vae.dtype
            portrait_latents = video.portrait_latents.to(device, dtype)
            with self._beside(lambda: self._renderer(video.photo, video.matrix, portrait_latents, video.composition)) as made:
                renderer = made()
            chunks = (latents.to(device, dtype) for latents in video.latents.split(video.chunk_size))
            decoded = self._decoded(renderer, chunks, PackedWeights())
            with closing(ahead(decoded) if self._can_overlap() else decoded) as parts:
                for part in parts:
                    yield from map(renderer.patch, part)

    @torch.inference_mode()
    def latents_to_file(
        self, image_path: ImageInput, audio_path: AudioInput, output_path: str | PathLike, num_inference_steps: int | None = None,
        generator: torch.Generator | None = None, progress: bool = True, face_index: int = 0, mouth_amplitude: float | None = None,
        chunk_size: int = CHUNK_SIZE, max_size: int = MAX_SIZE, **options: Any,
    ) -> dict[str, float | str]:
        """`generate_to_file` without the decoder: writes what `decode_to_file` reads."""
        sampling = self._sampling(num_inference_steps, chunk_size, mouth_amplitude, **options)
        check_not_input(output_path, image_path, audio_path)
        if sampling.blink_rate or sampling.head_motion:
            raise InvalidInputError("latents hold the mouth alone: ask for blinks and the head's motion where the video is made at once")
        audio = as_audio(audio_path)
        with self._returning_models():
            speech = self._hear(load_audio(audio))
            portrait = self.prepare_portrait(image_path, face_index, max_size, sampling.composition)
            noise = self.prepare_latents(sampling.num_inference_steps, generator)
            with self._bar(len(speech), progress) as bar:
                latents = self._collect_latents(portrait, speech, noise, sampling, bar)
        self._latent_video(portrait, latents, speech.visemes, audio, chunk_size).save(output_path)
        count = len(latents)
        return {"output": str(Path(output_path)), "frames": count, "fps": self.config.fps, "seconds": count / self.config.fps}

    def decode_to_file(
        self, latents_path: str | PathLike, output_path: str | PathLike, provenance: bool | SigningKey = True
    ) -> dict[str, float | str]:
        """A file of `TempoSyncPipelineOutput.save_latents` to an mp4 with the original audio; returns what `generate_to_file` returns.

        `provenance` marks the video as generated, see `TempoSyncPipelineOutput.save`.
        """
        check_video_name(output_path, (".mp4",))
        check_not_input(output_path, latents_path)
        credentials = choose_credentials(provenance)
        video = LatentVideo.load(latents_path)
        with TemporaryDirectory() as folder:
            audio_path = Path(folder) / "audio"
            audio_path.write_bytes(audio_bytes(video.audio))
            load_audio(audio_path)
            origin = self._origin(video.photo, video.matrix)
            planes = StillPlanes(video.photo, origin.watermark() if provenance else None)
            writing = VideoWriter(output_path, video.fps, audio_path, origin.tags(), origin.signing(credentials))
            with writing as writer, closing(self._decoded_patches(video)) as patches:
                for patch in patches:
                    writer.write_planes(planes.with_change(*patch))
        count = len(video.latents)
        return {"output": str(Path(output_path)), "frames": count, "fps": video.fps, "seconds": count / video.fps}
