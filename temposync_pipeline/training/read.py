"""Stage `read`: the transformer that moves a whole face, by flow matching with a noise level for every frame (READ, arXiv 2508.03457).

    temposync train read --data FACES --output runs/read --set temporal_vae=runs/temporal --set speech_autoencoder=runs/speech

Asynchronous noise: the clip's first latent frame, the motion frame that joins it to the clip before, is less noisy than the others, as it
is when clips are denoised together (`schedulers.scheduling_async_flow_match`).

With `--set lips=true` the transformer is told the true shape of the lips, where it is known, beside what is heard; when sampling, what
`models.lip_motion` hears of it.
"""

import copy
from dataclasses import dataclass

import torch

from ..face.lip_shape import NUM_LIP_SHAPE
from ..models.autoencoder_temporal import FRAMES, AutoencoderTemporal
from ..models.speech_autoencoder import SpeechAutoencoder
from ..models.transformer_talking_head import TalkingHeadTransformer, with_lips
from ..schedulers.scheduling_async_flow_match import AsyncFlowMatchScheduler, per_frame
from .face_cache import FaceCache, FaceClips
from .loop import Losses, make_accelerator, train_loop
from .whole_faces import TransformerConfig, first_transformer, load_coders, mouth_cells, residual_figures, save_with_scheduler


@dataclass
class Config(TransformerConfig):
    output: str = "runs/read"
    # Latent frames of a clip.
    clip_frames: int = 5
    # Levels are drawn logit-normally and shifted by t ↦ s·t / (1 + (s - 1)·t), towards more noise.
    shift: float = 2.0
    # Share of clips whose first latent frame is a motion frame, less noisy than the rest, and of those in which it is clean.
    motion_share: float = 0.6
    clean_share: float = 0.3
    # Share of samples without either condition (classifier-free guidance), beside those without speech.
    drop_all: float = 0.05
    # How many times as much the loss counts where the lower face moves.
    mouth_weight: float = 1.0
    # Noise on the motion frame and the reference, which when sampling are not what a camera saw.
    motion_noise: float = 0.1
    # Whether the transformer is told the lips' shapes, with how much noise on them, and the share of samples for which it is not.
    lips: bool = False
    lip_noise: float = 0.1
    drop_lips: float = 0.1
    validation_steps: int = 8


def draw_levels(count: int, frames: int, config: Config, device: torch.device) -> torch.Tensor:
    """Noise levels [count, frames] in (0, 1): one for a clip, a lower one, or 0, for the motion frames among the first frames."""
    normal = torch.randn(count, 2, device=device).sigmoid()
    levels = (config.shift * normal / (1 + (config.shift - 1) * normal)).sort(dim=1).values
    chance = torch.rand(count, 2, device=device)
    lower = torch.where(chance[:, 1] < config.clean_share, torch.zeros_like(levels[:, 0]), levels[:, 0])
    first = torch.where(chance[:, 0] < config.motion_share, lower, levels[:, 1])
    return torch.cat([first[:, None], levels[:, 1:].expand(-1, frames - 1)], 1)


class ClipSource:
    """Clips as the transformer sees them: latents [B, c, F, 8, 8], the reference's ÷16 latents, codes of the speech."""

    def __init__(self, cache: FaceCache, temporal: AutoencoderTemporal, speech: SpeechAutoencoder, config: Config):
        self.cache, self.temporal, self.speech, self.config = cache, temporal, speech, config

    @torch.no_grad()
    def draw(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Half of the clips begin with a sequence's first frame, half in its middle, where the first latent frame stands for eight."""
        config = self.config
        middle = bool(torch.rand(()) < 0.5)
        frames = FRAMES * (config.clip_frames - 1) + 1
        long = middle and bool(torch.rand(()) < 0.5)  # portraits' sequences are too short for one more latent frame
        clips = self.cache.draw(config.batch_size, frames + FRAMES * long)
        latents, reference, codes = self.code(clips, config.feature_noise, config.lip_noise, config.drop_lips)
        return (latents[:, :, 1:], reference, codes[:, 1:]) if middle else (latents, reference, codes)

    @torch.no_grad()
    def code(
        self, clips: FaceClips, noise: float = 0.0, lip_noise: float = 0.0, drop_lips: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        latents = self.temporal.encode(clips.frames, clips.reference).latent.float()
        features = self.speech.normalise(clips.heard)
        codes = self.speech.encode_normalised(features + noise * torch.randn_like(features)).float()
        if self.config.lips:
            lips = clips.lips + lip_noise * torch.randn_like(clips.lips)
            lips[torch.rand(len(lips), device=lips.device) < drop_lips] = torch.nan
            codes = with_lips(codes, lips)
        return latents, clips.reference, codes


@torch.no_grad()
def sample_clip(model: TalkingHeadTransformer, scheduler: AsyncFlowMatchScheduler, noise: torch.Tensor, reference: torch.Tensor,
                codes: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Latents of single clips from `noise` [B, c, F, h, w]: all frames at one level."""
    sample, levels = noise, scheduler.levels(num_steps, noise.device)
    for levels_now in zip(levels, levels[1:]):
        now, following = (level.expand(len(sample), sample.shape[2]) for level in levels_now)
        sample = scheduler.step(model(sample, now, reference, codes).sample.float(), now, sample, following).prev_sample
    return sample


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    device = accelerator.device
    cache, held_out = (FaceCache(config.data, split, device) for split in ("train", "val"))
    temporal, speech = load_coders(config, device)
    scheduler = AsyncFlowMatchScheduler(shift=config.shift)
    source, judged = ClipSource(cache, temporal, speech, config), ClipSource(held_out, temporal, speech, config)
    lip_channels = NUM_LIP_SHAPE if config.lips else 0
    weight = mouth_cells(config.mouth_weight).to(device)
    model = first_transformer(config, temporal, speech, lip_channels, reference_channels=temporal.config.channels)

    def compute_losses(model: torch.nn.Module, progress: float) -> Losses:
        clean, reference, codes = source.draw()
        levels = draw_levels(len(clean), clean.shape[2], config, device)
        noise = torch.randn_like(clean)
        start = clean.clone()
        start[:, :, 0] += config.motion_noise * torch.rand(len(clean), 1, 1, 1, device=device) * torch.randn_like(clean[:, :, 0])
        noisy = scheduler.add_noise(start, noise, levels)
        chance = torch.rand(len(clean), device=device)
        velocity = model(noisy, levels, reference, codes, given_reference=chance >= config.drop_all,
                         given_speech=chance >= config.drop_all + config.drop_speech).sample.float()
        counted = per_frame((levels > 0).float()) * weight
        error = (velocity - (noise - clean)).square() * counted
        return {"loss": error.mean() / counted.mean()}

    @torch.no_grad()
    def validate(average: TalkingHeadTransformer) -> dict[str, float]:
        """Of held-out clips: the loss at a middle level; explained variance and size of what few steps make of noise."""
        clean, reference, codes = judged.code(held_out.held_out(48, FRAMES * (config.clip_frames - 1) + 1))
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, *clean.shape[1:], generator=generator).to(device).expand_as(clean)
        level = torch.full(clean.shape[:1] + clean.shape[2:3], 0.7, device=device)
        velocity = average(scheduler.add_noise(clean, noise, level), level, reference, codes).sample.float()
        made = sample_clip(average, scheduler, noise, reference, codes, config.validation_steps)
        frames, wanted = (temporal.decode(latents, reference).sample for latents in (made, clean))
        return {"velocity": float((velocity - (noise - clean)).square().mean()), **residual_figures(frames, wanted, reference)}

    return train_loop(config, accelerator, model, copy.deepcopy(model), compute_losses, validate,
                      lambda average: save_with_scheduler(average, scheduler, config.output))
