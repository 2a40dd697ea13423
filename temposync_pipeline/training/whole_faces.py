"""What the stages share that train a transformer of whole faces (`read`, `asym_teacher`, `asym_student`) on frozen autoencoders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ..face.crop import mouth_mask
from ..models.autoencoder_temporal import AutoencoderTemporal
from ..models.speech_autoencoder import SpeechAutoencoder
from ..models.transformer_talking_head import TalkingHeadTransformer
from .checkpointing import save_weights
from .denoising import load_component
from .loop import LoopConfig


@dataclass
class WholeFaceConfig(LoopConfig):
    """What each of these stages can set."""

    batch_size: int = 16
    weight_decay: float = 0.02
    temporal_vae: str = "runs/temporal"
    speech_autoencoder: str = "runs/speech"
    # A few hundred sentences must not be learnt by heart: noise on the normalised speech features.
    feature_noise: float = 0.25


@dataclass
class TransformerConfig(WholeFaceConfig):
    """What those can set that begin with a transformer of their own."""

    learning_rate: float = 1e-3
    channels: int = 256
    num_layers: int = 4
    num_heads: int = 4
    # Share of samples without speech, from which one can guide.
    drop_speech: float = 0.08


def load_coders(config: WholeFaceConfig, device: torch.device) -> tuple[AutoencoderTemporal, SpeechAutoencoder]:
    return (load_component(AutoencoderTemporal, config.temporal_vae, "temporal_vae", device),
            load_component(SpeechAutoencoder, config.speech_autoencoder, "speech_autoencoder", device))


def first_transformer(
    config: TransformerConfig, temporal: AutoencoderTemporal, speech: SpeechAutoencoder, lip_channels: int = 0, **portrait: int
) -> TalkingHeadTransformer:
    """The one of `config.init`, else a new one; `portrait` says how it is told of the portrait, `lip_channels` whether of the lips,
    which one that has never been told of them does not heed at first."""
    if config.init:
        first = load_component(TalkingHeadTransformer, config.init, "transformer", "cpu").requires_grad_(True).train()
        if not lip_channels or first.config.lip_channels:
            return first
        told = TalkingHeadTransformer.from_config(first.config, lip_channels=lip_channels)
        told.load_state_dict(told.state_dict() | first.state_dict())
        return told
    return TalkingHeadTransformer(
        latent_channels=temporal.config.latent_channels, channels=config.channels, num_layers=config.num_layers,
        num_heads=config.num_heads, speech_channels=speech.config.code_channels, lip_channels=lip_channels, **portrait)


def mouth_cells(lips: float = 3.0) -> torch.Tensor:
    """Weight per cell of 32 pixels, [8, 8], of mean 1: `lips` times as much where the lower face moves."""
    moving = F.avg_pool2d(torch.from_numpy(mouth_mask() > 0).float()[None, None], 32)[0, 0] > 0.1
    weight = 1 + (lips - 1) * moving.float()
    return weight / weight.mean()


def residual_figures(made: torch.Tensor, true: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """Of frames [B, C, T, h, w] beside the camera's, as residuals to the portrait [B, C, h, w]: explained variance, and size over the
    true one's."""
    made, true = made - reference[:, :, None], true - reference[:, :, None]
    return {"ev": float(1 - (made - true).square().sum() / true.square().sum()), "std": float(made.std() / true.std())}


def save_with_scheduler(transformer: TalkingHeadTransformer, scheduler: Any, output: str) -> None:
    save_weights(transformer, Path(output) / "transformer")
    scheduler.save_pretrained(Path(output) / "scheduler")
