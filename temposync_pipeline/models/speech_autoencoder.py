"""The speech autoencoder: what is heard during 8k + 1 video frames <-> k + 1 codes, one for each latent frame of the picture (READ,
arXiv 2508.03457)."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..bases import ConfigMixin, ModelMixin, apply_forward_hook, register_to_config
from .autoencoder_temporal import FRAMES, latent_frames, with_lead
from .outputs import DecoderOutput, EncoderOutput
from .viseme_classifier import Hearing


def speech_features(hearing: Hearing, lips: np.ndarray) -> np.ndarray:
    """What `SpeechAutoencoder` is given of T video frames, float32 [T, hidden + 6 + 15]: hidden state, shapes of the lips
    (`LipMotion.predict`), visemes."""
    return np.concatenate([hearing.hidden, lips, hearing.visemes], axis=1).astype(np.float32)


class CausalConv(nn.Module):
    """Residual convolution over time that looks back only; [B, T, C] in and out."""

    def __init__(self, channels: int, kernel_size: int = 3):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, kernel_size)
        self.reach = kernel_size - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.pad(self.norm(x).transpose(1, 2), (self.reach, 0), mode="replicate")
        return x + F.gelu(self.conv(hidden)).transpose(1, 2)


class SpeechAutoencoder(ModelMixin, ConfigMixin):
    """Frozen speech features of each video frame, made as sparse in time as the picture's latents.

    A code keeps the course of its 8 frames in `tokens` tokens of `code_channels` values: lips do several things in a third of a second.

    Args:
        features: of a video frame. channels: of the network. tokens, code_channels: of a code.
        features_mean, features_std: of the training data, per feature; None = 0 and 1.
    """

    @register_to_config
    def __init__(
        self, features: int = 213, channels: int = 64, tokens: int = 8, code_channels: int = 32,
        features_mean: list[float] | None = None, features_std: list[float] | None = None,
    ):
        super().__init__()
        size = tokens * code_channels
        self.enter = nn.Linear(features, channels)
        self.encoder = nn.Sequential(CausalConv(channels), CausalConv(channels))
        self.shrink = nn.Linear(FRAMES * channels, size)
        self.enlarge = nn.Linear(size, FRAMES * channels)
        self.decoder = nn.Sequential(CausalConv(channels), CausalConv(channels))
        self.leave = nn.Linear(channels, features)

    def normalise(self, features: torch.Tensor) -> torch.Tensor:
        """Features [..., F] with zero mean and unit variance over the training data."""
        mean, std = (torch.tensor(values or [default], dtype=features.dtype, device=features.device)
                     for values, default in ((self.config.features_mean, 0.0), (self.config.features_std, 1.0)))
        return (features - mean) / std

    def encode_normalised(self, features: torch.Tensor) -> torch.Tensor:
        count = latent_frames(features.shape[1])
        x = self.encoder(self.enter(with_lead(features, 1)))
        return self.shrink(x.unflatten(1, (count, FRAMES)).flatten(2)).unflatten(2, (self.config.tokens, -1))

    @apply_forward_hook
    def encode(self, features: torch.Tensor, return_dict: bool = True) -> EncoderOutput | tuple[torch.Tensor]:
        """`latent`: codes [B, k + 1, tokens, code_channels] of features [B, 8k + 1, F]; code i hears nothing after video frame 8i.

        Raises ValueError where the number of frames is not 8k + 1.
        """
        codes = self.encode_normalised(self.normalise(features))
        return EncoderOutput(latent=codes) if return_dict else (codes,)

    def decode(self, codes: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """`sample`: normalised features [B, 8k + 1, F] of codes."""
        x = self.enlarge(codes.flatten(2)).unflatten(2, (FRAMES, -1)).flatten(1, 2)
        features = self.leave(self.decoder(x))[:, FRAMES - 1:]
        return DecoderOutput(sample=features) if return_dict else (features,)

    def forward(self, features: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """`sample`: reconstruction of the normalised features, same shape."""
        return self.decode(self.encode(features, return_dict=False)[0], return_dict)
