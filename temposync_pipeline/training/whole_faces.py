"""What the stages share that train a transformer of whole faces (`read`, `asym_teacher`, `asym_student`) on frozen autoencoders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
    config: TransformerConfig, temporal: AutoencoderTemporal, speech: SpeechAutoencoder, **portrait: int
) -> TalkingHeadTransformer:
    """The one of `config.init`, else a new one; `portrait` says how it is told of the portrait."""
    if config.init:
        return load_component(TalkingHeadTransformer, config.init, "transformer", "cpu").requires_grad_(True).train()
    return TalkingHeadTransformer(
        latent_channels=temporal.config.latent_channels, channels=config.channels, num_layers=config.num_layers,
        num_heads=config.num_heads, speech_channels=speech.config.code_channels, **portrait)


def residual_figures(made: torch.Tensor, true: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """Of frames [B, C, T, h, w] beside the camera's, as residuals to the portrait [B, C, h, w]: explained variance, and size over the
    true one's."""
    made, true = made - reference[:, :, None], true - reference[:, :, None]
    return {"ev": float(1 - (made - true).square().sum() / true.square().sum()), "std": float(made.std() / true.std())}


def save_with_scheduler(transformer: TalkingHeadTransformer, scheduler: Any, output: str) -> None:
    save_weights(transformer, Path(output) / "transformer")
    scheduler.save_pretrained(Path(output) / "scheduler")
