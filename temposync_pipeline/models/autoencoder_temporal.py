"""The temporal autoencoder: 8k + 1 frames of ÷16 latents <-> k + 1 latent frames of 8 × 8 cells of 32 × 32 pixels and 8 frames.

What a person looks like is not coded at all: the autoencoder codes the residual to a reference picture, which its decoder is given again
(READ, arXiv 2508.03457, codes whole pictures with an autoencoder many times the size).  A clip that is its reference has latents of
exactly 0, and latents of 0 are exactly the reference.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..bases import ConfigMixin, ModelMixin, apply_forward_hook, register_to_config
from .autoencoder_temposync import ResidualBlock, check_moments
from .outputs import DecoderOutput, EncoderOutput

FRAMES = 8  # video frames a latent frame


def latent_frames(frames: int) -> int:
    """Latent frames of a clip: 8k + 1 -> k + 1. Raises ValueError for other numbers."""
    if frames < 1 or (frames - 1) % FRAMES:
        raise ValueError(f"A clip must have 8k + 1 frames, got {frames}.")
    return (frames - 1) // FRAMES + 1


def with_lead(frames: torch.Tensor, dim: int) -> torch.Tensor:
    """The first of 8k + 1 frames seven times more in front: what the first latent frame stands for, so that it is like all others."""
    return torch.cat([frames.narrow(dim, 0, 1)] * (FRAMES - 1) + [frames], dim)


def keep_scale(*modules: nn.Module) -> None:
    """Weights with which convolutions keep the size of what passes (He et al. 2015): torch's own let motion fade to a hundredth of the
    noise that training adds to the latents."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
                nn.init.zeros_(part.bias)


def smooth_joints(frames: torch.Tensor, share: float) -> torch.Tensor:
    """Frames [B, 8n + 1, ...] without the jump where one latent frame's eight end and the next one's begin.

    The jump is by how much more they change there than before and after, on the mean; a `share` of it is taken back, two thirds of
    that by the frame before the joint and one third by the one after, as the camera's frames want it in a fit by least squares.  The
    very first frame, which is a latent frame's only one, stays.
    """
    last = torch.arange(FRAMES, max(FRAMES, frames.shape[1] - 1), FRAMES, device=frames.device)
    before, end, start, after = (frames[:, last + step] for step in (-1, 0, 1, 2))
    jump = share * ((start - end) - ((end - before) + (after - start)) / 2)
    smooth = frames.clone()
    smooth[:, last] += 2 / 3 * jump
    smooth[:, last + 1] -= 1 / 3 * jump
    return smooth


class CausalMix(nn.Module):
    """Residual: each frame of [B, T, C, h, w] hears of the one before it; the first, of nothing."""

    def __init__(self, channels: int):
        super().__init__()
        self.previous = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.previous.weight)
        nn.init.zeros_(self.previous.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        return x + self.previous(F.silu(before).flatten(0, 1)).unflatten(0, x.shape[:2])


class TemporalEncoder(nn.Module):
    def __init__(self, channels: int, frame_channels: int, width: int, out_channels: int):
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(2 * channels, frame_channels, 3, padding=1), ResidualBlock(frame_channels), nn.SiLU(),
            nn.Conv2d(frame_channels, frame_channels, 4, stride=2, padding=1), ResidualBlock(frame_channels))
        self.join = nn.Conv2d(FRAMES * frame_channels, width, 1)
        self.before, self.mix, self.after = ResidualBlock(width), CausalMix(width), ResidualBlock(width)
        self.out = nn.Sequential(nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))
        keep_scale(self.frame, self.join, self.out)

    def forward(self, residual: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """residual [B, 8n, C, H, W], reference [B, C, H, W] -> [B, n, c, H/2, W/2]."""
        batch, count = residual.shape[:2]
        given = torch.cat([residual, reference[:, None].expand_as(residual)], 2)
        x = self.frame(given.flatten(0, 1)).unflatten(0, (batch, count // FRAMES, FRAMES)).flatten(2, 3)
        x = self.before(self.join(x.flatten(0, 1))).unflatten(0, (batch, count // FRAMES))
        return self.out(self.after(self.mix(x).flatten(0, 1))).unflatten(0, (batch, count // FRAMES))


class TemporalDecoder(nn.Module):
    def __init__(self, channels: int, frame_channels: int, width: int, in_channels: int):
        super().__init__()
        self.enter = nn.Conv2d(in_channels, width, 3, padding=1)
        self.before, self.mix, self.after = ResidualBlock(width), CausalMix(width), ResidualBlock(width)
        self.part = nn.Conv2d(width, FRAMES * frame_channels, 1)
        self.enlarge = nn.Sequential(nn.Conv2d(frame_channels, 4 * frame_channels, 1), nn.PixelShuffle(2))
        self.seen = nn.Conv2d(channels, frame_channels, 3, padding=1)
        self.fine = nn.Sequential(ResidualBlock(frame_channels), ResidualBlock(frame_channels), nn.SiLU(),
                                  nn.Conv2d(frame_channels, channels, 3, padding=1))
        keep_scale(self.enter, self.part, self.enlarge, self.seen)

    def forward(self, latents: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """latents [B, n, c, h, w], reference [B, C, 2h, 2w] -> residual [B, 8n, C, 2h, 2w]."""
        batch, count = latents.shape[:2]
        x = self.before(self.enter(latents.flatten(0, 1))).unflatten(0, (batch, count))
        x = self.part(F.silu(self.after(self.mix(x).flatten(0, 1))))
        x = self.enlarge(x.unflatten(1, (FRAMES, -1)).flatten(0, 1)).unflatten(0, (batch, count * FRAMES))
        x = x + self.seen(reference)[:, None]
        return self.fine(x.flatten(0, 1)).unflatten(0, (batch, count * FRAMES))


class AutoencoderTemporal(ModelMixin, ConfigMixin):
    """Codes clips of `AutoencoderTempoSync` latents as their residual to a reference picture; causal in time.

    Args:
        channels: of a frame's latents. latent_channels: of a latent frame's.
        frame_channels, width: features of a frame at 16 × 16 and 8 × 8 cells, and of a latent frame.
        joint_smoothing: how much of the jump between the eight frames of one latent frame and those of the next `decode` takes back, in
            [0, 1] (`smooth_joints`); the last of the eight then depends on the latent frame after them.
        latents_mean, latents_std: per channel, measured after training, so that diffusion sees zero mean and unit variance; None = 0, 1.
    """

    _group_offload_block_modules = ["encoder", "decoder"]

    @register_to_config
    def __init__(
        self, channels: int = 32, latent_channels: int = 128, frame_channels: int = 72, width: int = 128,
        latents_mean: list[float] | None = None, latents_std: list[float] | None = None, joint_smoothing: float = 0.0,
    ):
        super().__init__()
        check_moments(latents_mean, latents_std, latent_channels)
        self.encoder = TemporalEncoder(channels, frame_channels, width, latent_channels)
        self.decoder = TemporalDecoder(channels, frame_channels, width, latent_channels)

    def _moments(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = self.config.latent_channels
        mean = torch.tensor(self.config.latents_mean or [0.0] * count, dtype=like.dtype, device=like.device)
        std = torch.tensor(self.config.latents_std or [1.0] * count, dtype=like.dtype, device=like.device)
        return mean[:, None, None, None], std[:, None, None, None]

    def encode_raw(self, frames: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """`encode` before it is normalised: 0 for a clip that is its reference."""
        latent_frames(frames.shape[2])
        residual = with_lead((frames - reference[:, :, None]).transpose(1, 2), 1)
        still = self.encoder(torch.zeros_like(residual[:, :FRAMES * min(2, residual.shape[1] // FRAMES)]), reference)
        coded = self.encoder(residual, reference)
        return (coded - still[:, [0] + [-1] * (coded.shape[1] - 1)]).transpose(1, 2)

    def decode_raw(self, latents: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """`decode` of latents that are not normalised: the reference for latents of 0."""
        latents = latents.transpose(1, 2)
        still = self.decoder(torch.zeros_like(latents[:, :2]), reference)
        moved = self.decoder(latents, reference)
        still = torch.cat([still[:, :FRAMES], still[:, -FRAMES:].repeat(1, latents.shape[1] - 1, 1, 1, 1)], 1)
        frames = (reference[:, None] + moved - still)[:, FRAMES - 1:]
        if self.config.joint_smoothing:
            frames = smooth_joints(frames, self.config.joint_smoothing)
        return frames.transpose(1, 2)

    @apply_forward_hook
    def encode(self, frames: torch.Tensor, reference: torch.Tensor, return_dict: bool = True) -> EncoderOutput | tuple[torch.Tensor]:
        """`latent`: normalised, [B, c, k + 1, H/2, W/2].

        Latent frame 0 stands for frame 0, latent frame i for the frames 8(i - 1) + 1 … 8i, and depends on none after them.

        Args:
            frames: normalised ÷16 latents [B, C, 8k + 1, H, W]. reference: of a picture in the same crop, [B, C, H, W].

        Raises:
            ValueError: the number of frames is not 8k + 1.
        """
        raw = self.encode_raw(frames, reference)
        mean, std = self._moments(raw)
        latents = (raw - mean) / std
        return EncoderOutput(latent=latents) if return_dict else (latents,)

    @apply_forward_hook
    def encode_portrait(self, portrait: torch.Tensor, frames: int) -> torch.Tensor:
        """Temporal reference encoding (AsymTalker, arXiv 2605.02948): what it makes of a portrait that stands still for a whole clip.

        A residual to the portrait itself would be 0, whoever it is: this is the residual to latents of 0, the mean of all faces.  It says
        who the person is, without any weights of its own, and the first latent frame differs from the later ones as it does in clips.

        Args:
            portrait: normalised ÷16 latents [B, C, H, W]. frames: of the clip, 8k + 1.

        Returns:
            [B, c, k + 1, H/2, W/2], of unit deviation in each sample.
        """
        still = portrait[:, :, None].expand(-1, -1, frames, -1, -1)
        coded = self.encode_raw(still, torch.zeros_like(portrait))
        return coded / coded.std(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1e-6)

    @apply_forward_hook
    def decode(self, latents: torch.Tensor, reference: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """`sample`: ÷16 latents [B, C, 8k + 1, 2h, 2w] of normalised latents [B, c, k + 1, h, w] and the reference's [B, C, 2h, 2w]."""
        mean, std = self._moments(latents)
        frames = self.decode_raw(latents * std + mean, reference)
        return DecoderOutput(sample=frames) if return_dict else (frames,)

    def forward(self, frames: torch.Tensor, reference: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """`sample`: reconstruction of `frames`, same shape."""
        return self.decode(self.encode(frames, reference, return_dict=False)[0], reference, return_dict)
