"""The denoiser: teacher and student are one class with two configurations.

What is diffused is the residual of the target latents to the reference latents in the aligned crop,
over the block of latent cells that covers the mouth (`face.crop.LATENT_WINDOW`): "nothing changes"
is then the zero tensor and costs the network nothing.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..bases import (
    AttentionMixin,
    AttentionModuleMixin,
    BaseOutput,
    ConfigMixin,
    ModelMixin,
    PeftAdapterMixin,
    dispatch_attention_fn,
    register_to_config,
)
from ..bases.packed import Conv2d


@dataclass
class TempoSyncDenoiserOutput(BaseOutput):
    """`sample`: raw network output F of the boundary-conditioned parametrisation, [B, C, h, w]."""

    sample: torch.Tensor


class GroupNorm(nn.GroupNorm):
    """torch's layer, computed in its weights' own format: of bfloat16 inside groups of few channels torch is several times as slow."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.to(self.weight.dtype))


class ModulatedResidualBlock(nn.Module):
    """Residual block whose second normalisation is scaled and shifted by the conditioning (adaptive group norm)."""

    def __init__(self, in_channels: int, out_channels: int, embedding_channels: int, groups: int = 16):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_channels, 2 * out_channels)
        self.norm2 = GroupNorm(groups, out_channels)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden) * (1 + scale) + shift))
        return self.skip(x) + hidden


class SpatialAttnProcessor:
    """Multi-head attention over tokens [B, h·w, C] by way of diffusers' dispatcher (`set_attention_backend`)."""

    _attention_backend = None
    _parallel_config = None

    def __call__(self, attn: "SpatialAttention", tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = (part.unflatten(-1, (attn.heads, -1)) for part in attn.to_qkv(tokens).chunk(3, dim=-1))
        attended = dispatch_attention_fn(query, key, value, backend=self._attention_backend, parallel_config=self._parallel_config)
        return attn.to_out(attended.flatten(2))


class SpatialAttention(nn.Module, AttentionModuleMixin):
    """Self-attention over all cells of a coarse grid, so that lips, chin and cheeks agree; [B, C, h, w] in and out."""

    _default_processor_cls = SpatialAttnProcessor
    _available_processors = [SpatialAttnProcessor]
    _supports_qkv_fusion = False  # its projections are one from the start

    def __init__(self, channels: int, head_channels: int = 32, groups: int = 16):
        super().__init__()
        self.heads = channels // head_channels
        self.norm = GroupNorm(groups, channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)
        self.set_processor(SpatialAttnProcessor())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.processor(self, tokens).transpose(1, 2).reshape(batch, channels, height, width)


def timestep_embedding(timesteps: torch.Tensor, channels: int) -> torch.Tensor:
    """Sinusoidal embedding [B, channels] of timesteps [B] (= ln σ / 4, of order one, hence the factor 1000)."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(channels // 2, device=timesteps.device) / (channels // 2))
    angles = 1000 * timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TempoSyncDenoiser(ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """Two-level U-Net F(z̃, σ, κ) over the mouth's block of latents (equations 3-5 of arXiv 2603.06057).

    The paper gives neither widths nor the way conditions enter; here the reference and context
    latents are concatenated to the noisy ones and everything else modulates the normalisations.

    Args:
        latent_channels: channels C of the latents.
        sample_size: (height, width) of the block of latent cells; a learned position is added per cell.
        block_out_channels: widths at full and half resolution.
        layers_per_block: residual blocks per level, on the way down and again on the way up.
        mid_layers: further residual blocks at half resolution, with attention between them.
        num_visemes, viseme_window: the condition is `viseme_window` video frames (odd, the current one in the middle) of probabilities.
        identity_channels: size of the identity embedding.
        embedding_channels: width of the joint conditioning vector.
        residual_scale: standard deviation of z - z_reference over the training data; the diffused variable is the residual divided by it.
        lip_shape_values: size of the lips' shape (`face.lip_shape`) that the denoiser is told besides the visemes; 0 = it isn't.
        motion_scale: factor on the motion that the pipeline takes from these weights. What a network says of a mouth lies near the mean of
            all plausible ones, which moves less than any of them; few steps and sharpened distillation shift that.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        sample_size: tuple[int, int] = (10, 12),
        block_out_channels: tuple[int, int] = (128, 224),
        layers_per_block: tuple[int, int] = (2, 1),
        mid_layers: int = 2,
        num_visemes: int = 15,
        viseme_window: int = 11,
        identity_channels: int = 128,
        embedding_channels: int = 384,
        residual_scale: float = 1.0,
        motion_scale: float = 1.0,
        lip_shape_values: int = 0,
    ):
        super().__init__()
        fine, coarse = block_out_channels
        fine_layers, coarse_layers = layers_per_block
        self.time_embedding = nn.Sequential(
            nn.Linear(128, embedding_channels), nn.SiLU(), nn.Linear(embedding_channels, embedding_channels))
        self.viseme_embedding = nn.Sequential(
            nn.Linear(num_visemes * viseme_window, embedding_channels), nn.SiLU(), nn.Linear(embedding_channels, embedding_channels))
        self.identity_embedding = nn.Linear(identity_channels, embedding_channels)
        if lip_shape_values:
            # One value more says whether the shape is known. Zero at first: weights that never knew of lips stay as they are.
            self.lip_embedding = nn.Sequential(
                nn.Linear(lip_shape_values + 1, embedding_channels), nn.SiLU(), nn.Linear(embedding_channels, embedding_channels))
            nn.init.zeros_(self.lip_embedding[2].weight)
            nn.init.zeros_(self.lip_embedding[2].bias)
        self.conv_in = Conv2d(3 * latent_channels, fine, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(1, fine, *sample_size))

        def block(in_channels: int, out_channels: int) -> ModulatedResidualBlock:
            return ModulatedResidualBlock(in_channels, out_channels, embedding_channels)

        self.down_fine = nn.ModuleList(block(fine, fine) for _ in range(fine_layers))
        self.downsample = Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.down_coarse = nn.ModuleList(block(coarse, coarse) for _ in range(coarse_layers))
        self.mid_blocks = nn.ModuleList(block(coarse, coarse) for _ in range(mid_layers))
        self.mid_attention = nn.ModuleList(SpatialAttention(coarse) for _ in range(mid_layers))
        self.up_coarse = nn.ModuleList(block(2 * coarse if i == 0 else coarse, coarse) for i in range(coarse_layers))
        self.upsample = Conv2d(coarse, 4 * fine, 1)
        self.up_fine = nn.ModuleList(block(2 * fine if i == 0 else fine, fine) for i in range(fine_layers))
        self.norm_out = GroupNorm(16, fine)
        self.conv_out = Conv2d(fine, latent_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)
        self.gradient_checkpointing = False

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        reference: torch.Tensor,
        context: torch.Tensor,
        visemes: torch.Tensor,
        identity: torch.Tensor,
        lips: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> TempoSyncDenoiserOutput | tuple[torch.Tensor]:
        """One evaluation.

        Args:
            sample: noisy residual latents, already scaled by the scheduler's `scale_model_input`, [B, C, h, w].
            timestep: the scheduler's timesteps (ln σ / 4), [B] or a scalar.
            reference, context: latents of the reference and of the mouth-masked context, [B, C, h, w].
            visemes: probabilities of the frames around this one, [B, viseme_window, num_visemes]; all zero means "no speech known".
            identity: identity embedding, [B, identity_channels].
            lips: shape of the lips in units of `face.lip_shape.TYPICAL_MOTION`, [B, lip_shape_values]; 0 = at rest, NaN (or None for all)
                = not known, the visemes alone then say what the mouth does. Ignored by a denoiser that is not told of lips.
        """
        timestep = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])
        embedding = self.time_embedding(timestep_embedding(timestep, 128).to(sample.dtype))
        embedding = embedding + self.viseme_embedding(visemes.flatten(1)) + self.identity_embedding(identity)
        if self.config.lip_shape_values:
            embedding = embedding + self._embed_lips(lips, visemes)
        embedding = F.silu(embedding)

        # CPUs convolve this memory layout faster.
        x = self.conv_in(torch.cat([sample, reference, context], dim=1).contiguous(memory_format=torch.channels_last)) + self.position
        for block in self.down_fine:
            x = self._run(block, x, embedding)
        fine_skip = x
        x = self.downsample(x)
        for block in self.down_coarse:
            x = self._run(block, x, embedding)
        coarse_skip = x
        for block, attention in zip(self.mid_blocks, self.mid_attention):
            x = attention(self._run(block, x, embedding))
        x = torch.cat([x, coarse_skip], dim=1)
        for block in self.up_coarse:
            x = self._run(block, x, embedding)
        x = torch.cat([F.pixel_shuffle(self.upsample(x), 2), fine_skip], dim=1)
        for block in self.up_fine:
            x = self._run(block, x, embedding)
        output = self.conv_out(F.silu(self.norm_out(x)))
        return TempoSyncDenoiserOutput(sample=output) if return_dict else (output,)

    def _run(self, block: ModulatedResidualBlock, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """One block; with gradient checkpointing its activations are computed again on the way back instead of kept."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, x, embedding)
        return block(x, embedding)

    def _embed_lips(self, lips: torch.Tensor | None, visemes: torch.Tensor) -> torch.Tensor:
        if lips is None:
            lips = visemes.new_full((visemes.shape[0], self.config.lip_shape_values), float("nan"))
        known = lips.isfinite().all(1, keepdim=True)
        return self.lip_embedding(torch.cat([torch.where(known, lips, 0), known.to(lips.dtype)], 1))
