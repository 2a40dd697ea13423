"""Sampler of AsymTalker (arXiv 2605.02948): flow matching in few steps, for chunks that begin with frames that are there already.

The first frames of a chunk, its kernel, are the last ones of the chunk before: they are held clean while the others are made.  Each step
estimates the clean frames and takes noise anew to the next level, so that an error of one step is not carried through all.
"""

from dataclasses import dataclass

import torch

from ..bases import BaseOutput, ConfigMixin, SchedulerMixin, register_to_config
from .scheduling_async_flow_match import FrameLevels, per_frame


@dataclass
class ChunkedFlowMatchSchedulerOutput(BaseOutput):
    """prev_sample: the sample at its next level; pred_original_sample: what it would be without noise; [B, c, F, h, w]."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class ChunkedFlowMatchScheduler(FrameLevels, SchedulerMixin, ConfigMixin):
    """z(t) = (1 - t)·z + t·ε; models say the velocity ε - z; the kernel's frames are at level 0 throughout.

    It keeps no step counter: levels are arguments.

    Args:
        shift: levels t ↦ s·t / (1 + (s - 1)·t) of even ones; with 5 and four steps, 1, 0.94, 0.83 and 0.63.
        kernel_frames: latent frames that a chunk has in common with the one before (m in the paper).
    """

    order = 1

    @register_to_config
    def __init__(self, shift: float = 5.0, kernel_frames: int = 3):
        self.timesteps = self.levels(4)[:-1]

    def frame_levels(self, levels: torch.Tensor, frames: int) -> torch.Tensor:
        """Levels [B, frames] of chunks whose new frames are at `levels` [B]: 0 for the kernel."""
        spread = levels[:, None].repeat(1, frames)
        spread[:, :self.config.kernel_frames] = 0
        return spread

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, next_timestep: torch.Tensor, noise: torch.Tensor,
        return_dict: bool = True,
    ) -> ChunkedFlowMatchSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Estimate the clean frames, ẑ = z(t) - t·v, and take them to their next level with `noise`.

        Args:
            model_output: velocity, like `sample` [B, c, F, h, w]. timestep, next_timestep: levels [B, F] in [0, 1]. noise: like `sample`.

        Raises:
            ValueError: levels of another shape than the sample's frames, or rising ones.
        """
        if timestep.shape != (len(sample), sample.shape[2]) or next_timestep.shape != timestep.shape:
            raise ValueError(f"levels must be {[len(sample), sample.shape[2]]}, got {list(timestep.shape)} and {list(next_timestep.shape)}")
        if (next_timestep > timestep).any():
            raise ValueError("a frame's next level is above its own")
        clean = sample - per_frame(timestep) * model_output
        previous = self.add_noise(clean, noise, next_timestep)
        if not return_dict:
            return previous, clean
        return ChunkedFlowMatchSchedulerOutput(prev_sample=previous, pred_original_sample=clean)
