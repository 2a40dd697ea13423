"""The colours of a photo that is unlike the pictures the networks know: toned, in coloured light, or faded.

The networks learned from portraits in white light and full contrast: of a sepia photo they make a mouth with greenish teeth and pink lips,
of a faded one a black hole.  So the crop is brought near to what they know before it is encoded, and what they generate is brought
back the same way.  A photo that is like theirs, of whatever skin, is left alone to the bit.  What they say of teeth is corrected in
every photo (`without_green`).
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from .crop import crop_face

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Levels off its tone curve that scanning and compression leave to 95 of 100 pixels of a monochrome photo, to which a share of the tint's
# own strength is added.  Toned photos, compressed to JPEG's quality of 40, keep to 0.94 of the sum, those in colour start at 1.4 with an
# eighth of their colours and at 2.4 with a third.
CURVE_LEVELS, TINT_SHARE = 2.4, 0.12
# By how many pixels the differences from the curve are blurred: JPEG keeps a colour for blocks, and its mean is right.
COLOUR_BLUR = 2.0
# Side of the crop that colours are read from: they are stored at half the resolution, or less.
COLOUR_SIDE = 64
# Rows and columns of the crop between eyes and mouth: skin, whatever the face.
SKIN = np.s_[92:134, 88:168]
# Red and blue of skin as a share of its green, in white light: what is seen in portraits, and the middle of it.
RED_SHARES, BLUE_SHARES = (0.92, 2.1), (0.42, 1.12)
USUAL_RED, USUAL_BLUE = 1.32, 0.78
MAX_GAIN = 6.0
# Luma of the darkest and the brightest hundredth of a crop: a faded photo's are nearer to each other than the first and its darkest is
# brighter than the second; they become the third.
FADED_RANGE, FADED_BLACK = 110.0, 40.0
FULL_RANGE = (16.0, 225.0)
# Red less luma, as a share of it: lips, gums and most skin have more, teeth have less.
REDDER_THAN_TEETH = 0.2
# Beyond the hundredth of pixels at either end of a tone curve it goes on as over the levels before.
SLOPE_LEVELS = 32


@dataclass(frozen=True)
class Tone:
    """How a photo's colours relate to those that the networks know: known = gain * colour + offset, per channel.

    A monochrome photo's are on its `curve` [256, 3], RGB by luma, and are known as their luma alone.
    """

    gain: np.ndarray
    offset: np.ndarray
    curve: np.ndarray | None = None

    @cached_property
    def is_usual(self) -> bool:
        """Whether the networks know such colours as they are."""
        return self.curve is None and bool((self.gain == 1).all() and (self.offset == 0).all())

    def to_known(self, picture: np.ndarray) -> np.ndarray:
        """uint8 [..., 3] in the photo's colours to uint8 in those that the networks know."""
        if self.is_usual:
            return picture
        colours = picture if self.curve is None else _luma(picture)
        return np.clip(np.rint(colours * self.gain + self.offset), 0, 255).astype(np.uint8)

    def to_photo(self, picture: np.ndarray) -> np.ndarray:
        """float32 [..., 3] in the colours that the networks know to the photo's."""
        if self.is_usual:
            return picture
        return self.keep((picture - self.offset) / self.gain)

    def keep(self, picture: np.ndarray) -> np.ndarray:
        """float32 [..., 3], on the photo's tone curve if it has one."""
        if self.curve is None:
            return picture
        luma = _luma(picture)[..., 0]
        return np.stack([np.interp(luma, np.arange(256), channel) for channel in self.curve.T], -1).astype(np.float32)


def without_green(colours: np.ndarray) -> np.ndarray:
    """Decoded insides of mouths, float32 [h, w, 3] in 0..255, with teeth no greener than they are in white light; luma stays.

    A denoiser's teeth are as yellow as those in videos and as little red as those in photos: together that is olive or mint.  Real ones
    are as much redder than grey as they are less blue, or more: of 31 London smiles by 0.01 of their luma, the middle one.
    """
    luma = colours @ LUMA
    red, blue = colours[..., 0] - luma, colours[..., 2] - luma
    added = np.maximum(np.minimum(-blue, REDDER_THAN_TEETH * luma) - red, 0) / 2  # to both
    changed = colours.copy()
    changed[..., ::2] += added[..., None]
    changed[..., 1] -= (LUMA[0] + LUMA[2]) / LUMA[1] * added
    return changed


def known_crop(photo: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The aligned crop, uint8 [256, 256, 3], of a photo uint8 [H, W, 3] in the colours that the networks know."""
    crop = crop_face(photo, matrix)
    return read_tone(crop).to_known(crop)


def read_tone(crop: np.ndarray) -> Tone:
    """The tone of a photo, from its aligned crop uint8 [256, 256, 3]."""
    curve = tone_curve(crop)
    gain = _white_gain(crop) if curve is None else np.ones(3, np.float32)
    offset = np.zeros(3, np.float32)
    dark, bright = np.percentile(crop[::2, ::2] @ (LUMA * gain), (1, 99))
    if bright - dark < FADED_RANGE and dark > FADED_BLACK:
        stretch = min((FULL_RANGE[1] - FULL_RANGE[0]) / max(bright - dark, 1.0), MAX_GAIN)
        gain = gain * np.float32(stretch)
        offset = np.full(3, np.mean(FULL_RANGE) - stretch * (dark + bright) / 2, np.float32)
    return Tone(gain, offset, curve)


def tone_curve(crop: np.ndarray) -> np.ndarray | None:
    """RGB by luma, float32 [256, 3], of a monochrome crop uint8 [H, W, 3], whatever it is toned with; None for one with colours of its own.

    Between luma and colour there is one smooth curve then, the mean over all pixels, that nearly all pixels keep to.
    """
    small = cv2.resize(crop, (COLOUR_SIDE, COLOUR_SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small.astype(np.float32), (0, 0), 0.7)
    luma = _luma(small)
    level = np.clip(np.rint(luma[..., 0]), 0, 255).astype(np.intp)
    count = np.bincount(level.ravel(), minlength=256).astype(np.float32)
    total = np.stack([np.bincount(level.ravel(), channel.ravel(), 256) for channel in cv2.split(small - luma)], -1).astype(np.float32)
    count, total = (cv2.GaussianBlur(values, (1, 49), 0, 0, 8.0, borderType=cv2.BORDER_CONSTANT) for values in (count[:, None], total))
    count = count.reshape(-1)
    low, high = (int(np.percentile(level, share)) for share in (1, 99))
    tint = total / np.maximum(count, 1e-6)[:, None]
    _go_on(tint[high:], tint[high], tint[max(high - SLOPE_LEVELS, low)], high - max(high - SLOPE_LEVELS, low))
    _go_on(tint[low::-1], tint[low], tint[min(low + SLOPE_LEVELS, high)], min(low + SLOPE_LEVELS, high) - low)
    off_curve = np.abs(cv2.GaussianBlur(small - luma - tint[level], (0, 0), COLOUR_BLUR)).max(-1)
    allowed = CURVE_LEVELS + TINT_SHARE * np.abs(tint[level]).max(-1).mean()
    return np.arange(256, dtype=np.float32)[:, None] + tint if np.percentile(off_curve, 95) <= allowed else None


def _go_on(tint: np.ndarray, end: np.ndarray, before: np.ndarray, levels: int) -> None:
    """Continue a line through a curve's `end` and what stands `levels` before it, in place."""
    tint[:] = end + np.arange(len(tint))[:, None] * (end - before) / max(levels, 1)


def _white_gain(crop: np.ndarray) -> np.ndarray:
    """What brings skin in coloured light to a usual colour at the same luma, float32 [3]; ones where the light is white enough."""
    red, green, blue = np.maximum(np.median(crop[SKIN].reshape(-1, 3), 0), 1.0)
    if RED_SHARES[0] <= red / green <= RED_SHARES[1] and BLUE_SHARES[0] <= blue / green <= BLUE_SHARES[1]:
        return np.ones(3, np.float32)
    usual = np.array([USUAL_RED, 1.0, USUAL_BLUE]) * green
    usual *= (LUMA @ [red, green, blue]) / (LUMA @ usual)
    return np.clip(usual / [red, green, blue], 1 / MAX_GAIN, MAX_GAIN).astype(np.float32)


def _luma(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture.astype(np.float32) @ LUMA[:, None], 3, axis=-1)
