"""Stage `asym_teacher`: AsymTalker's transformer by flow matching, each chunk told what the camera saw before it (arXiv 2605.02948).

    temposync train asym_teacher --data FACES --output runs/asym_teacher --set temporal_vae=runs/temporal \\
        --set speech_autoencoder=runs/speech

L = ‖v - (ε - z)‖² + λ_temp·‖Δẑ - Δz‖² + λ_facial·‖ẑ - z‖² at the mouth, of a chunk's new frames; the paper gives neither λ.
"""

import copy
from dataclasses import dataclass

import torch

from ..models.transformer_talking_head import TalkingHeadTransformer
from ..schedulers.scheduling_async_flow_match import per_frame
from ..schedulers.scheduling_chunked_flow_match import ChunkedFlowMatchScheduler
from .chunk_terms import adjacent_differences, facial, flow_matching
from .chunks import ChunkConfig, ChunkSource, chunk_sources, roll_out
from .loop import Losses, make_accelerator, train_loop
from .whole_faces import TransformerConfig, first_transformer, mouth_cells, residual_figures, save_with_scheduler


@dataclass
class Config(TransformerConfig, ChunkConfig):
    output: str = "runs/asym_teacher"
    temporal_weight: float = 0.2
    facial_weight: float = 0.5
    # Noise on the kernel, which when sampling is not what a camera saw.
    kernel_noise: float = 0.1


def draw_levels(count: int, scheduler: ChunkedFlowMatchScheduler, frames: int, device: torch.device) -> torch.Tensor:
    """Noise levels [count, frames]: logit-normal and shifted for the new frames, 0 for the kernel."""
    normal, shift = torch.randn(count, device=device).sigmoid(), scheduler.config.shift
    return scheduler.frame_levels(shift * normal / (1 + (shift - 1) * normal), frames)


@torch.no_grad()
def rollout_figures(model: TalkingHeadTransformer, source: ChunkSource, config: ChunkConfig, count: int = 32) -> dict[str, float]:
    """Of held-out clips, the last of `validation_chunks` chunks made from the model's own kernels: explained variance of the residual to
    the portrait, and its size relative to what the camera saw."""
    clips = source.cache.held_out(count, source.frames_of(config.validation_chunks))
    cold = torch.ones(len(clips.frames), dtype=torch.bool, device=clips.frames.device)
    made = roll_out(model, source, clips, config.validation_chunks, config.validation_steps, config.validation_steps - 1, cold)
    new, decode = slice(-source.new, None), source.temporal.decode
    frames, wanted = (decode(latents, clips.reference).sample[:, :, new] for latents in (made.made, made.chunk.latents))
    return residual_figures(frames, wanted, clips.reference)


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    device = accelerator.device
    source, judged = chunk_sources(config, device)
    scheduler, kernel_frames, weight = source.scheduler, config.kernel_frames, mouth_cells().to(device)
    model = first_transformer(
        config, source.temporal, source.speech, portrait_channels=source.temporal.config.latent_channels)

    def compute_losses(model: torch.nn.Module, progress: float) -> Losses:
        chunk = source.chunk(source.draw(config.batch_size))
        clean, count = chunk.latents, len(chunk.latents)
        start = clean.clone()
        start[:, :, :kernel_frames] += config.kernel_noise * torch.rand(count, 1, 1, 1, 1, device=device) * torch.randn_like(
            clean[:, :, :kernel_frames])
        cold = torch.rand(count, device=device) < config.cold_share
        start[cold, :, :kernel_frames] = 0
        levels, noise = draw_levels(count, scheduler, clean.shape[2], device), torch.randn_like(clean)
        noisy = scheduler.add_noise(start, noise, levels)
        told = torch.rand(count, device=device) >= config.drop_speech
        velocity = model(noisy, levels, chunk.portrait, chunk.codes, given_speech=told).sample.float()
        new = slice(kernel_frames, None)
        estimate = noisy - per_frame(levels) * velocity
        flow = flow_matching(velocity[:, :, new], noise[:, :, new], clean[:, :, new])
        moving = adjacent_differences(*(torch.cat([start[:, :, :kernel_frames], each[:, :, new]], 2) for each in (estimate, clean)))
        face = facial(estimate[:, :, new], clean[:, :, new], weight)
        return {"loss": flow + config.temporal_weight * moving + config.facial_weight * face, "flow": flow, "moving": moving, "face": face}

    return train_loop(config, accelerator, model, copy.deepcopy(model), compute_losses,
                      lambda average: rollout_figures(average, judged, config),
                      lambda average: save_with_scheduler(average, scheduler, config.output))
