"""Whisper's encoder (Radford et al. 2022, arXiv 2212.04356) as it is, and visemes read in it: what a small classifier is taught by.

What it says of clean speech is worked out once, before the training: the classifier hears the same speech in any room.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..data.viseme_labels import SAMPLE_RATE
from ..models.visemes import NUM_VISEMES

_WINDOW, _HOP = 400, 160
# Token i stands for the time around i / TOKEN_RATE seconds.
TOKEN_RATE = SAMPLE_RATE / (2 * _HOP)
# Seconds heard at once, and those of them at either side that only help to understand the rest.
_STRETCH, _CONTEXT = 24, 2


class WhisperTeacher(nn.Module):
    """Features of Whisper's encoder after `layer` of its layers: the middle ones know most of how speech is articulated."""

    def __init__(self, encoder: WhisperEncoder, layer: int):
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.layer = layer
        filters = WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins).mel_filters
        self.register_buffer("filters", torch.from_numpy(np.asarray(filters, np.float32)), persistent=False)

    @classmethod
    def from_pretrained(cls, folder: str, layer: int) -> "WhisperTeacher":
        return cls(WhisperModel.from_pretrained(folder).encoder.float(), layer)

    @property
    def width(self) -> int:
        return self.encoder.config.d_model

    @torch.no_grad()
    def listen(self, samples: np.ndarray) -> np.ndarray:
        """Normalised features of one recording, float16 [tokens, width]; samples int16 [N] at 16 kHz."""
        device = self.filters.device
        sound = torch.from_numpy(samples).float().to(device) / 32768
        sound = sound * (0.06 / sound.std().clamp(min=1e-4))
        tokens, stretch, context = int(len(sound) / SAMPLE_RATE * TOKEN_RATE), int(_STRETCH * TOKEN_RATE), int(_CONTEXT * TOKEN_RATE)
        parts = []
        for start in range(0, tokens, stretch - 2 * context):
            first = max(0, start - context)
            piece = sound[first * 2 * _HOP:(first + stretch) * 2 * _HOP]
            # Enough at the end for the last token's window.
            features = self(F.pad(piece, (0, 2 * _HOP + _WINDOW))[None])[0]
            parts.append(features[start - first:start - first + stretch - 2 * context])
        return torch.cat(parts)[:tokens].half().cpu().numpy()

    def forward(self, sounds: Tensor) -> Tensor:
        """Waveforms [B, N] at 16 kHz to features [B, N / 320, width] of mean 0 and variance 1 each."""
        encoder = self.encoder
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(self._mel(sounds))))).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[:hidden.shape[1]]
        for layer in encoder.layers[:self.layer]:
            hidden = hidden + _attend(layer.self_attn, layer.self_attn_layer_norm(hidden))
            hidden = hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))
        return F.layer_norm(hidden, hidden.shape[-1:])

    def _mel(self, sounds: Tensor) -> Tensor:
        """Whisper's log-mel spectrogram [B, mels, N / 160]."""
        window = torch.hann_window(_WINDOW, device=sounds.device)
        power = torch.stft(sounds, _WINDOW, _HOP, window=window, return_complex=True)[..., :-1].abs().square()
        levels = (self.filters.T @ power).clamp(min=1e-10).log10()
        return (torch.maximum(levels, levels.amax((1, 2), keepdim=True) - 8) + 4) / 4


def _attend(attention: nn.Module, hidden: Tensor) -> Tensor:
    """Whisper's own attention insists on 30 s of sound; [B, T, width] in and out."""
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    query, key, value = (project(hidden).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for project in projections)
    return attention.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class VisemeReading(nn.Sequential):
    """Features [..., width] to viseme logits [..., 15]."""

    def __init__(self, width: int, hidden: int = 384):
        super().__init__(nn.Dropout(0.2), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.3), nn.Linear(hidden, NUM_VISEMES))


def listen_to_all(teacher: WhisperTeacher, recordings: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    """`WhisperTeacher.listen` of each, with a progress bar."""
    return [teacher.listen(samples) for samples in tqdm(recordings, desc=f"Whisper hears {name}")]
