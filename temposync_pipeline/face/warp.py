"""Moves a photo's own pixels, at its own resolution, and fills in what it does not show.

A decoder that works in a 256 px crop knows little of a photo's stubble and pores, but it can tell where they go. Its flow, smooth and a
fraction of the photo's size, is enlarged to the photo and fades to nothing at the edge of `mouth_mask`: every pixel comes from one place of
the photo, so there is no seam, and no ghost of the photo's own lips beside the new ones. Only what the photo hides, the inside of the
mouth, is painted, or the decoder's own colour, in the tone that the photo has around it; or, where its upper teeth are known, drawn
(`open_mouth`).
"""

from typing import NamedTuple

import cv2
import numpy as np

from .blend import MAX_TONE_SHIFT
from .crop import LATENT_STRIDE, LATENT_WINDOW, crop_face, mouth_mask
from .inner_mouth import BLOCK, SCALE, block_of_photo
from .mouth_box import HEIGHT, LEFT, TOP, WIDTH, WINDOW, MouthBox, Patch, Rectangle, window_of
from .open_mouth import FLESH, LIGHTER_THAN_LIPS, open_mouth
from .own_teeth import UpperTeeth
from .tone import LUMA, read_tone, without_green

# Top, left, height, width in latent cells of the block outside which nothing is ever hidden: the inside of the mouth, and a cell around
# it, since a block decoded alone is wrong at its edges.  Decoding no other colours halves the decoder's time.
INNER_WINDOW = (8, 4, 7, 8)
INNER_EDGE, INNER_FEATHER = 8, 8  # crop pixels of that block that are never used, and over which its use begins
FLOW_STRIDE = 2  # crop pixels a value of the flow
STILL_FLOW = 0.04  # crop pixels: motion too small to be seen
# What is as likely hidden as not is hidden: lips have an edge, and doubt would blur it.
HIDDEN_FROM, HIDDEN_TO = 0.15, 0.55
# Crop pixels around what is hidden that are the decoder's too: where lips part, a smooth flow tears, and draws the photo's lip line twice.
LIP_RIM, RIM_SOFTNESS = 3, 0.8
# A denoiser's teeth are the mean of the teeth that may be: as decoded, softer than they are, by about this blur in crop pixels and this
# much.
SOFTNESS, SHARPENING = 2.0, 0.8
# And what is painted, in its own pixels, of which two to four make a pattern that should stay as faint as it is.
PAINTED_SOFTNESS, PAINTED_SHARPENING, PAINTED_GRAIN = 3.0, 1.0, 1.2
# Tone is compared in cells of some crop pixels and spread over some cells: across half an open mouth.
TONE_CELL, TONE_SPREAD = 4, 2.5
TONE_MARGIN = 6 * TONE_CELL
# The photo's grain: what a blur of so many of its pixels takes away, in cells of so many, of the smoothest share of them;
# blur of the grain that is given instead; and at most so many levels.
GRAIN_BLUR, GRAIN_SIZE, GRAIN_CELL, SMOOTHEST, MOST_GRAIN = 1.2, 0.6, 9, 0.2, 4.0
# Crop pixels around what is hidden from which lips are carried on into it.
LIPS_MARGIN = 12
# Where the window lies in the decoder's block of the crop.
_BLOCK_TOP, _BLOCK_LEFT = TOP - LATENT_STRIDE * LATENT_WINDOW[0], LEFT - LATENT_STRIDE * LATENT_WINDOW[1]
# And the inner block in the window, that of the crop's resolution and that of twice as much.
_FINE = Rectangle(BLOCK.y0 - TOP, BLOCK.y1 - TOP, BLOCK.x0 - LEFT, BLOCK.x1 - LEFT)
FINE_EDGE, FINE_FEATHER = 0, 5  # crop pixels, of the latter
_INNER = Rectangle(LATENT_STRIDE * INNER_WINDOW[0] - TOP, LATENT_STRIDE * (INNER_WINDOW[0] + INNER_WINDOW[2]) - TOP,
                   LATENT_STRIDE * INNER_WINDOW[1] - LEFT, LATENT_STRIDE * (INNER_WINDOW[1] + INNER_WINDOW[3]) - LEFT)


def inner_cells(latents: np.ndarray) -> np.ndarray:
    """The cells of `INNER_WINDOW`, a view [..., 7, 8] of an array or tensor of the crop's block [..., 10, 12]."""
    top, left = INNER_WINDOW[0] - LATENT_WINDOW[0], INNER_WINDOW[1] - LATENT_WINDOW[1]
    return latents[..., top:top + INNER_WINDOW[2], left:left + INNER_WINDOW[3]]


def inner_pixels(block: np.ndarray) -> np.ndarray:
    """The pixels of `INNER_WINDOW`, a view [..., 112, 128] of an array or tensor of the crop's block [..., 160, 192].

    Where they hide nothing no colours are needed: the rim of what is hidden around them reaches no further than `INNER_EDGE`.
    """
    top, left = (LATENT_STRIDE * (INNER_WINDOW[axis] - LATENT_WINDOW[axis]) for axis in (0, 1))
    return block[..., top:top + LATENT_STRIDE * INNER_WINDOW[2], left:left + LATENT_STRIDE * INNER_WINDOW[3]]


def _window_of_block(block: np.ndarray, stride: int = 1) -> np.ndarray:
    top, left = _BLOCK_TOP // stride, _BLOCK_LEFT // stride
    return block[top:top + HEIGHT // stride, left:left + WIDTH // stride]


def _seen_from(block: Rectangle, part: Rectangle) -> Rectangle:
    """A part of the window in a block's own rows and columns."""
    return Rectangle(part.y0 - block.y0, part.y1 - block.y0, part.x0 - block.x0, part.x1 - block.x0)


def _inner_mask(block: Rectangle, edge: int, feather: int) -> np.ndarray:
    """Where something may be hidden, float32 [HEIGHT, WIDTH]: in a block of the window, from `edge` px inside it on."""
    inside = np.zeros((HEIGHT + 2, WIDTH + 2), np.uint8)
    block.of(inside[1:-1, 1:-1])[:] = 1
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return np.clip((depth - edge) / feather, 0, 1) * window_of(mouth_mask())


def fine_block(photo: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A photo's own pixels where the inside of a mouth is painted, uint8 [128, 192, 3], in the colours that the networks know."""
    return read_tone(crop_face(photo, matrix)).to_known(block_of_photo(photo, matrix))


def _with_rim(hidden: np.ndarray) -> np.ndarray:
    """What is hidden, float32 [h, w] in [0, 1], and the edge of the lips around it."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * LIP_RIM + 1, 2 * LIP_RIM + 1))
    return cv2.GaussianBlur(cv2.dilate(hidden, disc), (0, 0), RIM_SOFTNESS)


def tone_difference(colours: np.ndarray, truth: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """How much lighter than `colours` the photo is, float32 [h, w, 3] in levels: smooth, measured where it shows the face, and carried on
    into what it hides; pictures [h, w, 3] in 0..255, both toned alike, `hidden` [h, w] in [0, 1]."""
    size = max(1, hidden.shape[1] // TONE_CELL), max(1, hidden.shape[0] // TONE_CELL)
    shown = (1 - hidden)[..., None]
    difference = np.clip(truth - colours, -MAX_TONE_SHIFT, MAX_TONE_SHIFT) * shown
    cells = cv2.resize(np.dstack([difference, shown]), size, interpolation=cv2.INTER_AREA)
    cells = cv2.GaussianBlur(cells, (0, 0), TONE_SPREAD, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(cells[..., :3] / (cells[..., 3:] + 1e-3), hidden.shape[::-1], interpolation=cv2.INTER_LINEAR)


def sharpened(colours: np.ndarray, softness: float, share: float, grain: float = 0.0) -> np.ndarray:
    """Unsharp masking: a picture float32 [h, w, 3] in 0..255 with a share more of what its luma has that a Gaussian of `softness` pixels
    (its standard deviation) takes away, and one of `grain` pixels does not."""
    luma = cv2.transform(colours, LUMA[None])
    fine = cv2.GaussianBlur(luma, (0, 0), grain) if grain else luma
    detail = cv2.addWeighted(fine, share, cv2.GaussianBlur(luma, (0, 0), softness), -share, 0)
    return colours + detail[..., None]


class _TeethInPhoto(NamedTuple):
    """`UpperTeeth` in the rectangle of a `MouthBox`: `share` float32 [h, w, 1] in [0, 1], `pixels` uint8 [h, w, 3]; `lips` in the window,
    float32 [HEIGHT, WIDTH] in [0, 1]; `light`: the teeth's luma in 0..255, in the colours that the networks know; `grain`: the photo's
    noise, float32 [h, w, 1] in levels."""

    share: np.ndarray
    pixels: np.ndarray
    lips: np.ndarray
    light: float
    grain: np.ndarray
    lips_are_shut: bool


class PhotoWarp:
    """Makes frames out of one photo; everything that depends on the photo alone is computed here, once.

    Args:
        photo: RGB uint8 [H, W, 3], any size.
        matrix: affine from photo to crop pixels, [2, 3] (`face.crop.align_matrix`).
        fine: whether the colours come at twice the crop's resolution, of `face.inner_mouth.BLOCK`, else at its own, of `INNER_WINDOW`.
        teeth: those that stay where they are, where the photo shows its own (`own_teeth`), or drawn (`drawn_teeth`); with them no colours
            are needed.
    """

    def __init__(self, photo: np.ndarray, matrix: np.ndarray, fine: bool = False, teeth: UpperTeeth | None = None):
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
            raise ValueError(f"photo must be uint8 [H, W, 3], got {photo.dtype} {photo.shape}")
        self.photo = photo
        self.box = MouthBox(photo.shape[:2], matrix)
        crop = crop_face(photo, matrix)
        self._tone = read_tone(crop)
        self._crop = window_of(self._tone.to_known(crop))
        self._fine = fine
        self._inner_mask = _inner_mask(_FINE, FINE_EDGE, FINE_FEATHER) if fine or teeth is not None else _inner_mask(
            _INNER, INNER_EDGE, INNER_FEATHER)
        reach = cv2.resize(window_of(mouth_mask()), (WIDTH // FLOW_STRIDE, HEIGHT // FLOW_STRIDE), interpolation=cv2.INTER_AREA)
        # Enlarging carries a value to the next ones; nothing may reach beyond the mask.
        self._flow_mask = np.where(cv2.erode(reach, np.ones((3, 3), np.uint8)) > 0, reach, 0)[..., None]
        self._teeth = None if teeth is None else self._in_photo(teeth)
        self._to_photo_pixels = np.linalg.inv(np.asarray(matrix, np.float64)[:, :2]).astype(np.float32)

    def patch(self, flow: np.ndarray, visibility: np.ndarray, colours: np.ndarray | None) -> Patch:
        """What one frame changes in the photo; outside `mouth_mask`, and where nothing moves, pixels are the photo's to the bit.

        Args:
            flow: float32 [80, 96, 2] in crop pixels, of the crop's block `face.crop.LATENT_WINDOW` (`AutoencoderTempoSync.motion`).
            visibility: float32 [160, 192] in [0, 1], of the same.
            colours: in 0..255, in the colours of `face.tone.known_crop`; [112, 128, 3] of the block `INNER_WINDOW`, or [128, 192, 3] (see
                `fine`); None for a mouth that is shut, or whose teeth are known.
        """
        flow = _window_of_block(flow, FLOW_STRIDE) * self._flow_mask
        hidden = (1 - _window_of_block(visibility) - HIDDEN_FROM) / (HIDDEN_TO - HIDDEN_FROM)
        hidden = _with_rim(np.clip(hidden, 0, 1).astype(np.float32)) * self._inner_mask
        moving = Rectangle.around(np.abs(flow).max(-1) > STILL_FLOW).grown(1)
        moving = Rectangle(*(FLOW_STRIDE * limit for limit in moving))
        is_open = colours is not None or self._teeth is not None
        covered = Rectangle.around(hidden > 0) if is_open else Rectangle(0, 0, 0, 0)
        changed = moving.union(covered)
        rectangle = self.box.rectangle_of(changed.y0, changed.y1, changed.x0, changed.x1)
        if changed.is_empty or rectangle.is_empty:
            return Patch(0, 0, self.photo[:0, :0])
        pixels = self._moved(flow, rectangle)
        part = self.box.rectangle_of(covered.y0 - 1, covered.y1 + 1, covered.x0 - 1, covered.x1 + 1).within(rectangle)
        if not (covered.is_empty or part.is_empty):
            filling = self._drawn(flow, hidden, covered, part) if colours is None else self._painted(
                colours, flow, hidden, covered, part)
            share = self.box.to_photo(hidden, rectangle=part)[..., None]
            inside = _seen_from(rectangle, part).of(pixels)
            inside[:] = np.clip(np.rint(inside + share * (filling - inside)), 0, 255)
        return Patch(rectangle.y0, rectangle.x0, pixels)

    def _in_photo(self, teeth: UpperTeeth) -> _TeethInPhoto:
        share, pixels = self.box.to_photo(teeth.share, part=_FINE)[..., None], self.box.rectangle.of(self.photo)
        if teeth.picture is not None:
            drawn = self.box.to_photo(self._tone.to_photo(teeth.picture), cv2.INTER_CUBIC, part=_FINE)
            pixels = np.clip(np.rint(drawn), 0, 255).astype(np.uint8)
        light = float((share[..., 0] * (self._tone.to_known(pixels) @ LUMA)).sum() / (share.sum() + 1e-6))
        lips = np.zeros((HEIGHT, WIDTH), np.float32)
        _FINE.of(lips)[:] = cv2.resize(teeth.lips, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=cv2.INTER_AREA)
        return _TeethInPhoto(share, pixels, lips, light, self._grain(), teeth.picture is not None)

    def _grain(self) -> np.ndarray:
        """Noise as fine and as strong as the photo's, float32 [h, w, 1] in levels: what is drawn has none."""
        pixels = self.box.rectangle.of(self.photo) @ LUMA
        if not pixels.size:
            return pixels[..., None]
        fine = pixels - cv2.GaussianBlur(pixels, (0, 0), GRAIN_BLUR)
        # Beards and pores are none of it: where the photo is smoothest it is grain alone.
        strength = min(float(np.quantile(np.sqrt(cv2.blur(fine**2, (GRAIN_CELL, GRAIN_CELL))), SMOOTHEST)), MOST_GRAIN)
        chance = np.random.default_rng(0).standard_normal(pixels.shape).astype(np.float32)
        chance = cv2.GaussianBlur(chance, (0, 0), GRAIN_SIZE)
        return (strength / max(float(chance.std()), 1e-6) * chance)[..., None]

    def _moved(self, flow: np.ndarray, rectangle: Rectangle) -> np.ndarray:
        """The photo's pixels that come into the rectangle."""
        shift = self.box.to_photo(flow @ self._to_photo_pixels.T, rectangle=rectangle)
        shift[..., 0] += np.arange(rectangle.x0, rectangle.x1, dtype=np.float32)
        shift[..., 1] += np.arange(rectangle.y0, rectangle.y1, dtype=np.float32)[:, None]
        return cv2.remap(self.photo, shift, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def _truth(self, flow: np.ndarray, near: Rectangle, window: np.ndarray | None = None) -> np.ndarray:
        """The photo's crop, uint8 [h, w, 3], or another window, moved, in a rectangle of the window: what it shows there."""
        places = cv2.resize(flow, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        places[..., 0] += np.arange(WIDTH, dtype=np.float32)
        places[..., 1] += np.arange(HEIGHT, dtype=np.float32)[:, None]
        return cv2.remap(self._crop if window is None else window, near.of(places), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _toned(self, colours: np.ndarray, flow: np.ndarray, hidden: np.ndarray, covered: Rectangle) -> tuple[np.ndarray, Rectangle]:
        """The decoder's colours, around what is hidden in the photo's tone; float32 [HEIGHT, WIDTH, 3], and of which part of the window."""
        near = covered.grown(TONE_MARGIN).within(_INNER.grown(-INNER_EDGE))
        inner = _seen_from(_INNER, near).of(colours).astype(np.float32)
        difference = tone_difference(inner, self._truth(flow, near), near.of(hidden))
        toned = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        _INNER.of(toned)[:] = self._tone.to_photo(colours)
        near.of(toned)[:] = self._tone.to_photo(without_green(sharpened(inner, SOFTNESS, SHARPENING) + difference))
        return toned, WINDOW

    def _toned_fine(self, colours: np.ndarray, flow: np.ndarray, hidden: np.ndarray, covered: Rectangle) -> tuple[np.ndarray, Rectangle]:
        """What was painted, in the photo's tone, float32 [h, w, 3]; tone is compared at the crop's resolution."""
        near = covered.grown(TONE_MARGIN).within(_FINE)
        fine = Rectangle(*(SCALE * limit for limit in _seen_from(_FINE, near))).of(colours).astype(np.float32)
        coarse = cv2.resize(fine, (near.x1 - near.x0, near.y1 - near.y0), interpolation=cv2.INTER_AREA)
        difference = tone_difference(coarse, self._truth(flow, near), near.of(hidden))
        fine = sharpened(fine, PAINTED_SOFTNESS, PAINTED_SHARPENING, PAINTED_GRAIN)
        fine += cv2.resize(difference, fine.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return self._tone.to_photo(without_green(fine)), near

    def _painted(self, colours: np.ndarray, flow: np.ndarray, hidden: np.ndarray, covered: Rectangle, part: Rectangle) -> np.ndarray:
        """The decoder's colours in a part of the photo, float32 [h, w, 3]."""
        toned, of = (self._toned_fine if self._fine else self._toned)(colours, flow, hidden, covered)
        return self.box.to_photo(toned, cv2.INTER_CUBIC, part, of)

    def _drawn(self, flow: np.ndarray, hidden: np.ndarray, covered: Rectangle, part: Rectangle) -> np.ndarray:
        """The inside of the mouth with its upper teeth, in a part of the photo, float32 [h, w, 3]."""
        known = self._teeth
        assert known is not None
        near = covered.grown(LIPS_MARGIN).within(_FINE)
        near = Rectangle(*(FLOW_STRIDE * (limit // FLOW_STRIDE) for limit in near))
        down = Rectangle(*(limit // FLOW_STRIDE for limit in near)).of(flow)[..., 1]
        lips = self._truth(flow, near, known.lips)
        mouth = open_mouth(self._truth(flow, near), lips, near.of(hidden), down, known.lips_are_shut)
        light = mouth.cavity * np.minimum(known.light, LIGHTER_THAN_LIPS * cv2.transform(mouth.lips, LUMA[None]))
        colours = mouth.lips + mouth.gap[..., None] * (light[..., None] * FLESH / (FLESH @ LUMA) - mouth.lips)
        filling = self.box.to_photo(self._tone.to_photo(colours), cv2.INTER_CUBIC, part, near)
        seen, light = np.split(self.box.to_photo(np.dstack([mouth.teeth, mouth.light]), rectangle=part, part=near), 2, axis=-1)
        here = _seen_from(self.box.rectangle, part)
        teeth = seen * here.of(known.share)
        filling += teeth * (light * here.of(known.pixels) - filling)
        # The photo's own teeth have their grain.
        return filling + here.of(known.grain) * (1 if known.lips_are_shut else 1 - teeth)
