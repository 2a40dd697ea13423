"""E_id of equation 8 (arXiv 2603.06057): who is in the picture, as one unit vector.

It reads latents, not pixels, so that generated latents can be compared without decoding them: the
identity is anchored in the autoencoder's canonical space.  `training.identity` teaches it to answer
alike for one person in other light, before other backgrounds, with other mouth shapes.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..bases import ConfigMixin, ModelMixin, register_to_config


class IdentityEncoder(ModelMixin, ConfigMixin):
    """Latents [B, C, 16, 16] of an aligned crop -> embedding [B, identity_channels] of unit length."""

    @register_to_config
    def __init__(self, latent_channels: int = 32, channels: tuple[int, ...] = (64, 96, 128), identity_channels: int = 128):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, channels[0], 3, padding=1)]
        for previous, width in zip(channels, channels[1:]):
            layers += [nn.GroupNorm(8, previous), nn.SiLU(), nn.Conv2d(previous, width, 3, stride=2, padding=1)]
        self.features = nn.Sequential(*layers, nn.GroupNorm(8, channels[-1]), nn.SiLU())
        self.head = nn.Linear(channels[-1] * 4, identity_channels)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, identity_channels]; a 2×2 pooling keeps where in the face a feature lies."""
        pooled = F.adaptive_avg_pool2d(self.features(latents), 2).flatten(1)
        return F.normalize(self.head(pooled), dim=-1)
