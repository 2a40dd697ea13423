"""Whisper's encoder (Radford et al. 2022, arXiv 2212.04356) with a viseme head: what a small classifier is taught by."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..models.visemes import NUM_VISEMES

_WINDOW, _HOP = 400, 160
TOKEN_SECONDS = 2 * _HOP / 16_000


class WhisperTeacher(nn.Module):
    """Waveforms [B, N] at 16 kHz to features [B, frames, width] and viseme logits [B, frames, 15] at times of the caller's choice."""

    def __init__(self, encoder: WhisperEncoder, dropout: float = 0.2):
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.d_model, NUM_VISEMES)
        filters = WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins).mel_filters
        self.register_buffer("filters", torch.from_numpy(np.asarray(filters, np.float32)), persistent=False)

    @classmethod
    def from_pretrained(cls, folder: str) -> "WhisperTeacher":
        return cls(WhisperModel.from_pretrained(folder).encoder.float())

    @property
    def width(self) -> int:
        return self.encoder.config.d_model

    def mel(self, sounds: Tensor) -> Tensor:
        """Whisper's log-mel spectrogram [B, mels, N / 160] of sounds brought to one level."""
        sounds = sounds.float() * (0.06 / sounds.std(1, keepdim=True).clamp(min=1e-4))
        window = torch.hann_window(_WINDOW, device=sounds.device)
        power = torch.stft(sounds, _WINDOW, _HOP, window=window, return_complex=True)[..., :-1].abs().square()
        levels = (self.filters.T @ power).clamp(min=1e-10).log10()
        return (torch.maximum(levels, levels.amax((1, 2), keepdim=True) - 8) + 4) / 4

    def forward(self, sounds: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits at the times `seconds` [frames] from the first sample on; token i stands for the time around 0.02 i."""
        encoder = self.encoder
        with torch.autocast(sounds.device.type, enabled=False):
            mel = self.mel(sounds)
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[:hidden.shape[1]]
        for layer in encoder.layers:
            hidden = hidden + _attend(layer.self_attn, layer.self_attn_layer_norm(hidden))
            hidden = hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))
        hidden = encoder.layer_norm(hidden)
        place = (seconds / TOKEN_SECONDS).clamp(max=hidden.shape[1] - 1.001)
        left = place.long()
        share = (place - left)[:, None].to(hidden.dtype)
        features = (1 - share) * hidden[:, left] + share * hidden[:, left + 1]
        return features, self.head(self.dropout(features))


def _attend(attention: nn.Module, hidden: Tensor) -> Tensor:
    """Whisper's own attention insists on 30 s of sound; [B, T, width] in and out."""
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    query, key, value = (project(hidden).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for project in projections)
    return attention.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
