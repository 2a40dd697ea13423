"""Audio + portrait -> frames: inference of TempoSyncDiff (algorithm 3 of arXiv 2603.06057)."""

from collections.abc import Iterator
from os import PathLike

import numpy as np
import torch
from PIL import Image

from ..errors import InvalidInputError
from ..media.audio import load_audio
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.conditioning import gaussian_kernel, latent_window, quiet_faint_motion, silent_windows, smooth_latents, viseme_windows
from ..models.denoiser_temposync import TempoSyncDenoiser
from ..models.face_aligner import FaceAligner
from ..models.identity_encoder import IdentityEncoder
from ..models.precision import has_fast_bfloat16, inference_autocast
from ..models.viseme_classifier import VisemeClassifier
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from .pipeline_output import TempoSyncPipelineOutput, convert_frames
from .portrait import Portrait
from .talking_head import StepCallback, TalkingHeadPipeline

MAX_SMOOTHING = 10


class TempoSyncPipeline(TalkingHeadPipeline):
    """Makes the person in a portrait speak a recording.

    Only the lower face is generated, in the aligned crop; it is put back into the photo at the photo's own resolution, and
    everything outside stays untouched.  Frames are made `chunk_size` at a time, so memory does not grow with the length.

    Args:
        vae: picture autoencoder. denoiser: the student (few steps) or the teacher (with an "sde" scheduler, 25 steps).
        identity_encoder, viseme_classifier, face_aligner, scheduler: see their classes.
        fps: video frames a second.
        mouth_amplitude: how far the mouth moves away from its shape in silence, 1 = as real talkers' (`motion_scale` of the denoiser).
        viseme_smoothing: standard deviation in frames, 0 to 10, of the Gaussian that the visemes are smoothed with.
        latent_smoothing: standard deviation in frames, 0 to 10, of the Gaussian by which a frame's estimate is averaged with its
            neighbours' before the last of a student's steps, 0 = not at all: consecutive frames then start that step from the same teeth,
            and flicker less. Not in the paper.
        motion_floor: root mean square, 0 to 1, of a latent cell's motion at which half of it is kept, in units of the clean residual's
            standard deviation; fainter motion is held still, stronger motion goes on. 0 = off. Not in the paper.

    Attributes:
        use_bfloat16: whether denoiser and decoder multiply in bfloat16 on a CPU; from the start true where the CPU does so in hardware,
            which about halves the time of a frame. Measured on one video of the bundled checkpoint, frames of float32 and bfloat16
            differed by 68 dB of PSNR, at most 2 of 255 levels.
    """

    model_cpu_offload_seq = "face_aligner->viseme_classifier->identity_encoder->denoiser->vae"

    def __init__(
        self,
        vae: AutoencoderTempoSync,
        denoiser: TempoSyncDenoiser,
        identity_encoder: IdentityEncoder,
        viseme_classifier: VisemeClassifier,
        face_aligner: FaceAligner,
        scheduler: TempoSyncScheduler,
        fps: int = 25,
        mouth_amplitude: float = 1.0,
        viseme_smoothing: float = 0.5,
        latent_smoothing: float = 0.0,
        motion_floor: float = 0.0,
    ):
        super().__init__()
        settings = (("viseme_smoothing", viseme_smoothing, MAX_SMOOTHING, " frames"),
                    ("latent_smoothing", latent_smoothing, MAX_SMOOTHING, " frames"), ("motion_floor", motion_floor, 1, ""))
        for name, value, most, unit in settings:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
                raise InvalidInputError(f"{name} must lie in [0, {most}]{unit}, got {value!r}")
        self.register_modules(
            vae=vae, denoiser=denoiser, identity_encoder=identity_encoder, viseme_classifier=viseme_classifier,
            face_aligner=face_aligner, scheduler=scheduler)
        self.register_to_config(
            fps=fps, mouth_amplitude=mouth_amplitude, viseme_smoothing=viseme_smoothing, latent_smoothing=latent_smoothing,
            motion_floor=motion_floor)
        self.use_bfloat16 = has_fast_bfloat16()

    @torch.inference_mode()
    def __call__(
        self,
        image: str | PathLike | Image.Image | np.ndarray,
        audio: str | PathLike | tuple[np.ndarray, int],
        num_inference_steps: int = 4,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        face_index: int = 0,
        mouth_amplitude: float | None = None,
        chunk_size: int = 16,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> TempoSyncPipelineOutput | tuple:
        """Generate the whole video.

        Args:
            image: portrait: a picture file of any format that `media.image` reads, a PIL picture, or uint8 [H, W, 3].
            audio: an audio file, or (samples float [N] or [N, channels], sampling rate).
            num_inference_steps: denoiser evaluations a frame; 1 to 8 for the student, any number for the teacher.
            generator: source of the one noise tensor that all frames share.
            output_type: "pil", "np", "pt" or "latent", see `TempoSyncPipelineOutput`.
            face_index: which face speaks, 0 = the largest.
            mouth_amplitude: scales the motion of the mouth, 0 = none; None takes the checkpoint's value.
            chunk_size: frames generated together. With `latent_smoothing` σ, all steps but the last take ⌈2σ⌉ frames more at either end
                along, which small chunks pay for.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": …}) after each denoising step of each chunk; what it
                returns under "latents", in the same shape, replaces them. A student's include the frames that `chunk_size` speaks of.

        Raises:
            InvalidInputError: a file that cannot be used, no such face in the picture, or more steps than the student takes.
        """
        self._check_inputs(output_type, num_inference_steps, chunk_size, mouth_amplitude, callback_on_step_end_tensor_inputs)
        recording = load_audio(audio)
        visemes = self._predict_visemes(recording)
        portrait = self.prepare_portrait(image, face_index)
        # Latents of a long recording fill much memory: they go straight to where they stay.
        frames = torch.empty(len(visemes), *portrait.latents.shape[1:], dtype=portrait.latents.dtype) if output_type == "latent" else []
        done = 0
        with self.progress_bar(total=len(visemes)) as bar:
            for latents in self._latent_chunks(
                    portrait, visemes, num_inference_steps, generator, chunk_size, mouth_amplitude, callback_on_step_end):
                if output_type == "latent":
                    frames[done:done + len(latents)] = latents
                else:
                    frames += self._render(portrait, latents)
                done += len(latents)
                bar.update(len(latents))
        output = TempoSyncPipelineOutput(frames=convert_frames(frames, output_type), visemes=visemes, fps=self.config.fps, audio=audio)
        if output_type == "latent":
            output.latent_video = self._latent_video(portrait, output.frames, visemes, audio, chunk_size)
        return output if return_dict else (output.frames, visemes)

    def _latent_chunks(
        self, portrait: Portrait, visemes: np.ndarray, steps: int, generator: torch.Generator | None, chunk_size: int,
        mouth_amplitude: float | None, callback: StepCallback | None = None,
    ) -> Iterator[torch.Tensor]:
        """Generated latents on the crop's full grid, [n, C, 16, 16] a chunk.

        Motion counts from the mouth's shape in silence.  That of a closed mouth is the photo's own, to the pixel; only lips that the
        photo shows parted are closed by the denoiser first.
        """
        config, dtype = self.denoiser.config, self.denoiser.dtype
        amplitude = config.motion_scale * (self.config.mouth_amplitude if mouth_amplitude is None else mouth_amplitude)
        reference = latent_window(portrait.latents)
        # One noise tensor a step for all frames, so that the noise itself does not flicker.
        noise = torch.randn((steps, 1, *reference.shape[1:]), generator=generator, device=generator.device if generator else "cpu")
        noise = noise.to(self.device, dtype)
        # Beyond the ends of the recording its end frames go on.
        margin = self._smoothing_radius(steps)

        def residual(windows: np.ndarray, callback: StepCallback | None = None) -> torch.Tensor:
            count = len(windows)
            given = {
                "reference": reference.expand(count, -1, -1, -1), "context": portrait.context.expand(count, -1, -1, -1),
                "visemes": torch.from_numpy(windows.copy()).to(self.device, dtype), "identity": portrait.identity.expand(count, -1)}
            return self._denoise(noise, given, callback)

        in_silence = residual(silent_windows(1 + 2 * margin, config.viseme_window))
        closing = portrait.parted * quiet_faint_motion(in_silence, self.config.motion_floor)
        windows = viseme_windows(np.pad(visemes, ((margin, margin), (0, 0)), mode="edge"), config.viseme_window)
        for start in range(0, len(visemes), chunk_size):
            motion = residual(windows[start:start + chunk_size + 2 * margin], callback) - in_silence
            moved = closing + amplitude * quiet_faint_motion(motion, self.config.motion_floor)
            latents = portrait.latents.repeat(len(moved), 1, 1, 1)
            latent_window(latents).add_(config.residual_scale * moved)
            yield latents

    def _denoise(
        self, noise: torch.Tensor, given: dict[str, torch.Tensor], callback: StepCallback | None
    ) -> torch.Tensor:
        """Clean residual in units of its standard deviation, [n, C, h, w], of the n frames that have all their neighbours in `given`.

        `noise` is [steps, 1, C, h, w].
        """
        self.scheduler.set_timesteps(len(noise), device=self.device)
        latents = (noise[0] * self.scheduler.init_noise_sigma).expand_as(given["reference"])
        for index, timestep in enumerate(self.scheduler.timesteps):
            with inference_autocast(latents, self.use_bfloat16):
                raw = self.denoiser(self.scheduler.scale_model_input(latents, timestep), timestep, **given).sample.to(latents.dtype)
            # After the last step comes level 0, where noise counts for nothing.
            latents = self.scheduler.step(raw, timestep, latents, noise=noise[(index + 1) % len(noise)]).prev_sample
            if callback is not None:
                changed = callback(self, index, timestep, {"latents": latents}) or {}
                latents = changed.get("latents", latents)
            if index == len(noise) - 2 and (radius := self._smoothing_radius(len(noise))):
                # The scheduler gave all frames the same noise: this averages the estimates and leaves the noise as it is.
                latents = smooth_latents(latents, self.config.latent_smoothing)
                given = {name: value[radius:-radius] for name, value in given.items()}
        return latents

    def _smoothing_radius(self, steps: int) -> int:
        """Neighbours on either side that `latent_smoothing` asks for.

        A single step has no estimate to smooth; the teacher's many steps end so near to clean latents that it would smooth the motion.
        """
        few = steps > 1 and self.scheduler.config.prediction == "consistency"
        return len(gaussian_kernel(self.config.latent_smoothing)) // 2 if few else 0
