"""From what is heard to how lips move: a small network on the hidden state of the viseme classifier.

Fifteen probabilities say which mouth shape is spoken; the classifier's hidden state also knows how far, how fast and between which others
it is.  Not in the paper (arXiv 2603.06057), whose only condition is the viseme.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..bases import ConfigMixin, ModelMixin, register_to_config
from ..face.lip_shape import NUM_LIP_SHAPE, OPENING
from .devices import execution_device
from .viseme_classifier import Hearing
from .visemes import NUM_VISEMES, VISEME_INDEX

# By how much lips that touch are pressed together, in units of TYPICAL_MOTION: a denoiser told of lips that just touch leaves a gap.
PRESSED = 0.3


class TemporalBlock(nn.Module):
    """Residual block of a convolution over time; [B, T, C] in and out."""

    def __init__(self, channels: int, kernel_size: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.out(self.dropout(F.gelu(hidden)))


class LipMotion(ModelMixin, ConfigMixin):
    """Shapes of the lips over time for speech of any voice.

    Args:
        hidden_channels: size of the classifier's hidden state.
        channels, num_layers, kernel_size: width, depth and reach of the network; with 3 layers of 5 it sees 6 video frames either way.
        dropout: of hidden state and features, in training: a few hundred recordings are soon learnt by heart.
    """

    @register_to_config
    def __init__(
        self, hidden_channels: int = 192, num_visemes: int = NUM_VISEMES, channels: int = 64, num_layers: int = 3, kernel_size: int = 5,
        dropout: float = 0.3,
    ):
        super().__init__()
        self.norm_in = nn.LayerNorm(hidden_channels)
        # Not called like an argument: diffusers would answer with the argument.
        self.drop_in = nn.Dropout(dropout)
        self.embed = nn.Linear(hidden_channels + 1 + num_visemes, channels)
        self.blocks = nn.ModuleList(TemporalBlock(channels, kernel_size, dropout) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, NUM_LIP_SHAPE)

    @property
    def reach(self) -> int:
        """How many frames on either side it sees of one."""
        return self.config.num_layers * (self.config.kernel_size // 2)

    def features(self, hidden: torch.Tensor, loudness: torch.Tensor, visemes: torch.Tensor) -> torch.Tensor:
        """What the head reads, [B, T, channels]; for the arguments see `forward`."""
        x = self.embed(torch.cat([self.drop_in(self.norm_in(hidden)), loudness[..., None], visemes], dim=-1))
        for block in self.blocks:
            x = block(x)
        return self.norm_out(x)

    def forward(self, hidden: torch.Tensor, loudness: torch.Tensor, visemes: torch.Tensor) -> torch.Tensor:
        """Shapes of the lips [B, T, 6] in units of `face.lip_shape.TYPICAL_MOTION`, 0 = at rest.

        Args:
            hidden: the classifier's hidden state a video frame, [B, T, hidden_channels]; all zero where only visemes are known.
            loudness: ln of the root mean square, [B, T]; visemes: probabilities, [B, T, num_visemes].
        """
        return self.head(self.features(hidden, loudness, visemes))

    @torch.inference_mode()
    def predict(self, hearing: Hearing) -> np.ndarray:
        """`forward` for one recording as a classifier heard it, float32 [T, 6].

        The surer a p, b or m, the more the lips are shut, and pressed together (opening -`PRESSED`); frames without any viseme ("no
        speech known") are at rest.  Of a classifier with another hidden state, say a recogniser from the Hub, only the visemes count.
        """
        hidden, loudness = hearing.hidden, hearing.loudness
        if hidden.shape[1] != self.config.hidden_channels:
            hidden, loudness = np.zeros((len(hidden), self.config.hidden_channels), np.float32), np.zeros_like(loudness)
        heard = (torch.from_numpy(values)[None].to(execution_device(self), self.dtype) for values in (hidden, loudness, hearing.visemes))
        shapes = self(*heard)[0].float().cpu().numpy()
        shut = hearing.visemes[:, VISEME_INDEX["PP"]]
        shapes[:, OPENING] = shapes[:, OPENING] * (1 - shut) - PRESSED * shut
        shapes[hearing.visemes.sum(1) == 0] = 0
        return shapes
