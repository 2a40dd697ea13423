"""Stage `temporal`: READ's temporal autoencoder, on ÷16 latents of whole faces that move (`training.face_latents`).

    temposync train temporal --data FACES --init temposync-tiny --output runs/temporal

Most of a picture does not move, and its mean error hides what does: losses count most where a frame differs from its reference, and a
pixel loss through the frozen picture decoder keeps lips and lids from being softened.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch

from ..models.autoencoder_temporal import AutoencoderTemporal
from ..models.autoencoder_temposync import AutoencoderTempoSync
from .checkpointing import save_weights
from .denoising import load_component
from .face_cache import FaceCache, FaceClips
from .latent_cache import LIPS
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .losses import huber

# From which error on a difference counts linearly, in deviations of latents and in half a picture's range.
LATENT_KNEE, PIXEL_KNEE = 1.0, 0.2


@dataclass
class Config(LoopConfig):
    output: str = "runs/temporal"
    batch_size: int = 8
    learning_rate: float = 1e-3
    # Of the picture autoencoder, whose decoder the pixel loss looks through.
    vae: str = "runs/autoencoder"
    frames: int = 33
    latent_channels: int = 128
    frame_channels: int = 72
    width: int = 128
    # A loss counts 1 + motion_weight · (motion over its mean), at most max_weight.
    motion_weight: float = 1.0
    max_weight: float = 10.0
    difference_weight: float = 0.5
    # Pairs of neighbouring frames a step that are decoded to pixels.
    pixel_pairs: int = 8
    pixel_weight: float = 10.0
    # Noise on the latents, as a share of each channel's own size: what diffusion cannot tell apart must not matter.
    latent_noise: float = 0.1


def motion_weight(moved: torch.Tensor, config: Config) -> torch.Tensor:
    """Weights, mean over channels kept at 1 dim, of a difference to the reference; pictures or latents [B, C, ...]."""
    size = moved.abs().mean(1, keepdim=True)
    return (1 + config.motion_weight * size / size.mean().clamp(min=1e-6)).clamp(max=config.max_weight)


def latent_terms(made: torch.Tensor, clips: FaceClips, config: Config) -> Losses:
    """Distance of latents [B, C, T, h, w] to the true ones, and of their change from frame to frame."""
    weight = motion_weight(clips.frames - clips.reference[:, :, None], config)
    change = huber(made.diff(dim=2) - clips.frames.diff(dim=2), LATENT_KNEE)
    return {"latent": (weight * huber(made - clips.frames, LATENT_KNEE)).mean(), "change": (weight[:, :, 1:] * change).mean()}


def pixel_term(vae: AutoencoderTempoSync, made: torch.Tensor, clips: FaceClips, config: Config) -> torch.Tensor:
    """The same in pixels, for random pairs of neighbouring frames."""
    batch, frames = len(made), made.shape[2]
    clip = torch.randint(batch, (config.pixel_pairs,), device=made.device)
    first = torch.randint(frames - 1, (config.pixel_pairs,), device=made.device)

    def pairs(latents: torch.Tensor) -> torch.Tensor:
        return torch.cat([latents[clip, :, first], latents[clip, :, first + 1]])

    with torch.no_grad():
        truth, still = vae.decode(pairs(clips.frames)).sample.float(), vae.decode(clips.reference[clip]).sample.float()
        weight = motion_weight(truth - still.repeat(2, 1, 1, 1), config)
    picture = vae.decode(pairs(made)).sample.float()
    change = (picture[config.pixel_pairs:] - picture[:config.pixel_pairs]) - (truth[config.pixel_pairs:] - truth[:config.pixel_pairs])
    return (weight * huber(picture - truth, PIXEL_KNEE)).mean() + (weight[:config.pixel_pairs] * huber(change, PIXEL_KNEE)).mean()


@torch.inference_mode()
def temporal_figures(
    model: AutoencoderTemporal, vae: AutoencoderTempoSync, cache: FaceCache, frames: int, count: int = 24
) -> dict[str, float]:
    """Of held-out clips: explained variance of the residual to the reference; PSNR (dB) of decoded frames against decoded true latents,
    whole and at the mouth; and how much the mouth changes from frame to frame, relative to how much it should."""
    clips = cache.held_out(count, frames)
    made, psnr, mouth, change = [], [], [], []
    for clip in range(len(clips.frames)):
        frame, reference = clips.frames[clip:clip + 1], clips.reference[clip:clip + 1]
        again = model.decode_raw(model.encode_raw(frame, reference), reference)
        made.append(again)
        some = slice(frames // 2, frames // 2 + 4)
        picture, truth = (vae.decode(latents[0, :, some].transpose(0, 1)).sample.float().clamp(-1, 1) for latents in (again, frame))
        for values, part in ((psnr, (slice(None), slice(None))), (mouth, LIPS)):
            error = ((picture - truth)[..., part[0], part[1]] / 2).square().mean()
            values.append(-10 * error.clamp(min=1e-8).log10())
        at_mouth = [pixels[..., LIPS[0], LIPS[1]].diff(dim=0).abs().mean() for pixels in (picture, truth)]
        change.append(torch.stack(at_mouth))
    error = (torch.cat(made) - clips.frames).square().sum() / (clips.frames - clips.reference[:, :, None]).square().sum()
    moved, true = torch.stack(change).sum(0)
    return {"ev": float(1 - error), "psnr": float(torch.stack(psnr).mean()), "psnr_mouth": float(torch.stack(mouth).mean()),
            "mouth_change": float(moved / true)}


@torch.inference_mode()
def measure_moments(model: AutoencoderTemporal, cache: FaceCache, frames: int) -> dict[str, list[float]]:
    """Mean and deviation per channel of latents; of a channel that hardly says anything, a deviation that does not blow it up."""
    latents = []
    for _ in range(16):
        clips = cache.draw(8, frames)
        latents.append(model.encode_raw(clips.frames, clips.reference))
    values = torch.cat(latents).transpose(0, 1).flatten(1).float()
    std = values.std(1)
    return {"latents_mean": values.mean(1).tolist(), "latents_std": std.clamp(min=0.3 * float(std.square().mean().sqrt())).tolist()}


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    device = accelerator.device
    cache, held_out = (FaceCache(config.data, split, device) for split in ("train", "val"))
    vae = load_component(AutoencoderTempoSync, config.vae, "vae", device).to(memory_format=torch.channels_last)
    if config.init:
        model = load_component(AutoencoderTemporal, config.init, "temporal_vae", "cpu").requires_grad_(True).train()
    else:
        model = AutoencoderTemporal(vae.config.latent_channels, config.latent_channels, config.frame_channels, config.width)

    def compute_losses(prepared: torch.nn.Module, progress: float) -> Losses:
        clips = cache.draw(config.batch_size, config.frames)
        own = accelerator.unwrap_model(prepared)
        code = own.encode_raw(clips.frames, clips.reference)
        size = code.detach().square().mean((0, 2, 3, 4), keepdim=True).sqrt()
        made = own.decode_raw(code + config.latent_noise * size * torch.randn_like(code), clips.reference).float()
        terms = latent_terms(made, clips, config)
        if config.pixel_weight:
            terms["pixel"] = pixel_term(vae, made, clips, config)
        loss = terms["latent"] + config.difference_weight * terms["change"] + config.pixel_weight * terms.get("pixel", 0)
        return {"loss": loss} | terms

    def save(average: AutoencoderTemporal) -> None:
        average.register_to_config(**measure_moments(average, cache, config.frames))
        save_weights(average, Path(config.output) / "temporal_vae")

    return train_loop(config, accelerator, model, copy.deepcopy(model), compute_losses,
                      lambda average: temporal_figures(average, vae, held_out, config.frames), save)
