"""Audio + portrait -> frames: inference of TempoSyncDiff (algorithm 3 of arXiv 2603.06057)."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import InvalidInputError
from ..face.crop import LATENT_WINDOW, mask_mouth
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.conditioning import gaussian_kernel, latent_window, sharpen_motion, smooth_visemes
from ..models.denoiser_temposync import TempoSyncDenoiser
from ..models.face_aligner import FaceAligner
from ..models.identity_encoder import IdentityEncoder
from ..models.lip_motion import LipMotion
from ..models.precision import has_fast_bfloat16
from ..models.viseme_classifier import Hearing, VisemeClassifier
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from .dialogue import DialoguePipeline
from .dubbing import DubbingPipeline
from .inputs import AudioInput, ImageInput
from .lora import LoraLoaderMixin
from .pipeline_output import TempoSyncBatchOutput, TempoSyncPipelineOutput
from .portrait import MAX_SIZE, Portrait
from .sampling import CHUNK_SIZE, Sampling, StepCallback, unit_noise
from .settings import Setting
from .speaking_mouth import SpeakingMouth
from .speech import Speech
from .talking_head_base import LatentsOfSpeech


class TempoSyncPipeline(LoraLoaderMixin, DubbingPipeline, DialoguePipeline):
    """Makes the person in a portrait speak a recording.

    Only the lower face is generated, in the aligned crop; it is put back into the photo at the photo's own resolution, and
    everything outside stays untouched.  Frames are made `chunk_size` at a time, so memory does not grow with the length.

    Args:
        vae: picture autoencoder. denoiser: the student (few steps) or the teacher (with an "sde" scheduler, 25 steps).
        identity_encoder, viseme_classifier, face_aligner, scheduler: see their classes.
        lip_motion: says how the lips move, to a denoiser that is told of it; None leaves that to the visemes.

    Settings, where None takes those of the pipeline that the components come from, else the default in `SETTINGS`:
        fps: video frames a second.
        mouth_amplitude: how far the mouth moves away from its shape in silence, 1 = as real talkers' (`motion_scale` of the denoiser).
        viseme_smoothing: standard deviation in frames, 0 to 10, of the Gaussian that the visemes are smoothed with.
        latent_smoothing: standard deviation in frames, 0 to 10, of the Gaussian by which a frame's estimate is averaged with its
            neighbours' before the last of a student's steps, 0 = not at all: consecutive frames then start that step from the same teeth,
            and flicker less. From 1.25 on the steps before take every second frame alone, which says as much. Not in the paper.
        motion_floor: root mean square, 0 to 1, of a latent cell's motion at which half of it is kept, in units of the clean residual's
            standard deviation; fainter motion is held still, stronger motion goes on. 0 = off. Not in the paper.
        lip_sharpening: how much of the lips' quick motion is given back beforehand that smoothing will take, in frames², 0 to 2
            (`models.conditioning.sharpen_motion`); half the square of what is smoothed by gives back all of it. Not in the paper.

    Attributes:
        use_bfloat16: whether denoiser and autoencoder multiply in bfloat16 on a CPU; from the start true where the CPU does so in hardware,
            which about halves the time of a frame. Measured on one video of the bundled checkpoint, frames of float32 and bfloat16
            differed by 68 dB of PSNR, at most 2 of 255 levels.
    """

    SETTINGS = {
        "fps": Setting(25, least=1, most=240), "mouth_amplitude": Setting(1.0, most=3),
        "viseme_smoothing": Setting(0.5, most=10, unit=" frames"), "latent_smoothing": Setting(0.0, most=10, unit=" frames"),
        "lip_sharpening": Setting(0.0, most=2, unit=" frames²"), "motion_floor": Setting(0.0, most=1)}
    model_cpu_offload_seq = "face_aligner->viseme_classifier->lip_motion->identity_encoder->denoiser->vae"
    _optional_components = ["lip_motion"]
    _callback_tensor_inputs = ["latents", "reference", "context", "visemes", "lips", "identity"]
    default_steps = 4

    def __init__(
        self,
        vae: AutoencoderTempoSync,
        denoiser: TempoSyncDenoiser,
        identity_encoder: IdentityEncoder,
        viseme_classifier: VisemeClassifier,
        face_aligner: FaceAligner,
        scheduler: TempoSyncScheduler,
        fps: int | None = None,
        mouth_amplitude: float | None = None,
        viseme_smoothing: float | None = None,
        latent_smoothing: float | None = None,
        motion_floor: float | None = None,
        lip_motion: LipMotion | None = None,
        lip_sharpening: float | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae, denoiser=denoiser, identity_encoder=identity_encoder, viseme_classifier=viseme_classifier,
            face_aligner=face_aligner, scheduler=scheduler, lip_motion=lip_motion)
        self.register_settings(
            fps=fps, mouth_amplitude=mouth_amplitude, viseme_smoothing=viseme_smoothing, latent_smoothing=latent_smoothing,
            motion_floor=motion_floor, lip_sharpening=lip_sharpening)
        self.use_bfloat16 = has_fast_bfloat16()

    @classmethod
    def _take_folders(cls, overrides: dict[str, Any]) -> dict[str, str]:
        folder = overrides.get("denoiser", "denoiser")
        if not isinstance(folder, str):
            return {}
        overrides.pop("denoiser", None)
        if folder == "teacher":
            overrides.setdefault("scheduler", TempoSyncScheduler(prediction="sde"))
        return {"denoiser": folder}

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
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        blink_rate: float = 0.0,
        head_motion: float = 0.0,
        still: bool = False,
    ) -> TempoSyncPipelineOutput | TempoSyncBatchOutput | tuple:
        """Generate the whole video, or, where portraits or recordings come as a list, as many videos as the longer list.

        Args:
            image: portrait: a picture file, its bytes, a PIL picture, uint8 [H, W, 3], or a tensor [3, H, W] in [0, 1]; or several, as a
                list or [B, …]. See `inputs.as_image`.
            audio: an audio file, its bytes, (samples float [N] or [N, channels], sampling rate), or a 🤗 `Audio` dict; or a list of them.
                See `inputs.as_audio`.
            num_inference_steps: denoiser evaluations a frame; where `latent_smoothing` lets it, before the last half as many, and of three
                or more the first once for all frames. 1 to 8 for the student, any number for the teacher.
            generator: source of the noise that all frames of a video share; a list has one a video.
            output_type: "pil", "np", "pt" or "latent", see `TempoSyncPipelineOutput`.
            face_index: which face speaks, 0 = the largest.
            mouth_amplitude: scales the motion of the mouth, 0 = none; None takes the checkpoint's value.
            chunk_size: frames generated together; the first time eight, where it is a multiple of them, so that the rest can begin. With
                `latent_smoothing` σ, all steps but the last take ⌈2σ⌉ frames or one more at either end along: those of the next chunk are
                then done, unless there is a callback.
            max_size: longer side of the video in pixels; larger photos are shrunk to it. 0 = as the photo.
            latents: unit noise that the first step starts from, [1 or videos, C, h, w], instead of the generator's.
            callback_on_step_end: called as (pipeline, step, timestep, tensors) after each denoising step of each chunk, with those of
                `callback_on_step_end_tensor_inputs` (`_callback_tensor_inputs` are to be had); what it returns, in the same shape, replaces
                them. A student's are, before its last step, of some frames more or fewer (`chunk_size`, `latent_smoothing`). Where it
                sets `pipeline._interrupt`, the frames so far are returned, those of the current chunk from the estimate as it stands.
            blink_rate, head_motion: 0 to 2; 1 = as talkers blink and move their heads (`face.life`), drawn with the `generator`.
            still: neither, whatever the two say: nothing but the lower face changes.

        Raises:
            InvalidInputError: a file that cannot be used, no such face in the picture, or more steps than the student takes.
        """
        # 1. Check inputs
        sampling = self._sampling(
            num_inference_steps, chunk_size, mouth_amplitude, output_type, callback_on_step_end, callback_on_step_end_tensor_inputs,
            blink_rate=blink_rate, head_motion=head_motion, still=still)
        return self._make_videos(image, audio, sampling, generator, latents, output_type, return_dict, face_index, max_size)

    def _sampling(
        self, *arguments: Any, blink_rate: float = 0.0, head_motion: float = 0.0, still: bool = False, **options: Any
    ) -> Sampling:
        sampling = super()._sampling(*arguments, **options)
        self.scheduler.check_steps(sampling.num_inference_steps)
        for name, value in (("blink_rate", blink_rate), ("head_motion", head_motion)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 2:
                raise InvalidInputError(f"{name} must lie in [0, 2], got {value!r}.")
        return sampling if still else replace(sampling, blink_rate=blink_rate, head_motion=head_motion)

    @property
    def speech_reach(self) -> int:
        lips = self.lip_motion.reach + 1 if self.lip_motion else 0  # and a frame for what is sharpened
        return max(lips, len(gaussian_kernel(self.config.viseme_smoothing)) // 2)

    def _to_speech(self, hearing: Hearing) -> Speech:
        lips = sharpen_motion(self.lip_motion.predict(hearing), self.config.lip_sharpening) if self.lip_motion else None
        return Speech(smooth_visemes(hearing.visemes, self.config.viseme_smoothing), lips, loudness=hearing.loudness[:, None])

    def _conditions(self, crop: np.ndarray, latents: torch.Tensor) -> Mapping[str, torch.Tensor]:
        identity = self.identity_encoder(latents.to(self.identity_encoder.dtype))
        return {"context": latent_window(self._encode(mask_mouth(crop))), "identity": identity}

    def prepare_latents(self, steps: int, generator: torch.Generator | None = None, latents: torch.Tensor | None = None) -> torch.Tensor:
        """Unit noise of every step, [steps, 1, C, h, w], one tensor for all frames, so that the noise itself does not flicker.

        `latents` [1, C, h, w] is that of the first. Raises InvalidInputError where it has another shape.
        """
        shape = (1, self.denoiser.config.latent_channels, *LATENT_WINDOW[2:])
        noise = unit_noise((steps, *shape), generator)
        if latents is not None:
            if tuple(latents.shape) != shape:
                raise InvalidInputError(f"latents: {list(latents.shape)}, expected {list(shape)}, or one of them a video")
            noise[0] = latents
        return noise.to(self._execution_device, self.denoiser.dtype)

    def _latent_chunks(
        self, portrait: Portrait, speech: Speech, noise: torch.Tensor, sampling: Sampling
    ) -> Generator[torch.Tensor, None, None]:
        """Generated latents on the crop's full grid, [n, C, 16, 16] a chunk."""
        yield from self._begin_latents(portrait, noise, sampling)(speech)

    def _begin_latents(self, portrait: Portrait, noise: torch.Tensor, sampling: Sampling) -> LatentsOfSpeech:
        mouth = self._mouth(portrait, noise, sampling)

        def latents_of(speech: Speech) -> Generator[torch.Tensor, None, None]:
            for frames in sampling.chunks(len(speech)):
                yield mouth(speech, frames)
                if sampling.interrupted:
                    return

        return latents_of

    def _mouth(self, portrait: Portrait, noise: torch.Tensor, sampling: Sampling) -> SpeakingMouth:
        return SpeakingMouth(self, portrait, noise, sampling)
