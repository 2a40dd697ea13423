"""A judge of synchrony: embeds moving mouths and speech so that what happens at the same time lies close together.

Like SyncNet (Chung and Zisserman, "Out of time", 2016), but it looks at latents instead of pixels: generated latents can be judged,
and a loss can flow through the judgement, without decoding them.  The audio branch hears a mel spectrogram and shares nothing with
the viseme classifier, so that a generator driven by visemes is not judged by its own input.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..bases import ConfigMixin, ModelMixin, register_to_config

SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = 640  # of video at 25 frames a second
MELS_PER_FRAME = 4
NUM_MELS = 80
_HOP, _FFT_LENGTH = SAMPLES_PER_FRAME // MELS_PER_FRAME, 400


def mel_matrix(num_mels: int = NUM_MELS, num_bins: int = _FFT_LENGTH // 2 + 1, low: float = 60.0, high: float = 7600.0) -> torch.Tensor:
    """Triangular filters, mel-spaced from `low` to `high` Hz, for a power spectrum up to 8 kHz: float32 [num_bins, num_mels]."""
    mel = torch.linspace(1127 * math.log1p(low / 700), 1127 * math.log1p(high / 700), num_mels + 2)
    edges, hertz = 700 * torch.expm1(mel / 1127), torch.linspace(0, SAMPLE_RATE / 2, num_bins)[:, None]
    rising, falling = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp_min(0)


def log_mel(samples: torch.Tensor) -> torch.Tensor:
    """ln(mel power + 1e-4), float32 [B, 4·T, 80], of 16 kHz samples [B, 640·T] of unit variance; column n is centred in its own 10 ms."""
    window = torch.hann_window(_FFT_LENGTH, device=samples.device)
    padded = F.pad(samples.float(), ((_FFT_LENGTH - _HOP) // 2,) * 2)
    spectrum = torch.stft(padded, _FFT_LENGTH, _HOP, window=window, center=False, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power.transpose(1, 2) @ mel_matrix().to(power.device) + 1e-4).log()


class FrameNorm(nn.LayerNorm):
    """Layer norm over the channels of each frame, [B, C, T] in and out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class TemporalBlock(nn.Module):
    """x + conv(dropout(silu(conv(silu(norm(x)))))) over time, [B, C, T] in and out; no norm looks at other frames."""

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.norm = FrameNorm(channels)
        self.conv1 = nn.Conv1d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv1d(channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.dropout(F.silu(self.conv1(F.silu(self.norm(x))))))


class SyncExpert(ModelMixin, ConfigMixin):
    """Unit vectors of mouth latents and of speech, one a video frame; their distance in [0, 2] says how badly they fit.

    Which mouth it is must not matter, only how it moves: latents enter as differences from their mean over time.  One linear layer
    reads them, since faces are aligned and the opening of the lips is nearly linear in these latents; convolutions over time follow.

    Args:
        latent_channels: channels of the latents.
        mouth: top, left, height and width of the cells that are looked at, within the 10 × 12 block of `latent_window`.
        hidden_channels, num_blocks: width and number of temporal blocks of either branch; each block sees one more frame on both sides.
        embedding_channels: length of the unit vectors.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        mouth: tuple[int, int, int, int] = (2, 2, 7, 8),
        hidden_channels: int = 128,
        num_blocks: int = 3,
        embedding_channels: int = 64,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.look = nn.Sequential(nn.Dropout(dropout), nn.Linear(latent_channels * mouth[2] * mouth[3], hidden_channels))
        self.motion = self._over_time(hidden_channels, num_blocks, embedding_channels, dropout)
        self.listen = nn.Sequential(
            nn.Conv1d(NUM_MELS, hidden_channels, 5, stride=2, padding=2), nn.SiLU(),
            nn.Conv1d(hidden_channels, hidden_channels, MELS_PER_FRAME // 2, stride=MELS_PER_FRAME // 2))
        self.speech = self._over_time(hidden_channels, num_blocks, embedding_channels, dropout)

    @staticmethod
    def _over_time(hidden: int, num_blocks: int, embedding_channels: int, dropout: float) -> nn.Sequential:
        blocks = [TemporalBlock(hidden, dropout) for _ in range(num_blocks)]
        return nn.Sequential(*blocks, FrameNorm(hidden), nn.SiLU(), nn.Conv1d(hidden, embedding_channels, 1))

    def embed_mouth(self, latents: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, T, D] of the mouth's latents [B, T, C, 10, 12] (`models.conditioning.latent_window`) of T successive frames,
        a second or more: their mean stands for the face."""
        top, left, height, width = self.config.mouth
        moved = (latents - latents.mean(1, keepdim=True))[..., top:top + height, left:left + width]
        return F.normalize(self.motion(self.look(moved.flatten(2)).transpose(1, 2)).transpose(1, 2).float(), dim=-1)

    def embed_mel(self, mel: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, T, D] of log mel spectra [B, 4·T, 80] (`log_mel`)."""
        # About zero mean and unit variance for speech of unit variance.
        scaled = ((mel + 4) / 4).to(self.dtype).transpose(1, 2)
        return F.normalize(self.speech(self.listen(scaled)).transpose(1, 2).float(), dim=-1)

    def embed_speech(self, samples: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, T, D] of 16 kHz samples [B, 640·T], loudness-normalised (`viseme_classifier.normalize_loudness`)."""
        return self.embed_mel(log_mel(samples))

    def forward(self, latents: torch.Tensor, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`embed_mouth` and `embed_mel`."""
        return self.embed_mouth(latents), self.embed_mel(mel)


def frame_distances(mouth: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of unit vectors [..., D]: sqrt(2 - 2·cos), with a finite slope where they agree."""
    return (2 - 2 * (mouth * speech).sum(-1)).clamp_min(1e-6).sqrt()


def offset_distances(mouth: torch.Tensor, speech: torch.Tensor, max_offset: int) -> torch.Tensor:
    """Distances d[B, o, t] of mouth frame t to the speech of frame t - o, for o in -max_offset … max_offset; [B, 2·max_offset + 1, T].

    mouth [B, T, D]; speech [B, T + 2·max_offset, D] begins `max_offset` frames earlier and ends as much later.  The true o is
    positive where the lips come late.
    """
    length = mouth.shape[1]
    return torch.stack([frame_distances(mouth, speech[:, first:first + length]) for first in range(2 * max_offset, -1, -1)], 1)
