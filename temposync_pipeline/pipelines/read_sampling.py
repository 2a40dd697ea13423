"""READ's sampling: all clips of a recording denoised together, as a stream of finished latents."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from ..models.transformer_talking_head import TalkingHeadTransformer
from ..schedulers.scheduling_async_flow_match import AsyncFlowMatchScheduler, waves

# (number of the step, noise levels [clips, F] after it, latents [clips, c, F, h, w]) -> (latents to go on with, whether to)
Report = Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, bool]]


@dataclass(frozen=True)
class Guidance:
    """How far conditions are followed beyond what the model says (READ, arXiv 2508.03457, equation 8); 1 costs nothing.

    Joint, where `speech` is None: v_∅ + portrait·(v_{R,C} - v_∅).  Split: v_∅ + portrait·(v_R - v_∅) + speech·(v_{R,C} - v_R).
    """

    portrait: float = 1.0
    speech: float | None = None

    def __call__(self, velocity: Callable[[bool, bool], torch.Tensor]) -> torch.Tensor:
        """The guided velocity; `velocity(portrait given, speech given)` asks the model."""
        everything = velocity(True, True)
        if self.speech is None:
            if self.portrait == 1:
                return everything
            nothing = velocity(False, False)
            return nothing + self.portrait * (everything - nothing)
        face = velocity(True, False)
        guided = face + self.speech * (everything - face)
        if self.portrait == 1:
            return guided
        nothing = velocity(False, False)
        return guided + (self.portrait - 1) * (face - nothing)


def clip_count(frames: int, clip_frames: int) -> int:
    """Clips that cover latent frames, with one frame in common between neighbours; at least 1."""
    return max(1, -(-(frames - 1) // (clip_frames - 1)))


def _velocity(
    transformer: TalkingHeadTransformer, sample: torch.Tensor, levels: torch.Tensor, reference: torch.Tensor, speech: torch.Tensor,
    portrait: bool, heard: bool,
) -> torch.Tensor:
    """What the model says, given the portrait and the speech or not."""
    given = (torch.full((len(sample),), value, device=sample.device) for value in (portrait, heard))
    return transformer(sample.to(reference.dtype), levels, reference.expand(len(sample), -1, -1, -1), speech, *given).sample.float()


@torch.inference_mode()
def denoise_clips(
    transformer: TalkingHeadTransformer, scheduler: AsyncFlowMatchScheduler, reference: torch.Tensor, codes: torch.Tensor,
    draw_noise: Callable[[], torch.Tensor], num_steps: int, clip_frames: int, guidance: Guidance = Guidance(), together: bool = True,
    report: Report | None = None,
) -> Iterator[torch.Tensor]:
    """Latents [1, c, n, h, w] in the order of time: `clip_frames` of the first clip, one fewer of each later one.

    Args:
        reference: ÷16 latents of the portrait, [1, C, 2h, 2w]. codes: of the speech, [1, F, n, d], F = 1 + k·(clip_frames - 1).
        draw_noise: a clip's noise, [1, c, clip_frames, h, w]; called once a clip, in the order of time.
        report: is told of each step, and says what to go on with and whether to; where not, the clip that would be finished next ends as
            the estimate it is.
        together: False finishes each clip before the next one begins, with a clean motion frame (what ANS is measured against).
    """
    count, levels = clip_count(codes.shape[1], clip_frames), scheduler.levels(num_steps, codes.device)
    clips: dict[int, torch.Tensor] = {}
    order = waves(count, num_steps) if together else ([(clip, step)] for clip in range(count) for step in range(num_steps))
    for number, wave in enumerate(order):
        for clip, step in wave:
            if step == 0:
                clips[clip] = draw_noise()
            if clip > 0:
                clips[clip][:, :, 0] = clips[clip - 1][:, :, -1]
        numbers, steps = torch.tensor(wave, device=codes.device).unbind(1)
        sample = torch.cat([clips[clip] for clip, _ in wave])
        speech = torch.cat([codes[:, clip * (clip_frames - 1):][:, :clip_frames] for clip, _ in wave])
        now, following = scheduler.clip_levels(levels, numbers, steps, clip_frames)
        if not together:
            now[:, 0] = following[:, 0] = torch.where(numbers > 0, torch.zeros_like(now[:, 0]), now[:, 0])
            following[:, 0] = torch.where(numbers > 0, torch.zeros_like(now[:, 0]), levels[steps + 1])

        velocity = partial(_velocity, transformer, sample, now, reference, speech)
        sample, estimate = scheduler.step(guidance(velocity), now, sample, following, return_dict=False)
        if report is not None:
            sample, go_on = report(number, following, sample)
            if not go_on:
                yield estimate[:1, :, wave[0][0] > 0:]
                return
        for row, (clip, _) in enumerate(wave):
            clips[clip] = sample[row:row + 1]
        for clip, step in wave:
            if step == num_steps - 1:
                yield clips[clip][:, :, clip > 0:]
                # Its neighbour still needs its last frame.
                clips.pop(clip - 1, None)
