"""Chunks of whole faces, as AsymTalker's teacher and student see them, and what the student makes of its own kernels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..models.autoencoder_temporal import FRAMES, AutoencoderTemporal
from ..models.speech_autoencoder import SpeechAutoencoder
from ..pipelines.asymtalker_sampling import denoise_chunk, kernel_video_frames, next_kernel
from ..schedulers.scheduling_chunked_flow_match import ChunkedFlowMatchScheduler
from .face_cache import FaceCache, FaceClips
from .whole_faces import WholeFaceConfig, load_coders


@dataclass
class ChunkConfig(WholeFaceConfig):
    """What the two stages of AsymTalker share."""

    # Latent frames of a chunk, its kernel's included.
    chunk_frames: int = 5
    kernel_frames: int = 3
    shift: float = 5.0
    # Share of chunks that begin with the still portrait.
    cold_share: float = 0.2
    validation_steps: int = 4
    validation_chunks: int = 2


@dataclass
class Chunk:
    """What a chunk is, told by the camera: latents [B, c, F, h, w], the first of them its kernel; the portrait's latents as long; codes of
    its speech [B, F, n, d]."""

    latents: torch.Tensor
    portrait: torch.Tensor
    codes: torch.Tensor


class ChunkSource:
    """Draws clips and cuts them into chunks of `chunk_frames` latent frames, the kernel's included.

    `feature_noise` is that on the normalised features of the speech: a few hundred sentences must not be learnt by heart.
    """

    def __init__(
        self, cache: FaceCache, temporal: AutoencoderTemporal, speech: SpeechAutoencoder, scheduler: ChunkedFlowMatchScheduler,
        chunk_frames: int, feature_noise: float = 0.0,
    ):
        self.cache, self.temporal, self.speech, self.scheduler = cache, temporal, speech, scheduler
        self.chunk_frames, self.feature_noise = chunk_frames, feature_noise
        self.kernel_frames = scheduler.config.kernel_frames
        self.new = FRAMES * (chunk_frames - self.kernel_frames)
        self.window = kernel_video_frames(self.kernel_frames) + self.new

    def frames_of(self, chunks: int) -> int:
        """Video frames of so many chunks, one after the other, and the first one's kernel."""
        return self.window + self.new * (chunks - 1)

    def draw(self, batch_size: int, chunks: int = 1) -> FaceClips:
        return self.cache.draw(batch_size, self.frames_of(chunks))

    @torch.no_grad()
    def chunk(self, clips: FaceClips, index: int = 0) -> Chunk:
        """The chunk number `index` of clips."""
        part = slice(self.new * index, self.new * index + self.window)
        features = self.speech.normalise(clips.heard[:, part])
        codes = self.speech.encode_normalised(features + self.feature_noise * torch.randn_like(features)).float()
        latents = self.temporal.encode(clips.frames[:, :, part], clips.reference).latent.float()
        return Chunk(latents, self.temporal.encode_portrait(clips.reference, self.window).float(), codes)


def chunk_sources(config: ChunkConfig, device: torch.device) -> tuple[ChunkSource, ChunkSource]:
    """Clips to learn from, and those held out, whose speech is heard as it is."""
    temporal, speech = load_coders(config, device)
    scheduler = ChunkedFlowMatchScheduler(shift=config.shift, kernel_frames=config.kernel_frames)
    learnt, held_out = (ChunkSource(FaceCache(config.data, split, device), temporal, speech, scheduler, config.chunk_frames, noise)
                        for split, noise in (("train", config.feature_noise), ("val", 0.0)))
    return learnt, held_out


@dataclass
class Rollout:
    """The last chunk that a student made: `made` [B, c, F, h, w] begins with `kernel`, its own; `chunk` is what the camera saw."""

    made: torch.Tensor
    kernel: torch.Tensor
    chunk: Chunk


def roll_out(
    model: nn.Module, source: ChunkSource, clips: FaceClips, chunks: int, num_steps: int, exit_step: int, cold: torch.Tensor,
) -> Rollout:
    """The student's chunks, each from the end of the one before; a gradient reaches one step of the last chunk alone.

    Args:
        exit_step: of the last chunk, the step whose estimate is taken; earlier chunks take all `num_steps`.
        cold: bool [B]: what begins with the still portrait, as every video does, instead of the camera's kernel.
    """
    scheduler, kernel_frames = source.scheduler, source.kernel_frames
    levels = scheduler.levels(num_steps, clips.frames.device)
    kernel = source.chunk(clips).latents[:, :, :kernel_frames]
    kernel = torch.where(cold[:, None, None, None, None], torch.zeros_like(kernel), kernel)
    for index in range(chunks):
        chunk = source.chunk(clips, index)
        draw_noise = _noise_like(chunk.latents[:, :, kernel_frames:])
        if index == chunks - 1:
            made = _estimate(model, scheduler, kernel, chunk, draw_noise, levels, exit_step)
            return Rollout(made, kernel, chunk)
        with torch.no_grad():
            whole, _ = denoise_chunk(model, scheduler, kernel, chunk.portrait, chunk.codes, draw_noise, levels)
            frames = source.temporal.decode(whole, clips.reference).sample
            kernel = next_kernel(source.temporal, frames, clips.reference, kernel_frames).float()
    raise ValueError("there must be a chunk")


def _noise_like(latents: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn_like(latents)


def _estimate(
    model: nn.Module, scheduler: ChunkedFlowMatchScheduler, kernel: torch.Tensor, chunk: Chunk, draw_noise: Callable[[], torch.Tensor],
    levels: torch.Tensor, exit_step: int,
) -> torch.Tensor:
    """What the step `exit_step` takes the chunk to be; the steps before it are given."""
    sample = torch.cat([kernel, draw_noise()], 2)
    if exit_step:
        with torch.no_grad():
            sample, _ = denoise_chunk(model, scheduler, kernel, chunk.portrait, chunk.codes, draw_noise, levels[:exit_step + 1])
    now = scheduler.frame_levels(levels[exit_step].expand(len(sample)), sample.shape[2])
    velocity = model(sample, now, chunk.portrait, chunk.codes).sample.float()
    return scheduler.step(velocity, now, sample, torch.zeros_like(now), torch.zeros_like(sample)).pred_original_sample
