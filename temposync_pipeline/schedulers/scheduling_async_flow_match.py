"""Asynchronous noise scheduler (ANS) of READ, arXiv 2508.03457, section 3.4: flow matching in which every frame has a level of its own.

A long video is made of clips that share one latent frame with the clip before, the motion frame.  All are denoised together; the motion
frame of a clip is what its neighbour's last frame has just become, one level less noisy than the rest.  No clip is finished before the
next one begins, so none has to continue what it had no say in, and there is no seam.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..bases import BaseOutput, ConfigMixin, SchedulerMixin, register_to_config


@dataclass
class AsyncFlowMatchSchedulerOutput(BaseOutput):
    """prev_sample: the sample one step on; pred_original_sample: what it would be without noise; [B, c, F, h, w]."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


def waves(num_clips: int, num_steps: int) -> Iterator[list[tuple[int, int]]]:
    """What can be computed at the same time: lists of (clip, step), each step after the same step of the clip before.

    Clip k takes its step i in wave k + i, so no wave has more than `num_steps` clips, and clip k is finished after wave k + num_steps - 1.
    """
    for wave in range(num_clips + num_steps - 1):
        yield [(clip, wave - clip) for clip in range(max(0, wave - num_steps + 1), min(num_clips, wave + 1))]


def per_frame(levels: torch.Tensor) -> torch.Tensor:
    """Levels [B, F] as they meet latents [B, c, F, h, w]."""
    return levels[:, None, :, None, None]


class FrameLevels:
    """For schedulers of flow matching with a level t in [0, 1] for each frame and a `shift`: z(t) = (1 - t)·z + t·ε."""

    config: Any

    def levels(self, num_steps: int, device: str | torch.device | None = None) -> torch.Tensor:
        """Levels from 1 to 0, float32 [num_steps + 1]."""
        even = torch.linspace(1, 0, num_steps + 1, device=device)
        return self.config.shift * even / (1 + (self.config.shift - 1) * even)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """`timesteps` [num_inference_steps]: the levels that steps start from."""
        self.timesteps = self.levels(num_inference_steps, device)[:-1]

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Samples [B, c, F, h, w] at levels [B, F] in [0, 1]; frames at level 0 stay to the bit."""
        return torch.lerp(original_samples, noise, per_frame(timesteps.to(original_samples)))


class AsyncFlowMatchScheduler(FrameLevels, SchedulerMixin, ConfigMixin):
    """z(t) = (1 - t)·z + t·ε with a level t in [0, 1] for each frame; models say the velocity ε - z.

    It keeps no step counter: levels are arguments, so that one scheduler serves many clips, and many threads, at once.

    Args:
        shift: levels t ↦ s·t / (1 + (s - 1)·t); above 1, more of the steps are spent on high noise (Esser et al. 2024).
    """

    order = 1

    @register_to_config
    def __init__(self, shift: float = 2.0):
        if not shift > 0:
            raise ValueError(f"shift must be above 0, got {shift}.")
        self.timesteps = self.levels(8)[:-1]

    def clip_levels(self, levels: torch.Tensor, clips: torch.Tensor, steps: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(now, next), [B, frames] each: the levels of clips [B] at steps [B].

        All frames go from t_i to t_{i+1}, but for the motion frame of every clip except clip 0: it is at t_{i+1} already, and stays.
        """
        now, following = (levels[index][:, None].expand(-1, frames).clone() for index in (steps, steps + 1))
        now[:, 0] = torch.where(clips > 0, following[:, 0], now[:, 0])
        return now, following

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, next_timestep: torch.Tensor,
        return_dict: bool = True,
    ) -> AsyncFlowMatchSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """One step of Euler's method, each frame from its own level to its own next one.

        Args:
            model_output: velocity, like `sample` [B, c, F, h, w]. timestep, next_timestep: levels [B, F] in [0, 1].

        Raises:
            ValueError: levels of another shape than the sample's frames, or rising ones.
        """
        if timestep.shape != (len(sample), sample.shape[2]) or next_timestep.shape != timestep.shape:
            raise ValueError(f"levels must be {[len(sample), sample.shape[2]]}, got {list(timestep.shape)} and {list(next_timestep.shape)}")
        if (next_timestep > timestep).any():
            raise ValueError("a frame's next level is above its own: noise is not added when sampling")
        clean = sample - per_frame(timestep) * model_output
        previous = sample + per_frame(next_timestep - timestep) * model_output
        if not return_dict:
            return previous, clean
        return AsyncFlowMatchSchedulerOutput(prev_sample=previous, pred_original_sample=clean)
