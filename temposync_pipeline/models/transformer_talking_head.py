"""A2V-DiT: how a talking face's latents move, told by its picture and by speech (READ, arXiv 2508.03457, section 3.3).

Tokens are the cells of the reference and of every latent frame.  All attend to one another; the cells of latent frame i then listen to
code i of the speech and to no other, so that lips follow what is said at that moment.  Each frame has a noise level of its own.

Beyond the paper, a latent frame can be told how the lips are shaped in each of its video frames, together with its noise level: what lips
do on an unseen face is then not to be learnt from a few hundred sentences.

AsymTalker's (arXiv 2605.02948) is the same but for the portrait, which has no tokens: its latents, as long as the clip, join the clip's as
further channels.
"""

import math
from dataclasses import dataclass

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..bases import BaseOutput, ConfigMixin, ModelMixin, register_to_config
from .autoencoder_temporal import FRAMES, latent_frames, with_lead


def with_lips(codes: torch.Tensor, lips: torch.Tensor) -> torch.Tensor:
    """Codes [B, F, 8, d] of the speech and, as further channels of a latent frame's eight tokens, the lips' shape [B, 8(F - 1) + 1, s]
    in its eight video frames (`face.lip_shape`), NaN where it is not known; [B, F, 8, d + s].

    Raises ValueError where a code has another number of tokens or the lips another number of frames.
    """
    if codes.shape[2] != FRAMES or codes.shape[1] != latent_frames(lips.shape[1]):
        raise ValueError(f"lips of {lips.shape[1]} frames for codes {list(codes.shape[1:3])}, expected {FRAMES} tokens a latent frame")
    return torch.cat([codes, with_lead(lips, 1).unflatten(1, (-1, FRAMES)).to(codes.dtype)], -1)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention of tokens [B, N, C] to tokens [B, M, C]; [B, N, C]."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class TalkingBlock(nn.Module):
    """Self-attention, attention of each frame to its own speech, and an MLP, modulated by each frame's noise level (adaLN)."""

    def __init__(self, channels: int, heads: int, speech_channels: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels, elementwise_affine=False, eps=1e-6) for _ in range(3))
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.query, self.key_value = nn.Linear(channels, channels), nn.Linear(speech_channels, 2 * channels)
        self.heard = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(approximate="tanh"), nn.Linear(4 * channels, channels))
        # Added to what all blocks share (adaLN-single of PixArt-α, arXiv 2310.00426).
        self.modulation = nn.Parameter(torch.randn(6, channels) / channels**0.5)
        nn.init.zeros_(self.heard.weight)
        nn.init.zeros_(self.heard.bias)

    def hear(self, x: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
        """What cells [B, F, N, C] of frames hear in codes [B, F, n, c], each frame in its own."""
        key, value = self.key_value(speech.flatten(0, 1)).chunk(2, -1)
        heard = attend(self.query(self.norm2(x).flatten(0, 1)), key, value, self.heads)
        return self.heard(heard).unflatten(0, x.shape[:2])

    def forward(self, x: torch.Tensor, speech: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """x [B, r + F, N, C], the r = 1 or 0 tokens of the reference first; speech [B, F, n, c]; level [B, r + F, 6, C]."""
        lead = x.shape[1] - speech.shape[1]
        shift1, scale1, gate1, shift2, scale2, gate2 = (level + self.modulation).unsqueeze(3).unbind(2)
        normal = self.norm1(x) * (1 + scale1) + shift1
        query, key, value = self.qkv(normal.flatten(1, 2)).chunk(3, -1)
        x = x + gate1 * self.out(attend(query, key, value, self.heads)).unflatten(1, x.shape[1:3])
        x = torch.cat([x[:, :lead], x[:, lead:] + self.hear(x[:, lead:], speech)], 1)
        return x + gate2 * self.mlp(self.norm3(x) * (1 + scale2) + shift2)


@dataclass
class TalkingHeadOutput(BaseOutput):
    """sample: velocity ε - z, [B, c, F, h, w]."""

    sample: torch.Tensor


class TalkingHeadTransformer(ModelMixin, ConfigMixin):
    """Velocity of a clip's latents.

    Args:
        latent_channels: of a latent frame (`AutoencoderTemporal`). reference_channels: of the reference's ÷16 latents.
        sample_size: cells a side. channels, num_layers, num_heads: of the transformer. speech_channels: of a speech token.
        max_frames: latent frames of a clip at most.
        portrait_channels: of the portrait's latents, where those join the clip's; 0 = the portrait has tokens of its own.
        lip_channels: values that say the shape of the lips in a video frame (`with_lips`); 0 = it is not told.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["TalkingBlock"]
    _repeated_blocks = ["TalkingBlock"]

    @register_to_config
    def __init__(
        self, latent_channels: int = 128, reference_channels: int = 32, sample_size: int = 8, channels: int = 256, num_layers: int = 4,
        num_heads: int = 4, speech_channels: int = 32, max_frames: int = 16, portrait_channels: int = 0,
        lip_channels: int = 0,
    ):
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"num_heads must divide the {channels} channels, got {num_heads}")
        self.gradient_checkpointing = False
        cells = sample_size**2
        self.enter = nn.Linear(latent_channels + portrait_channels, channels)
        if not portrait_channels:
            self.enter_reference = nn.Linear(4 * reference_channels, channels)
        self.place = nn.Parameter(0.02 * torch.randn(cells, channels))
        self.moment = nn.Parameter(0.02 * torch.randn(1 + max_frames, channels))
        # What stands for a condition that is not given (classifier-free guidance).
        if not portrait_channels:
            self.no_reference = nn.Parameter(torch.zeros(cells, channels))
        self.no_speech = nn.Parameter(torch.zeros(speech_channels))
        self.level = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 6 * channels))
        if lip_channels:
            self.lips = nn.Sequential(nn.Linear(FRAMES * lip_channels, channels), nn.SiLU(), nn.Linear(channels, channels, bias=False))
            nn.init.zeros_(self.lips[2].weight)  # so that a transformer that has never been told goes on as it was
        self.blocks = nn.ModuleList(TalkingBlock(channels, num_heads, speech_channels) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels, elementwise_affine=False, eps=1e-6)
        self.leave = nn.Linear(channels, latent_channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, reference: torch.Tensor, speech: torch.Tensor,
        given_reference: torch.Tensor | None = None, given_speech: torch.Tensor | None = None, return_dict: bool = True,
    ) -> TalkingHeadOutput | tuple[torch.Tensor]:
        """Velocity ε - z of a noisy clip.

        Args:
            sample: latents [B, c, F, h, w], frame i at noise level timestep[:, i]. timestep: [B, F] in [0, 1].
            reference: ÷16 latents of the portrait, [B, C, 2h, 2w]; with `portrait_channels` its latents as a clip, [B, p, F, h, w]
                (`AutoencoderTemporal.encode_portrait`). speech: codes [B, F, n, d] (`SpeechAutoencoder.encode`); with `lip_channels`
                those of `with_lips`, in which NaN says that a latent frame's lips are not known.
            given_reference, given_speech: bool [B], whether a condition is given at all; None = to all.
        """
        x, lead = self._tokens(sample, reference, given_reference)
        speech, lips = speech.split([self.no_speech.shape[0], self.config.lip_channels], -1)
        if given_speech is not None:
            speech = torch.where(given_speech[:, None, None, None], speech, self.no_speech.to(speech.dtype))
        x = x + self.place + self.moment[1 - lead:x.shape[1] + 1 - lead, None]
        levels = torch.cat([torch.zeros_like(timestep[:, :lead]), timestep], 1)
        embedded = get_timestep_embedding(1000 * levels.flatten(), self.config.channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        embedded = embedded.to(x.dtype).unflatten(0, levels.shape)
        if self.config.lip_channels:
            embedded = embedded + F.pad(self._told(lips, given_speech), (0, 0, lead, 0))
        level = self.level(embedded).unflatten(-1, (6, -1))
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, speech, level, use_reentrant=False)
            else:
                x = block(x, speech, level)
        size = math.isqrt(x.shape[2])
        velocity = self.leave(self.norm(x[:, lead:])).unflatten(2, (size, size)).permute(0, 4, 1, 2, 3)
        return TalkingHeadOutput(sample=velocity) if return_dict else (velocity,)

    def _told(self, lips: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
        """What latent frames are told of their lips [B, F, 8, s], [B, F, C]; nothing where they are not known or not given."""
        lips = lips.flatten(2)
        known = lips.isfinite().all(-1, keepdim=True)
        if given is not None:
            known = known & given[:, None, None]
        told = self.lips(lips.nan_to_num())
        return torch.where(known, told, torch.zeros_like(told))

    def _tokens(self, sample: torch.Tensor, reference: torch.Tensor, given: torch.Tensor | None) -> tuple[torch.Tensor, int]:
        """What the blocks see, [B, r + F, N, C], and r, the tokens of the portrait in front."""
        if self.config.portrait_channels:
            if given is not None:
                reference = torch.where(given[:, None, None, None, None], reference, torch.zeros_like(reference))
            return self.enter(torch.cat([sample, reference], 1).permute(0, 2, 3, 4, 1).flatten(2, 3)), 0
        frames = self.enter(sample.permute(0, 2, 3, 4, 1).flatten(2, 3))
        portrait = self.enter_reference(F.pixel_unshuffle(reference, 2).flatten(2).transpose(1, 2))
        if given is not None:
            portrait = torch.where(given[:, None, None], portrait, self.no_reference.to(portrait.dtype))
        return torch.cat([portrait[:, None], frames], 1), 1
