"""Audio + portrait -> a face that speaks without end, chunk after chunk: inference of AsymTalker (arXiv 2605.02948)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ..errors import InvalidInputError
from ..models.autoencoder_temporal import FRAMES, AutoencoderTemporal
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.face_aligner import FaceAligner
from ..models.lip_motion import LipMotion
from ..models.speech_autoencoder import SpeechAutoencoder
from ..models.transformer_talking_head import TalkingHeadTransformer
from ..models.viseme_classifier import VisemeClassifier
from ..schedulers.scheduling_chunked_flow_match import ChunkedFlowMatchScheduler
from .asymtalker_sampling import kernel_video_frames, speak_in_chunks
from .inputs import AudioInput, ImageInput
from .pipeline_output import TempoSyncBatchOutput, TempoSyncPipelineOutput
from .portrait import MAX_SIZE
from .sampling import CHUNK_SIZE, Sampling, StepCallback
from .settings import Setting
from .speech import Speech
from .whole_face import NoiseSource, WholeFacePipeline


class AsymTalkerPipeline(WholeFacePipeline):
    """Makes the whole face in a portrait move with a recording of any length, in chunks that leave as soon as they are made.

    A chunk has `chunk_frames` latent frames of eight video frames each, the first `scheduler.config.kernel_frames` of them what the chunk
    before has ended with.  Each takes the same time, and memory does not grow.

    Args: see `WholeFacePipeline`; the transformer's `portrait_channels` are the latents' own.

    Settings, where None takes those of the pipeline that the components come from, else the default in `SETTINGS`:
        fps: 25, the only rate that the networks know.
        mouth_amplitude: how far the face moves away from the photo, 1 = as the transformer says.
        chunk_frames: latent frames of a chunk, the kernel's included.

    Attributes:
        use_bfloat16: see `TempoSyncPipeline`.
    """

    SETTINGS = WholeFacePipeline.SETTINGS | {"chunk_frames": Setting(5, least=2, most=16)}
    default_steps = 4
    recodes_kernels = True

    def __init__(
        self,
        vae: AutoencoderTempoSync,
        temporal_vae: AutoencoderTemporal,
        speech_autoencoder: SpeechAutoencoder,
        transformer: TalkingHeadTransformer,
        viseme_classifier: VisemeClassifier,
        lip_motion: LipMotion,
        face_aligner: FaceAligner,
        scheduler: ChunkedFlowMatchScheduler,
        fps: int | None = None,
        mouth_amplitude: float | None = None,
        chunk_frames: int | None = None,
    ):
        super().__init__(
            vae, temporal_vae, speech_autoencoder, transformer, viseme_classifier, lip_motion, face_aligner, scheduler, fps=fps,
            mouth_amplitude=mouth_amplitude, chunk_frames=chunk_frames)
        if self.new_frames < 1:
            raise InvalidInputError(f"chunk_frames {self.config.chunk_frames}: not more than the kernel's {scheduler.config.kernel_frames}")

    @property
    def new_frames(self) -> int:
        """Latent frames that a chunk adds."""
        return self.config.chunk_frames - self.scheduler.config.kernel_frames

    @torch.inference_mode()
    def __call__(
        self,
        image: ImageInput | list[ImageInput],
        audio: AudioInput | list[AudioInput],
        num_inference_steps: int = 4,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        face_index: int = 0,
        mouth_amplitude: float | None = None,
        chunk_size: int = CHUNK_SIZE,
        max_size: int = MAX_SIZE,
        latents: torch.Tensor | None = None,
        still: bool = False,
        recode: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> TempoSyncPipelineOutput | TempoSyncBatchOutput | tuple:
        """Generate the whole video, or, where portraits or recordings come as a list, as many videos as the longer list.

        Args:
            image, audio, output_type, face_index, max_size: see `TempoSyncPipeline.__call__`.
            num_inference_steps: transformer evaluations a chunk.
            generator: source of the chunks' noise; a list has one a video.
            mouth_amplitude: scales all motion, 0 = none; None takes the checkpoint's value.
            chunk_size: frames decoded together.
            latents: unit noise of all chunks' new frames, [1 or videos, c, new_frames, h, w], instead of the generator's.
            still: keep to the mouth: the head's motion is taken back, and nothing changes but the lower face.
            recode: False passes the kernel's latents on as they are, to be measured.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": …}) after each step of each chunk: latents
                [1, c, chunk_frames, h, w] at the noise levels timestep [1, chunk_frames]; what it returns replaces them. Where it sets
                `pipeline._interrupt`, the frames so far are returned, and those of the chunk from the estimate as it stands.

        Raises:
            InvalidInputError: a file that cannot be used, or no such face in the picture.
        """
        sampling = self._sampling(
            num_inference_steps, chunk_size, mouth_amplitude, output_type, callback_on_step_end, callback_on_step_end_tensor_inputs,
            still=still, recode=recode)
        return self._make_videos(image, audio, sampling, generator, latents, output_type, return_dict, face_index, max_size)

    def _sampling(self, *arguments: Any, still: bool = False, recode: bool = True, **options: Any) -> Sampling:
        sampling = super()._sampling(*arguments, **options)
        return replace(sampling, composition="still" if still else "face", together=recode)

    def prepare_latents(
        self, steps: int, generator: torch.Generator | None = None, latents: torch.Tensor | None = None
    ) -> NoiseSource:
        """Where chunks take the unit noise of their new frames from; `latents` [1, c, new_frames, h, w] is that of all.

        Raises InvalidInputError where it has another shape.
        """
        return self._noise_source(self.new_frames, generator, latents)

    @property
    def latent_frames_together(self) -> int:
        return self.config.chunk_frames

    def joints(self, frames: int) -> np.ndarray:
        return np.arange(FRAMES * self.new_frames, frames, FRAMES * self.new_frames)

    def _frames(self, reference: torch.Tensor, speech: Speech, noise: NoiseSource, sampling: Sampling) -> Iterator[torch.Tensor]:
        """Latents of a chunk's new frames, [8·new_frames, C, 16, 16]."""
        chunks = speak_in_chunks(
            self.transformer, sampling.scheduler, self.temporal_vae, reference, self._codes(speech), noise, sampling.num_inference_steps,
            sampling.together, partial(self._report, sampling))
        return self._computed(chunks, reference)

    def _codes(self, speech: Speech) -> Iterator[torch.Tensor]:
        """Codes [1, F, n, d] of each chunk, its kernel's frames included; before and after the recording, its first and last frame."""
        kernel, new = kernel_video_frames(self.scheduler.config.kernel_frames), FRAMES * self.new_frames
        for start in range(-kernel, len(speech) - kernel, new):
            wanted = np.arange(start, start + kernel + new).clip(0, len(speech) - 1)
            given = torch.from_numpy(speech.features[wanted])[None].to(self._execution_device, self.speech_autoencoder.dtype)
            yield self.speech_autoencoder.encode(given).latent
