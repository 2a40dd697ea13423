"""The picture autoencoder: RGB [B, 3, H, W] <-> latents [B, 32, H/16, W/16].

Convolutions only, and no normalisation that looks at the whole picture: a block of latents decodes to
the same pixels alone as inside the full grid (away from the block's edges), so the pipeline
decodes just the block that covers the mouth.  Pixels enter and leave through a pixel (un)shuffle by
two: no layer works at full resolution, where a CPU spends its time moving memory.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """x + s·conv(silu(conv(x))), with a learned scale s per channel that starts small; [B, C, H, W] in and out."""

    def __init__(self, channels: int, initial_scale: float = 0.1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), initial_scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.conv2(F.silu(self.conv1(x)))


def _stage(channels: int, blocks: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(blocks)]


class Encoder(nn.Module):
    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...], latent_channels: int):
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, channels[0], 3, padding=1), *_stage(channels[0], blocks[0])]
        for previous, width, depth in zip(channels, channels[1:], blocks[1:]):
            layers += [nn.Conv2d(previous, width, 4, stride=2, padding=1), *_stage(width, depth)]
        layers += [nn.SiLU(), nn.Conv2d(channels[-1], latent_channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels)


class Decoder(nn.Module):
    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...], latent_channels: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, channels[0], 3, padding=1), *_stage(channels[0], blocks[0])]
        for previous, width, depth in zip(channels, channels[1:], blocks[1:]):
            layers += [nn.Conv2d(previous, 4 * width, 3, padding=1), nn.PixelShuffle(2), *_stage(width, depth)]
        layers += [nn.SiLU(), nn.Conv2d(channels[-1], 12, 3, padding=1), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(latents)


class AutoencoderTempoSync(ModelMixin, ConfigMixin):
    """÷16 autoencoder with 32 latent channels and a slim decoder (equation 2 of arXiv 2603.06057).

    Latents are normalised per channel with `latents_mean` and `latents_std`, measured on training
    crops after training, so that diffusion sees zero mean and unit variance.

    Args:
        latent_channels: channels of the latent grid.
        encoder_channels, encoder_blocks: widths and residual blocks at strides 2, 4, 8, 16.
        decoder_channels, decoder_blocks: widths and residual blocks at strides 16, 8, 4, 2.
        latents_mean, latents_std: per channel; None means 0 and 1.
    """

    _group_offload_block_modules = ["encoder", "decoder"]

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        encoder_channels: tuple[int, ...] = (32, 64, 128, 192),
        encoder_blocks: tuple[int, ...] = (1, 1, 1, 2),
        decoder_channels: tuple[int, ...] = (192, 128, 64, 32),
        decoder_blocks: tuple[int, ...] = (2, 2, 2, 1),
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        self.encoder = Encoder(tuple(encoder_channels), tuple(encoder_blocks), latent_channels)
        self.decoder = Decoder(tuple(decoder_channels), tuple(decoder_blocks), latent_channels)

    @property
    def stride(self) -> int:
        """Pixels per latent cell."""
        return 2 ** len(self.config.encoder_channels)

    def _moments(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        channels = self.config.latent_channels
        mean = torch.tensor(self.config.latents_mean or [0.0] * channels, dtype=like.dtype, device=like.device)
        std = torch.tensor(self.config.latents_std or [1.0] * channels, dtype=like.dtype, device=like.device)
        return mean[:, None, None], std[:, None, None]

    @apply_forward_hook
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised latents [B, C, H/16, W/16] of pixels [B, 3, H, W] in [-1, 1]; H and W divisible by 16."""
        if pixels.shape[-1] % self.stride or pixels.shape[-2] % self.stride:
            raise ValueError(f"Height and width must be divisible by {self.stride}, got {tuple(pixels.shape[-2:])}.")
        latents = self.encoder(pixels)
        mean, std = self._moments(latents)
        return (latents - mean) / std

    @apply_forward_hook
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, 16h, 16w], nominally in [-1, 1] but not clamped, of normalised latents [B, C, h, w]."""
        mean, std = self._moments(latents)
        return self.decoder(latents * std + mean)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Reconstruction of `pixels`, same shape."""
        return self.decode(self.encode(pixels))
