"""Audio + portrait -> frames of a whole face that moves: inference of READ (arXiv 2508.03457)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch

from ..errors import InvalidInputError
from ..models.autoencoder_temporal import FRAMES, AutoencoderTemporal
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.face_aligner import FaceAligner
from ..models.lip_motion import LipMotion
from ..models.precision import inference_autocast
from ..models.speech_autoencoder import SpeechAutoencoder
from ..models.transformer_talking_head import TalkingHeadTransformer, with_lips
from ..models.viseme_classifier import VisemeClassifier
from ..schedulers.scheduling_async_flow_match import AsyncFlowMatchScheduler
from .inputs import AudioInput, ImageInput
from .pipeline_output import TempoSyncBatchOutput, TempoSyncPipelineOutput
from .portrait import MAX_SIZE
from .read_sampling import Guidance, clip_count, denoise_clips
from .sampling import CHUNK_SIZE, Sampling, StepCallback
from .settings import Setting
from .speech import Speech
from .whole_face import NoiseSource, WholeFacePipeline


class ReadPipeline(WholeFacePipeline):
    """Makes the whole face in a portrait move with a recording: lips and jaw, lids, brows, and small motions of the head.

    Latents of eight frames each are denoised in clips of `clip_frames`, all clips of the recording together, each joined to the one before
    by a latent frame they share.  What moves is put into the photo at the photo's own resolution, from its own pixels where it shows them;
    outside the face's crop the photo stays untouched.  Memory grows by what a second's latents take, 0.1 MB.

    Args: see `WholeFacePipeline`.

    Settings, where None takes those of the pipeline that the components come from, else the default in `SETTINGS`:
        fps: 25, the only rate that the networks know.
        mouth_amplitude: how far the face moves away from the photo, 1 = as the transformer says.
        clip_frames: latent frames of a clip, one of them shared with the clip before.
        portrait_guidance, speech_guidance: α and β of the paper's Split guidance, or, where they are the same, the weight of its Joint
            guidance (equation 8); 1 for both is none, and the quickest.

    Attributes:
        use_bfloat16: see `TempoSyncPipeline`.
    """

    SETTINGS = WholeFacePipeline.SETTINGS | {
        "clip_frames": Setting(5, least=2, most=16), "portrait_guidance": Setting(1.0, most=20), "speech_guidance": Setting(1.0, most=20)}
    default_steps = 8
    denoises_together = True

    def __init__(
        self,
        vae: AutoencoderTempoSync,
        temporal_vae: AutoencoderTemporal,
        speech_autoencoder: SpeechAutoencoder,
        transformer: TalkingHeadTransformer,
        viseme_classifier: VisemeClassifier,
        lip_motion: LipMotion,
        face_aligner: FaceAligner,
        scheduler: AsyncFlowMatchScheduler,
        fps: int | None = None,
        mouth_amplitude: float | None = None,
        clip_frames: int | None = None,
        portrait_guidance: float | None = None,
        speech_guidance: float | None = None,
    ):
        super().__init__(
            vae, temporal_vae, speech_autoencoder, transformer, viseme_classifier, lip_motion, face_aligner, scheduler, fps=fps,
            mouth_amplitude=mouth_amplitude, clip_frames=clip_frames, portrait_guidance=portrait_guidance,
            speech_guidance=speech_guidance)

    @torch.inference_mode()
    def __call__(
        self,
        image: ImageInput | list[ImageInput],
        audio: AudioInput | list[AudioInput],
        num_inference_steps: int = 8,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        face_index: int = 0,
        mouth_amplitude: float | None = None,
        chunk_size: int = CHUNK_SIZE,
        max_size: int = MAX_SIZE,
        latents: torch.Tensor | None = None,
        still: bool = False,
        portrait_guidance: float | None = None,
        speech_guidance: float | None = None,
        asynchronous: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> TempoSyncPipelineOutput | TempoSyncBatchOutput | tuple:
        """Generate the whole video, or, where portraits or recordings come as a list, as many videos as the longer list.

        Args:
            image, audio, output_type, face_index, max_size: see `TempoSyncPipeline.__call__`.
            num_inference_steps: transformer evaluations a clip.
            generator: source of the clips' noise; a list has one a video.
            mouth_amplitude: scales all motion, 0 = none; None takes the checkpoint's value.
            chunk_size: frames decoded together.
            latents: unit noise that all clips start from, [1 or videos, c, clip_frames, h, w], instead of the generator's.
            still: keep to the mouth: the head's motion is taken back, and nothing changes but the lower face.
            portrait_guidance, speech_guidance: in place of the pipeline's own.
            asynchronous: denoise all clips together, each a step after the one before; False finishes a clip before the next begins, which
                shows at the joints and is there to be measured.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": …}) after each step of the clips that are at work at the
                same time: latents [clips, c, clip_frames, h, w] at the noise levels timestep [clips, clip_frames]; what it returns, in
                the same shape, replaces them. Where it sets `pipeline._interrupt`, the frames so far are returned, and those of the clip
                to be finished next from the estimate as it stands.

        Raises:
            InvalidInputError: a file that cannot be used, or no such face in the picture.
        """
        # 1. Check inputs
        sampling = self._sampling(
            num_inference_steps, chunk_size, mouth_amplitude, output_type, callback_on_step_end, callback_on_step_end_tensor_inputs,
            still=still, portrait_guidance=portrait_guidance, speech_guidance=speech_guidance, asynchronous=asynchronous)
        return self._make_videos(image, audio, sampling, generator, latents, output_type, return_dict, face_index, max_size)

    def _sampling(
        self, *arguments: Any, still: bool = False, portrait_guidance: float | None = None, speech_guidance: float | None = None,
        asynchronous: bool = True, **options: Any,
    ) -> Sampling:
        sampling = super()._sampling(*arguments, **options)
        chosen = {}
        for name, value in (("portrait_guidance", portrait_guidance), ("speech_guidance", speech_guidance)):
            chosen[name] = self.config[name] if value is None else value
            if not isinstance(chosen[name], Real) or not 0 <= chosen[name] <= self.SETTINGS[name].most:
                raise InvalidInputError(f"{name} must lie in [0, {self.SETTINGS[name].most}], got {value!r}.")
        portrait, speech = chosen.values()
        guidance = Guidance(portrait, None if portrait == speech else speech)
        return replace(sampling, composition="still" if still else "face", guidance=guidance, together=asynchronous)

    def prepare_latents(
        self, steps: int, generator: torch.Generator | None = None, latents: torch.Tensor | None = None
    ) -> NoiseSource:
        """Where clips take their unit noise from; `latents` [1, c, clip_frames, h, w] is that of all clips.

        Raises InvalidInputError where it has another shape.
        """
        return self._noise_source(self.config.clip_frames, generator, latents)

    @property
    def latent_frames_together(self) -> int:
        return self.config.clip_frames

    def joints(self, frames: int) -> np.ndarray:
        length = FRAMES * (self.config.clip_frames - 1)
        return np.arange(length + 1, frames, length)

    def _frames(self, reference: torch.Tensor, speech: Speech, noise: NoiseSource, sampling: Sampling) -> Iterator[torch.Tensor]:
        """Latents of consecutive frames, [n, C, 16, 16], clip by clip; the recording's last clip may end after the recording."""
        before, last = None, reference[:0]
        with inference_autocast(reference, self.use_bfloat16):
            clips = denoise_clips(
                self.transformer, sampling.scheduler, reference, self._codes(speech), noise, sampling.num_inference_steps,
                self.config.clip_frames, sampling.guidance, sampling.together, partial(self._report, sampling))
        for clip in self._computed(clips, reference):
            # The decoder hears of the latent frame before.  The last frame of a clip waits for the next one, to which it may be smoothed.
            joined = clip if before is None else torch.cat([before, clip], 2)
            with inference_autocast(reference, self.use_bfloat16):
                frames = self.temporal_vae.decode(joined.to(reference.dtype), reference).sample[0].transpose(0, 1)
            frames = frames[0 if before is None else FRAMES:]
            yield frames[:-1]
            before, last = joined[:, :, -2:], frames[-1:]
        yield last

    def _codes(self, speech: Speech) -> torch.Tensor:
        """Codes [1, F, n, d] of a recording that goes on with its last frame until a clip is full, with the lips' shapes for a transformer
        that is told them."""
        joined = self.config.clip_frames - 1
        needed = FRAMES * joined * clip_count(1 + -(-(len(speech) - 1) // FRAMES), self.config.clip_frames) + 1
        features, lips = (
            torch.from_numpy(np.pad(track, ((0, needed - len(speech)), (0, 0)), mode="edge"))[None].to(self._execution_device)
            for track in (speech.features, speech.lips))
        codes = self.speech_autoencoder.encode(features.to(self.speech_autoencoder.dtype)).latent
        return with_lips(codes, lips) if self.transformer.config.lip_channels else codes
