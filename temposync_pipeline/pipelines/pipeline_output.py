"""What the pipelines return."""

from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image

from ..media.audio import AudioSource
from ..media.video import VideoWriter
from .latent_video import LatentVideo

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class TempoSyncPipelineOutput(BaseOutput):
    """A talking head.

    Attributes:
        frames: one entry a video frame: list of PIL pictures ("pil"), float32 [T, H, W, 3] in [0, 1] ("np"), float32 [T, 3, H, W] in [0, 1]
            ("pt"), or the generated crop's latents [T, C, 16, 16] ("latent").
        visemes: float32 [T, 15], the probabilities the lips followed.
        fps: frames a second.
        audio: the recording as it was given, a path or (samples, rate).
        latent_video: with output_type "latent", everything that decoding needs (`TempoSyncPipeline.decode_latents`).
    """

    frames: list[Image.Image] | np.ndarray | torch.Tensor
    visemes: np.ndarray
    fps: float
    audio: AudioSource | None = None
    latent_video: LatentVideo | None = None

    def save(self, path: str | PathLike) -> None:
        """Write an mp4 with the original audio."""
        if isinstance(self.frames, torch.Tensor) and self.frames.shape[1] != 3:
            raise ValueError('Latents cannot be saved as a video; use save_latents, or output_type "pil", "np" or "pt".')
        with VideoWriter(path, fps=self.fps, audio_path=self.audio) as writer:
            for frame in self.frames:
                writer.write(_to_uint8(frame))

    def save_latents(self, path: str | PathLike) -> None:
        """Write the safetensors file that `TempoSyncPipeline.decode_to_file` and `temposync decode` turn into the video later."""
        if self.latent_video is None:
            raise ValueError('There are no latents here; ask the pipeline for output_type "latent".')
        self.latent_video.save(path)


def _to_uint8(frame: Image.Image | np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(frame, Image.Image):
        return np.asarray(frame)
    if isinstance(frame, torch.Tensor):
        frame = frame.permute(1, 2, 0).cpu().numpy()
    return np.rint(255 * frame).astype(np.uint8)


def convert_frames(frames: list | torch.Tensor, output_type: str) -> list[Image.Image] | np.ndarray | torch.Tensor:
    """Frames uint8 [H, W, 3], or latents [T, C, 16, 16], in the form that `TempoSyncPipelineOutput.frames` has for the output type."""
    if output_type == "latent":
        return frames
    if output_type == "pil":
        return [Image.fromarray(frame) for frame in frames]
    stacked = np.stack(frames).astype(np.float32) / 255
    return stacked if output_type == "np" else torch.from_numpy(stacked).permute(0, 3, 1, 2)
