"""AsymTalker's sampling (arXiv 2605.02948): chunk after chunk, each from the last frames of the one before, without end."""

from collections.abc import Callable, Iterator

import torch

from ..models.autoencoder_temporal import FRAMES, AutoencoderTemporal
from ..models.transformer_talking_head import TalkingHeadTransformer
from ..schedulers.scheduling_chunked_flow_match import ChunkedFlowMatchScheduler

# (step, noise levels [1, F] after it, latents [1, c, F, h, w]) -> (latents to go on with, whether to)
Report = Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, bool]]


def kernel_video_frames(kernel_frames: int) -> int:
    """Video frames that a chunk's first latent frames stand for: 1 for the first of them, `FRAMES` for each other."""
    return FRAMES * (kernel_frames - 1) + 1


def next_kernel(temporal_vae: AutoencoderTemporal, frames: torch.Tensor, reference: torch.Tensor, kernel_frames: int) -> torch.Tensor:
    """Keyframe-level causal guidance: the kernel [B, c, m, h, w] of what comes after the video frames `frames` [B, C, T, 2h, 2w].

    The last frames are coded again, as the beginning of a clip: latents are passed on as they are only between clips, whose first latent
    frame stands for one video frame, not for eight.
    """
    return temporal_vae.encode(frames[:, :, -kernel_video_frames(kernel_frames):], reference).latent


def denoise_chunk(
    transformer: TalkingHeadTransformer, scheduler: ChunkedFlowMatchScheduler, kernel: torch.Tensor, portrait: torch.Tensor,
    codes: torch.Tensor, draw_noise: Callable[[], torch.Tensor], levels: torch.Tensor, report: Report | None = None,
) -> tuple[torch.Tensor, bool]:
    """One chunk's latents [B, c, F, h, w], the kernel's first, and whether to go on after it.

    Args:
        kernel: [B, c, m, h, w]. portrait: `AutoencoderTemporal.encode_portrait`, [B, c, F, h, w]. codes: of the speech, [B, F, n, d].
        draw_noise: unit noise of the new frames, [B, c, F - m, h, w].
        levels: falling ones, [steps + 1]; where they end above 0, noise is left.
        report: is told of each step; where it says not to go on, the chunk ends as the estimate it is.
    """
    def noise() -> torch.Tensor:
        return torch.cat([torch.zeros_like(kernel), draw_noise().to(kernel)], 2)

    sample, frames = torch.cat([kernel, draw_noise().to(kernel)], 2), codes.shape[1]
    given = torch.ones(len(kernel), dtype=torch.bool, device=kernel.device)
    for step, (level, following) in enumerate(zip(levels, levels[1:])):
        now, then = (scheduler.frame_levels(each.expand(len(kernel)), frames) for each in (level, following))
        velocity = transformer(sample.to(portrait.dtype), now, portrait, codes, given, given).sample.float()
        fresh = noise() if following > 0 else torch.zeros_like(sample)
        sample, clean = scheduler.step(velocity, now, sample, then, fresh, return_dict=False)
        if report is not None:
            sample, go_on = report(step, then, sample)
            if not go_on:
                return clean, False
    return sample, True


@torch.inference_mode()
def speak_in_chunks(
    transformer: TalkingHeadTransformer, scheduler: ChunkedFlowMatchScheduler, temporal_vae: AutoencoderTemporal,
    reference: torch.Tensor, codes: Iterator[torch.Tensor], draw_noise: Callable[[], torch.Tensor], num_steps: int, recode: bool = True,
    report: Report | None = None,
) -> Iterator[torch.Tensor]:
    """÷16 latents of the video's frames, [8·(F - m), C, 2h, 2w] a chunk, for as long as there is speech.

    The portrait stands still before the video begins: that is the first kernel, latents of 0.  All chunks take the same time and memory.

    Args:
        reference: ÷16 latents of the portrait, [1, C, 2h, 2w]. codes: of each chunk's speech, [1, F, n, d], the kernel's frames included.
        recode: False passes the last latent frames on as they are, without decoding and coding them again, to measure what that is worth.
    """
    kernel_frames, levels = scheduler.config.kernel_frames, scheduler.levels(num_steps, reference.device)
    kernel = portrait = None
    for heard in codes:
        if kernel is None or portrait is None:
            portrait = temporal_vae.encode_portrait(reference, FRAMES * (heard.shape[1] - 1) + 1)
            kernel = portrait.new_zeros(portrait[:, :, :kernel_frames].shape, dtype=torch.float32)
        chunk, go_on = denoise_chunk(transformer, scheduler, kernel, portrait, heard, draw_noise, levels, report)
        frames = temporal_vae.decode(chunk.to(reference.dtype), reference).sample
        yield frames[0, :, kernel_video_frames(kernel_frames):].transpose(0, 1)
        if not go_on:
            return
        kernel = next_kernel(temporal_vae, frames, reference, kernel_frames).float() if recode else chunk[:, :, -kernel_frames:]
