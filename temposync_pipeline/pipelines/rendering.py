"""Latents to frames: the photo with that mouth or that face, as the patches by which each frame differs from it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch

from ..errors import InvalidInputError
from ..face.blend import Blender
from ..face.crop import LATENT_STRIDE, LATENT_WINDOW
from ..face.drawn_teeth import drawn_teeth
from ..face.inner_mouth import INNER_SHAPE, SCALE, block_of_window, cells_around
from ..face.life import Life, LivingPhoto
from ..face.mouth_box import Patch
from ..face.moving_photo import MovingPhoto
from ..face.own_teeth import UpperTeeth, own_teeth
from ..face.tone import known_crop
from ..face.warp import FLOW_STRIDE, HIDDEN_FROM, HIDDEN_TO, PhotoWarp, fine_block, inner_cells, inner_pixels
from ..models.autoencoder_temposync import AutoencoderTempoSync, Motion
from ..models.conditioning import latent_window
from ..models.devices import execution_device
from ..models.precision import inference_autocast

# What of a frame comes into the photo: "mouth", of latents of the mouth's block, in a head that is as in the photo; "face", all that moves
# in latents of the whole crop; "still", of these the mouth alone, the head held still.
COMPOSITIONS = ("mouth", "face", "still")
# Where it is in doubt, a decoder's flow is the mean of what may be, which is smaller: without this, mouths of six photographs opened 0.84
# times as far as their drivers', with it 0.86.
FLOW_GAIN = 1.15
# A painter that sees teeth in the photo paints them between lips that are nearly shut, too; the decoder does not. Rows of the crop up to
# which a gap is as good as shut, and from which it is open; by how many rows the photo's is higher while lips are not on their way to shut,
# and from which they are.
SHUT_TO, OPEN_FROM = 7, 10
SAME_TO, LOWER_FROM = 1.5, 4.0
# Rows of a column, and such columns, that are a gap; rows from it on that are lips.
LEAST_GAP, LEAST_WIDTH, LIP = 0.25, 4, 2


def decode_block(vae: AutoencoderTempoSync, latents: torch.Tensor, use_bfloat16: bool) -> np.ndarray:
    """Blocks of pixels, float32 [n, 16h, 16w, 3] in 0..255, of blocks of latents [n, C, h, w]."""
    with inference_autocast(latents, use_bfloat16):
        # CPUs convolve this memory layout faster.
        pixels = vae.decode(latents.to(execution_device(vae)).contiguous(memory_format=torch.channels_last)).sample
    return to_levels(pixels).permute(0, 2, 3, 1).cpu().numpy()


def to_levels(pixels: torch.Tensor) -> torch.Tensor:
    """Float32 in 0..255 of pixels in [-1, 1], which it may write over."""
    return pixels.float().clamp_(-1, 1).add_(1).mul_(127.5)


def closing_share(down: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """How far lips that the photo shows open are on their way to shut, [n] in [0, 1]: their gap is low, and lower than the photo's.

    Args:
        down: from pixels to where they come from in the photo, of the mouth's block, [n, 80, 96] in crop pixels.
        visibility: of the same, [n, 160, 192] in [0, 1].
    """
    shares = np.zeros(len(visibility), np.float32)
    for index, (moved, seen) in enumerate(zip(down, visibility, strict=True)):
        hidden = np.clip((1 - seen - HIDDEN_FROM) / (HIDDEN_TO - HIDDEN_FROM), 0, 1)
        heights = hidden.sum(0)
        columns = np.flatnonzero(heights > LEAST_GAP)
        if len(columns) < LEAST_WIDTH:
            continue
        # The lips beside the gap.
        gap = hidden[:, columns] > 0
        top, bottom = gap.argmax(0) - LIP, len(gap) - 1 - gap[::-1].argmax(0) + LIP
        top, bottom = np.maximum(top, 0), np.minimum(bottom, len(gap) - 1)
        from_top, from_bottom = (moved[edge // FLOW_STRIDE, columns // FLOW_STRIDE] for edge in (top, bottom))
        low = (OPEN_FROM - np.quantile(heights[columns], 0.9)) / (OPEN_FROM - SHUT_TO)
        lower = ((from_bottom - from_top).mean() - SAME_TO) / (LOWER_FROM - SAME_TO)
        shares[index] = np.clip(low, 0, 1) * np.clip(lower, 0, 1)
    return shares


class Renderer(Protocol):
    """Makes frames of one photo: first what the networks say, of many frames at once, then the pixels, frame by frame."""

    def decode(self, latents: torch.Tensor, use_bfloat16: bool) -> Sequence[Any]:
        """What `patch` takes, of each frame, given latents [n, C, h, w] (`rendered_part`)."""

    def patch(self, decoded: Any) -> Patch:
        """What one frame changes in the photo."""


class ColourRenderer:
    """All of the mouth's region is the decoder's colour: for autoencoders that don't know where pixels come from.

    Args:
        vae, photo (uint8 [H, W, 3]), matrix (photo to crop, [2, 3]), latents of `known_crop` [1, C, 16, 16], use_bfloat16.
    """

    def __init__(self, vae: AutoencoderTempoSync, photo: np.ndarray, matrix: np.ndarray, latents: torch.Tensor, use_bfloat16: bool):
        self.vae = vae
        # Decoded by the block, as every frame will be, so that what differs later is motion alone.
        decoded = decode_block(vae, latent_window(latents), use_bfloat16)[0]
        self._canvas = _placed(known_crop(photo, matrix).astype(np.float32), decoded)
        self._blender = Blender(photo, matrix, reference_reconstruction=self._canvas)

    def decode(self, latents: torch.Tensor, use_bfloat16: bool) -> Sequence[np.ndarray]:
        return list(decode_block(self.vae, latents, use_bfloat16))

    def patch(self, decoded: np.ndarray) -> Patch:
        return self._blender.patch(_placed(self._canvas, decoded))


class DecodedMouth(NamedTuple):
    """What the networks say of one frame: arguments of `PhotoWarp.patch`, which says their shapes and units."""

    flow: np.ndarray
    visibility: np.ndarray
    colours: np.ndarray | None


class MotionRenderer:
    """The photo's own pixels, moved, and where the photo doesn't show what the frame does, the inside of a mouth with upper teeth, the
    photo's own or drawn; where neither are to be had, one painted at twice the crop's resolution; and the decoder's colours where lips
    close over painted teeth, and of an autoencoder that does not know the inside of mouths.

    Args:
        vae, photo (uint8 [H, W, 3]), matrix (photo to crop, [2, 3]), latents of `known_crop` [1, C, 16, 16], use_bfloat16.
        landmarks: [131, 2] in the crop; None = all teeth are painted. teeth: known from elsewhere.
    """

    def __init__(self, vae: AutoencoderTempoSync, photo: np.ndarray, matrix: np.ndarray, latents: torch.Tensor, use_bfloat16: bool,
                 landmarks: np.ndarray | None = None, teeth: UpperTeeth | None = None):
        self.vae, self._reference = vae, latent_window(latents)
        self._at_rest: dict[tuple[bool, torch.device], Motion] = {}  # of the reference, by how and where it was computed
        if teeth is None and landmarks is not None:
            teeth = own_teeth(photo, matrix, landmarks) or drawn_teeth(photo, matrix, landmarks)
        self._warp, self._needs_colours = PhotoWarp(photo, matrix, vae.knows_inner_mouth, teeth), teeth is None
        paints = vae.knows_inner_mouth and self._needs_colours
        self._seen = self._look(fine_block(photo, matrix), use_bfloat16) if paints else None

    def _look(self, block: np.ndarray, use_bfloat16: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """What the autoencoder takes of the photo's own mouth, uint8 [128, 192, 3]."""
        picture = torch.from_numpy(block.copy()).permute(2, 0, 1)[None].to(execution_device(self.vae)).float() / 127.5 - 1
        with inference_autocast(picture, use_bfloat16):
            return self.vae.seen_mouth(picture.to(self.vae.dtype))

    def decode(self, latents: torch.Tensor, use_bfloat16: bool) -> Sequence[DecodedMouth]:
        device = execution_device(self.vae)
        latents = latents.to(device)
        with inference_autocast(latents, use_bfloat16):
            reference = self._reference.to(device)
            if (computed := (use_bfloat16, device)) not in self._at_rest:
                self._at_rest[computed] = self.vae.motion_at_rest(reference)
            flow, visibility = self.vae.motion(latents, reference, self._at_rest[computed])
        colours: list[np.ndarray | None] = [None] * len(latents)  # of a closed mouth, and where none are needed
        hidden = 1 - (inner_pixels if self._needs_colours and self._seen is None else block_of_window)(visibility)
        flows, seen = (FLOW_GAIN * flow).permute(0, 2, 3, 1).cpu().numpy(), visibility[:, 0].cpu().numpy()
        is_open = np.flatnonzero(torch.amax(hidden, (1, 2, 3)).cpu().numpy() > HIDDEN_FROM)
        if self._needs_colours and len(is_open):
            closing = closing_share(flows[is_open, ..., 1], seen[is_open])
            for index, picture in zip(is_open, self._colours(latents[is_open], hidden[is_open], closing, use_bfloat16)):
                colours[index] = picture
        return list(map(DecodedMouth, flows, seen, colours))

    def _colours(self, latents: torch.Tensor, hidden: torch.Tensor, closing: np.ndarray, use_bfloat16: bool) -> np.ndarray:
        """The inside of open mouths in 0..255, float32 [n, 128, 192, 3] if it is painted, else [n, 112, 128, 3].

        hidden: [n, 1, h, w]. closing: `closing_share`, [n].
        """
        if self._seen is None:
            return decode_block(self.vae, inner_cells(latents), use_bfloat16)
        rows, columns = (SCALE * LATENT_STRIDE * cells for cells in INNER_SHAPE)
        colours = np.empty((len(latents), rows, columns, 3), np.float32)
        if len(painted := np.flatnonzero(closing < 1)):
            reference = cells_around(self._reference.to(latents.device))
            with inference_autocast(latents, use_bfloat16):
                pixels = self.vae.inner_mouth(cells_around(latents[painted]), reference, hidden[painted].to(latents.dtype), self._seen)
            colours[painted] = to_levels(pixels).permute(0, 2, 3, 1).cpu().numpy()
        if len(shut := np.flatnonzero(closing)):
            # With the cells above it. Those below and beside it are farther from where lips shut: in six photos they would change one to
            # two levels of 255 there in the mean, 20 at most.
            decoded = decode_block(self.vae, cells_around(latents[shut])[..., :-1, 1:-1], use_bfloat16)
            for index, block in zip(shut, decoded[:, LATENT_STRIDE:]):
                lips = cv2.resize(block, colours.shape[2:0:-1], interpolation=cv2.INTER_CUBIC)
                colours[index] = lips if closing[index] == 1 else colours[index] + closing[index] * (lips - colours[index])
        return colours

    def patch(self, decoded: DecodedMouth) -> Patch:
        return self._warp.patch(**decoded._asdict())


class FaceRenderer:
    """The photo's own pixels along the motion between two decoded crops, and the decoder's colours where they do not show what the frame
    does.

    Args:
        vae, photo (uint8 [H, W, 3]), matrix (photo to crop, [2, 3]), latents of `known_crop` [1, C, 16, 16], use_bfloat16.
        still: the mouth alone.
    """

    def __init__(self, vae: AutoencoderTempoSync, photo: np.ndarray, matrix: np.ndarray, latents: torch.Tensor, use_bfloat16: bool,
                 still: bool):
        self.vae = vae
        self._photo = MovingPhoto(photo, matrix, decode_block(vae, latents, use_bfloat16)[0], still)

    def decode(self, latents: torch.Tensor, use_bfloat16: bool) -> Sequence[np.ndarray]:
        return list(decode_block(self.vae, latents, use_bfloat16))

    def patch(self, decoded: np.ndarray) -> Patch:
        return self._photo.patch(decoded)


class LivingRenderer:
    """What another renderer makes, in a photo that lives: every patch is one frame later than the one before.

    Args:
        renderer: of the mouth. photo: whose lids and head move. life: of each frame.
    """

    def __init__(self, renderer: Renderer, photo: LivingPhoto, life: Iterator[Life]):
        self._renderer, self._photo, self._life = renderer, photo, life

    def decode(self, latents: torch.Tensor, use_bfloat16: bool) -> Sequence[Any]:
        return self._renderer.decode(latents, use_bfloat16)

    def patch(self, decoded: Any) -> Patch:
        return self._photo.patch(self._renderer.patch(decoded), next(self._life))


def rendered_part(latents: torch.Tensor, composition: str) -> torch.Tensor:
    """What `Renderer.decode` takes of latents [n, C, 16, 16]: the mouth's block, or all.

    Raises InvalidInputError for latents that are not finite: pixels would not show it.
    """
    if not latents.isfinite().all():
        raise InvalidInputError("the model's latents are not finite: the weights of its denoiser or of an adapter cannot be used")
    return latent_window(latents) if composition == "mouth" else latents


def make_renderer(
    vae: AutoencoderTempoSync, photo: np.ndarray, matrix: np.ndarray, latents: torch.Tensor, use_bfloat16: bool, composition: str = "mouth",
    landmarks: np.ndarray | None = None, teeth: UpperTeeth | None = None,
) -> Renderer:
    """The renderer for one of `COMPOSITIONS` that fits the autoencoder.

    `latents` are those of the photo's crop, [1, C, 16, 16]; `landmarks` [131, 2] in the crop, None where all teeth are painted, unless
    some are known from elsewhere: `teeth`.
    """
    if composition != "mouth":
        return FaceRenderer(vae, photo, matrix, latents, use_bfloat16, composition == "still")
    if vae.knows_motion:
        return MotionRenderer(vae, photo, matrix, latents, use_bfloat16, landmarks, teeth)
    return ColourRenderer(vae, photo, matrix, latents, use_bfloat16)


def _placed(crop: np.ndarray, block: np.ndarray) -> np.ndarray:
    """A copy of the crop [256, 256, 3] with a block of decoded latents in its place."""
    top, left, height, width = (LATENT_STRIDE * cells for cells in LATENT_WINDOW)
    placed = crop.copy()
    placed[top:top + height, left:left + width] = block
    return placed
