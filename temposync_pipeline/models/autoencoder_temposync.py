"""The picture autoencoder: RGB [B, 3, H, W] <-> latents [B, 32, H/16, W/16].

Convolutions only, and no normalisation that looks at the whole picture: a block of latents decodes to
the same pixels alone as inside the full grid (away from the block's edges), so the pipeline
decodes just the block that covers the mouth.  Pixels enter and leave through a pixel (un)shuffle by
two: no layer works at full resolution, where a CPU spends its time moving memory.

Beside the colours of a frame, the decoder says where in a reference picture each pixel comes from
(`motion`): a photograph has more detail than any latents hold, and most of a speaking face is that
photograph, moved.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..bases import ConfigMixin, ModelMixin, apply_forward_hook, register_to_config
from ..bases.packed import Conv2d
from .outputs import DecoderOutput, EncoderOutput

# What is said of pictures' pixels: where they come from, and whether they are hidden there.
Motion = tuple[torch.Tensor, torch.Tensor]


def check_moments(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> None:
    """Raises ValueError unless both are None or have a number a channel, deviations above 0."""
    if any(values is not None and len(values) != channels for values in (mean, std)) or std is not None and min(std) <= 0:
        raise ValueError(f"means and standard deviations should be {channels} each, deviations above 0")


class ResidualBlock(nn.Module):
    """x + s·conv(silu(conv(x))), with a learned scale s per channel that starts small; [B, C, H, W] in and out."""

    def __init__(self, channels: int, initial_scale: float = 0.1):
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.conv2 = Conv2d(channels, channels, 3, padding=1)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), initial_scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv2(F.silu(self.conv1(x), inplace=not torch.is_grad_enabled()))
        return (self.scale * hidden).add_(x)  # in place: large pictures are decoded in less time and memory


def _stage(channels: int, blocks: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(blocks)]


class Encoder(nn.Module):
    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...], latent_channels: int):
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), Conv2d(12, channels[0], 3, padding=1), *_stage(channels[0], blocks[0])]
        for previous, width, depth in zip(channels, channels[1:], blocks[1:]):
            layers += [Conv2d(previous, width, 4, stride=2, padding=1), *_stage(width, depth)]
        layers += [nn.SiLU(), Conv2d(channels[-1], latent_channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels)


class Decoder(nn.Module):
    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...], latent_channels: int):
        super().__init__()
        layers: list[nn.Module] = [Conv2d(latent_channels, channels[0], 3, padding=1), *_stage(channels[0], blocks[0])]
        for previous, width, depth in zip(channels, channels[1:], blocks[1:]):
            layers += [Conv2d(previous, 4 * width, 3, padding=1), nn.PixelShuffle(2), *_stage(width, depth)]
        layers += [nn.SiLU(), Conv2d(channels[-1], 12, 3, padding=1), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(latents)


class MotionDecoder(nn.Module):
    """Latents of frames and of their references -> where the frames' pixels come from (`AutoencoderTempoSync.motion`).

    What it says of a reference itself is subtracted, so that a still picture stays where it is, whatever the weights.  Most of the work
    is done at strides 16 and 8; flow is smooth, and the edge of what is hidden unfolds from the features of one stride-4 cell.
    """

    FLOW_UNIT = 8.0  # crop pixels: about the deviation of a jaw's motion
    STILL_LOGIT = -4.0  # of being hidden
    STRETCH = 1.04  # of the logistic function, so that nothing is hidden in a still picture

    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...], latent_channels: int):
        super().__init__()
        layers: list[nn.Module] = [Conv2d(2 * latent_channels, channels[0], 3, padding=1), *_stage(channels[0], blocks[0])]
        for previous, width, depth in zip(channels, channels[1:], blocks[1:]):
            layers += [Conv2d(previous, 4 * width, 3, padding=1), nn.PixelShuffle(2), *_stage(width, depth)]
        self.layers = nn.Sequential(*layers, nn.SiLU())
        self.flow = nn.Sequential(Conv2d(channels[-1], 8, 3, padding=1), nn.PixelShuffle(2))
        self.hidden = nn.Sequential(Conv2d(channels[-1], 16, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, latents: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Flow [B, 2, 8h, 8w] in units of FLOW_UNIT and the logit of being hidden [B, 1, 16h, 16w], float32, with what it says of the
        references themselves still in them; latents [R·k, C, h, w], reference [R, C, h, w]."""
        each = reference.repeat_interleave(latents.shape[0] // reference.shape[0], 0)
        features = self.layers(torch.cat([latents - each, each], 1).contiguous(memory_format=torch.channels_last))
        return self.flow(features).float(), self.hidden(features).float()


class InnerMouthDecoder(nn.Module):
    """Paints the inside of the mouth at twice the crop's resolution (`AutoencoderTempoSync.inner_mouth`).

    A denoiser's latents say how far the mouth is open and roughly how bright it is where, seldom what a tooth looks like: that comes from
    what the network knows of teeth, and from the reference picture, pixel for pixel, where that shows them: upper teeth are fixed to the
    head, and crops are aligned to it.  Convolutions do not know where in the block they are: what is usual at each place is learnt beside
    them, for a block of `placed` rows and columns of cells.
    """

    MARGIN = 1  # latent cells around the block that it looks at

    def __init__(
        self, channels: tuple[int, ...], blocks: tuple[int, ...], latent_channels: int, placed: tuple[int, int] | None = None
    ):
        super().__init__()
        coarsest, coarse, middle, fine = channels
        self.coarsest = nn.Sequential(Conv2d(2 * latent_channels, coarsest, 3, padding=1), *_stage(coarsest, blocks[0]))
        self.coarse = nn.Sequential(Conv2d(coarsest, 4 * coarse, 3, padding=1), nn.PixelShuffle(2), *_stage(coarse, blocks[1]))
        self.to_middle = nn.Sequential(Conv2d(coarse, 4 * middle, 3, padding=1), nn.PixelShuffle(2))
        self.middle = nn.Sequential(*_stage(middle, blocks[2]))
        self.to_fine = nn.Sequential(Conv2d(middle, 4 * fine, 3, padding=1), nn.PixelShuffle(2))
        self.fine = nn.Sequential(*_stage(fine, blocks[3]), nn.SiLU(), Conv2d(fine, 48, 3, padding=1), nn.PixelShuffle(4))
        # What is seen beside the latents enters where its resolution is the network's: what is hidden, and the reference picture.
        self.hidden_to_middle = nn.Sequential(nn.PixelUnshuffle(4), Conv2d(16, middle, 3, padding=1))
        self.hidden_to_fine = nn.Sequential(nn.PixelUnshuffle(2), Conv2d(4, fine, 3, padding=1))
        self.picture = nn.Sequential(nn.PixelUnshuffle(4), Conv2d(48, 2 * fine, 3, padding=1), ResidualBlock(2 * fine), nn.SiLU())
        self.picture_to_fine = Conv2d(2 * fine, 2 * fine, 3, padding=1)
        self.picture_to_middle = Conv2d(2 * fine, middle, 4, stride=2, padding=1)
        if placed is not None:
            self.place_middle = nn.Parameter(torch.zeros(middle, *(4 * cells for cells in placed)))
            self.place_fine = nn.Parameter(torch.zeros(fine, *(8 * cells for cells in placed)))
        self.knows_places = placed is not None

    def seen(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network knows of references [R, 3, 32h, 32w] once for all their frames: [R, c, 4h, 4w] and [R, 2c, 8h, 8w]."""
        features = self.picture(picture)
        return self.picture_to_middle(features), self.picture_to_fine(features)

    def forward(
        self, latents: torch.Tensor, reference: torch.Tensor, hidden: torch.Tensor, to_middle: torch.Tensor, to_fine: torch.Tensor
    ) -> torch.Tensor:
        """Pixels [R·k, 3, 32h, 32w]; latents [R·k, C, h + 2, w + 2], reference [R, C, h + 2, w + 2], hidden [R·k, 1, 16h, 16w], and what
        `seen` returns."""
        frames, edge = latents.shape[0] // reference.shape[0], self.MARGIN
        each = reference.repeat_interleave(frames, 0)
        if len(reference) > 1:  # a single reference's is broadcast
            to_middle, to_fine = (part.repeat_interleave(frames, 0) for part in (to_middle, to_fine))
        x = self.coarsest(torch.cat([latents - each, each], 1).contiguous(memory_format=torch.channels_last))
        x = self.to_middle(self.coarse(x[..., edge:-edge, edge:-edge]))
        x = x + self.hidden_to_middle(hidden) + to_middle
        x = self.middle(x + self.place_middle.to(x.dtype) if self.knows_places else x)
        # Part of the reference's pixels is let through as the frame wants it.
        kept, gate = to_fine.chunk(2, 1)
        x = self.to_fine(x) + self.hidden_to_fine(hidden)
        x = x + self.place_fine.to(x.dtype) if self.knows_places else x
        return self.fine(x + kept * (x + gate).sigmoid())


class AutoencoderTempoSync(ModelMixin, ConfigMixin):
    """÷16 autoencoder with 32 latent channels and a slim decoder (equation 2 of arXiv 2603.06057).

    Latents are normalised per channel with `latents_mean` and `latents_std`, measured on training
    crops after training, so that diffusion sees zero mean and unit variance.

    Args:
        latent_channels: channels of the latent grid.
        encoder_channels, encoder_blocks: widths and residual blocks at strides 2, 4, 8, 16.
        decoder_channels, decoder_blocks: widths and residual blocks at strides 16, 8, 4, 2.
        latents_mean, latents_std: per channel; None means 0 and 1.
        motion_channels, motion_blocks: widths and residual blocks of `motion` at strides 16, 8, 4; None = an autoencoder without it.
        inner_channels, inner_blocks: widths and residual blocks of `inner_mouth` at strides 16, 8, 4, 2; None = an autoencoder without it.
        inner_placed: rows and columns of cells of the only block that `inner_mouth` then paints, each place of which it knows; None = of
            any block.
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
        motion_channels: tuple[int, int, int] | None = None,
        motion_blocks: tuple[int, int, int] = (3, 2, 1),
        inner_channels: tuple[int, int, int, int] | None = None,
        inner_blocks: tuple[int, int, int, int] = (1, 2, 2, 2),
        inner_placed: tuple[int, int] | None = None,
    ):
        super().__init__()
        check_moments(latents_mean, latents_std, latent_channels)
        self.encoder = Encoder(tuple(encoder_channels), tuple(encoder_blocks), latent_channels)
        self.decoder = Decoder(tuple(decoder_channels), tuple(decoder_blocks), latent_channels)
        if motion_channels is not None:
            self.motion_decoder = MotionDecoder(tuple(motion_channels), tuple(motion_blocks), latent_channels)
        if inner_channels is not None:
            self.inner_decoder = InnerMouthDecoder(tuple(inner_channels), tuple(inner_blocks), latent_channels, inner_placed)

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
    def encode(self, pixels: torch.Tensor, return_dict: bool = True) -> EncoderOutput | tuple[torch.Tensor]:
        """`latent`: normalised [B, C, H/16, W/16], of pixels [B, 3, H, W] in [-1, 1]; H and W divisible by 16."""
        if pixels.shape[-1] % self.stride or pixels.shape[-2] % self.stride:
            raise ValueError(f"Height and width must be divisible by {self.stride}, got {tuple(pixels.shape[-2:])}.")
        latents = self.encoder(pixels)
        mean, std = self._moments(latents)
        latents = (latents - mean) / std
        return EncoderOutput(latent=latents) if return_dict else (latents,)

    @apply_forward_hook
    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """`sample`: pixels [B, 3, 16h, 16w], nominally in [-1, 1] but not clamped, of normalised latents [B, C, h, w]."""
        mean, std = self._moments(latents)
        pixels = self.decoder(latents * std + mean)
        return DecoderOutput(sample=pixels) if return_dict else (pixels,)

    @property
    def knows_motion(self) -> bool:
        """Whether it has `motion`; older checkpoints decode colours only."""
        return self.config.motion_channels is not None

    @apply_forward_hook
    def motion_at_rest(self, reference: torch.Tensor) -> Motion:
        """What `motion` subtracts: what its network says of references [R, C, h, w] themselves, [R, 2, 8h, 8w] and [R, 1, 16h, 16w]."""
        twice = torch.cat([reference, reference])  # a CPU may compute a single picture in another order than several
        flow, logit = self.motion_decoder(twice, reference.repeat(2, 1, 1, 1) if len(reference) > 1 else reference)
        return flow[:len(reference)], logit[:len(reference)]

    @apply_forward_hook
    def motion_logits(self, latents: torch.Tensor, reference: torch.Tensor, at_rest: Motion | None = None) -> Motion:
        """`motion` with the logit of being hidden, [R·k, 1, 16h, 16w], in place of the visibility."""
        count, frames = len(latents), len(latents) // len(reference)
        if at_rest is None:
            each = reference.repeat_interleave(frames, 0)
            said = self.motion_decoder(torch.cat([latents, reference]), torch.cat([each, reference]))
            at_rest, said = (said[0][count:], said[1][count:]), (said[0][:count], said[1][:count])
        else:
            said = self.motion_decoder(latents, reference)
        flow, logit = (moving - still.repeat_interleave(frames, 0) for moving, still in zip(said, at_rest, strict=True))
        return MotionDecoder.FLOW_UNIT * flow, MotionDecoder.STILL_LOGIT + logit

    @apply_forward_hook
    def motion(self, latents: torch.Tensor, reference: torch.Tensor, at_rest: Motion | None = None) -> Motion:
        """Where the pixels of frames come from in the picture that `reference` encodes; exactly "from where they are" for itself.

        Args:
            latents: normalised, [R·k, C, h, w], k frames of each reference one after the other.
            reference: normalised, [R, C, h, w].
            at_rest: `motion_at_rest` of the reference, where it serves for many calls.

        Returns the flow [R·k, 2, 8h, 8w], float32: the pixel at (x, y) is the reference's at (x, y) + flow, in pixels, one value for
        2 × 2 of them; and the visibility [R·k, 1, 16h, 16w], float32 in [0, 1]: 0 where the reference does not show what the frame does.
        """
        flow, logit = self.motion_logits(latents, reference, at_rest)
        stretch = MotionDecoder.STRETCH
        return flow, (1 - (stretch * logit.sigmoid() - (stretch - 1) / 2)).clamp(0, 1)

    @property
    def knows_inner_mouth(self) -> bool:
        """Whether it has `inner_mouth`."""
        return self.config.inner_channels is not None

    @apply_forward_hook
    def seen_mouth(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `inner_mouth` takes of references' own pixels [R, 3, 32h, 32w] in [-1, 1], twice the crop's resolution."""
        return self.inner_decoder.seen(picture)

    @apply_forward_hook
    def inner_mouth(
        self, latents: torch.Tensor, reference: torch.Tensor, hidden: torch.Tensor, seen: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """The inside of mouths at twice the crop's resolution: pixels [R·k, 3, 32h, 32w], nominally in [-1, 1] but not clamped.

        Args:
            latents: normalised, [R·k, C, h + 2, w + 2], k frames of each reference one after the other; of the block that is painted
                (`face.inner_mouth.BLOCK`) and one cell around it.
            reference: normalised, [R, C, h + 2, w + 2].
            hidden: 1 - visibility of the frames (`motion`), [R·k, 1, 16h, 16w], of the block.
            seen: `seen_mouth` of the references.
        """
        return self.inner_decoder(latents, reference, hidden, *seen)

    def forward(self, pixels: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """`sample`: reconstruction of `pixels`, same shape."""
        return self.decode(self.encode(pixels, return_dict=False)[0], return_dict)
