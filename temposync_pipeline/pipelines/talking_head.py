"""The base of the pipelines: whole videos at once, and, from its own bases, streams and files."""

import torch

from ..errors import InvalidInputError
from ..media.audio import load_audio
from .inputs import AudioInput, ImageInput, as_batch
from .pipeline_output import TempoSyncBatchOutput, TempoSyncPipelineOutput, convert_frames
from .sampling import Sampling
from .streaming import StreamingPipeline
from .to_file import ToFilePipeline


class TalkingHeadPipeline(StreamingPipeline, ToFilePipeline):
    """Base of the pipelines: a method adds its constructor, `__call__`, `prepare_latents`, `_latent_chunks` and `_to_speech`.

    Its constructor registers `vae`, `viseme_classifier`, `lip_motion`, `face_aligner` and `scheduler`, and its `SETTINGS`, `fps` and
    `mouth_amplitude` among them, and sets `use_bfloat16`.  `options` of the methods here are further arguments of its `__call__`.

    One pipeline may be called from several threads: what changes during a call belongs to the call (`sampling`).
    """

    def _make_videos(
        self, image: ImageInput | list[ImageInput], audio: AudioInput | list[AudioInput], sampling: Sampling,
        generator: torch.Generator | list[torch.Generator] | None, latents: torch.Tensor | None, output_type: str, return_dict: bool,
        face_index: int, max_size: int,
    ) -> TempoSyncPipelineOutput | TempoSyncBatchOutput | tuple:
        """`__call__` from its second step on."""
        images, recordings, batched = as_batch(image, audio)
        count = max(len(images), len(recordings))
        with self._running(sampling), self._returning_models():
            # 2. Listen to the recordings, find and encode the faces
            speeches = [self._hear(load_audio(recording)) for recording in recordings] * (count // len(recordings))
            portraits = [self.prepare_portrait(image, face_index, max_size, sampling.composition) for image in images]
            portraits *= count // len(images)
            recordings *= count // len(recordings)
            # 3. Prepare latents
            noises = self._noises(count, sampling.num_inference_steps, generator, latents)
            videos = []
            with self._bar(sum(map(len, speeches))) as bar:
                generators = generator if isinstance(generator, list) else [generator] * count
                for portrait, speech, recording, noise, source in zip(portraits, speeches, recordings, noises, generators):
                    if output_type != "latent":
                        portrait = self._enliven(portrait, sampling, source, speech.voice)
                    # 4. Denoise chunk by chunk, 5. decode, and put the frames into the photo
                    collect = self._collect_latents if output_type == "latent" else self._collect_frames
                    frames = collect(portrait, speech, noise, sampling, bar)
                    video = TempoSyncPipelineOutput(
                        convert_frames(frames, output_type), speech.visemes[:len(frames)], self.config.fps, audio=recording,
                        origin=self._origin(portrait.photo, portrait.matrix))
                    if output_type == "latent":
                        video.latent_video = self._latent_video(portrait, frames, video.visemes, recording, sampling.chunk_size)
                    videos.append(video)
                    if sampling.interrupted:
                        break
        output: TempoSyncPipelineOutput | TempoSyncBatchOutput = videos[0]
        if batched:
            output = TempoSyncBatchOutput([video.frames for video in videos], [video.visemes for video in videos], self.config.fps, videos)
        return output if return_dict else (output.frames, output.visemes)

    def _noises(
        self, count: int, steps: int, generator: torch.Generator | list[torch.Generator] | None, latents: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """`prepare_latents` of `count` videos, from one generator in turn or from one each."""
        if isinstance(generator, list) and len(generator) != count:
            raise InvalidInputError(f"{len(generator)} generators for {count} videos: give one, or one each")
        if latents is not None and not isinstance(latents, torch.Tensor):
            raise InvalidInputError(f"latents: a {type(latents).__name__}, expected a tensor")
        if latents is not None and len(latents) not in (1, count):
            raise InvalidInputError(f"latents of {len(latents)} videos for {count}: give those of one, or of each")
        generators = generator if isinstance(generator, list) else [generator] * count
        starts = [None] * count if latents is None else latents.expand(count, *latents.shape[1:]).split(1)
        return [self.prepare_latents(steps, *each) for each in zip(generators, starts)]
