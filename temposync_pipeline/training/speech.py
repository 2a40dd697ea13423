"""Stage `speech`: READ's speech autoencoder, on what the viseme classifier hears in the clips of `training.face_latents`.

    temposync train speech --data FACES --output runs/speech --set temporal_vae=runs/temporal

L = α·‖S - Ŝ‖² + β·InfoNCE between a code and the picture's latents of the same moment (READ, arXiv 2508.03457; it gives neither α nor β).
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..models.autoencoder_temporal import AutoencoderTemporal
from ..models.speech_autoencoder import SpeechAutoencoder
from .checkpointing import save_weights
from .denoising import load_component
from .face_cache import FaceCache
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .losses import info_nce


@dataclass
class Config(LoopConfig):
    output: str = "runs/speech"
    batch_size: int = 16
    max_minutes: float = 3.0
    learning_rate: float = 2e-3
    temporal_vae: str = "runs/temporal"
    frames: int = 33
    channels: int = 64
    tokens: int = 8
    code_channels: int = 32
    # α and β.
    reconstruction_weight: float = 1.0
    contrast_weight: float = 0.1
    temperature: float = 0.1
    feature_noise: float = 0.1
    code_price: float = 1e-3


class SpeechModel(nn.Module):
    """The autoencoder and the two projections that the contrast needs."""

    def __init__(self, speech: SpeechAutoencoder, latent_channels: int, size: int = 64):
        super().__init__()
        self.speech = speech
        self.of_code = nn.Linear(speech.config.tokens * speech.config.code_channels, size)
        self.of_picture = nn.Sequential(nn.Conv2d(latent_channels, size, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(),
                                        nn.LazyLinear(size))


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    device = accelerator.device
    cache, held_out = (FaceCache(config.data, split, device) for split in ("train", "val"))
    temporal = load_component(AutoencoderTemporal, config.temporal_vae, "temporal_vae", device)
    heard = cache.tensors["heard"].float()
    speech = SpeechAutoencoder(features=cache.features, channels=config.channels, tokens=config.tokens, code_channels=config.code_channels,
                               features_mean=heard.mean(0).tolist(), features_std=heard.std(0).clamp(min=1e-2).tolist())
    model = SpeechModel(speech, temporal.config.latent_channels)
    with torch.no_grad():
        model.of_picture(torch.zeros(1, temporal.config.latent_channels, 8, 8))

    def reconstruction(speech: SpeechAutoencoder, features: torch.Tensor, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
        clean = speech.normalise(features)
        codes = speech.encode_normalised(clean + noise * torch.randn_like(clean))
        return F.mse_loss(speech.decode(codes).sample.float(), clean), codes

    def compute_losses(model: SpeechModel, progress: float) -> Losses:
        clips = cache.draw(config.batch_size, config.frames)
        error, codes = reconstruction(model.speech, clips.heard, config.feature_noise)
        with torch.no_grad():
            latents = temporal.encode(clips.frames, clips.reference).latent.transpose(1, 2).flatten(0, 1)
        contrast = info_nce(model.of_code(codes.flatten(0, 1).flatten(1)), model.of_picture(latents), config.temperature)
        price = codes.float().square().mean()
        loss = config.reconstruction_weight * error + config.contrast_weight * contrast + config.code_price * price
        return {"loss": loss, "reconstruction": error, "contrast": contrast, "price": price}

    @torch.inference_mode()
    def validate(average: SpeechModel) -> dict[str, float]:
        clips = held_out.held_out(64, config.frames)
        return {"explained": float(1 - reconstruction(average.speech, clips.heard, 0.0)[0])}

    return train_loop(config, accelerator, model, copy.deepcopy(model), compute_losses, validate,
                      lambda average: save_weights(average.speech, Path(config.output) / "speech_autoencoder"))
