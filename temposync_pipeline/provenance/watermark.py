"""An invisible watermark of 64 bits around one face, which survives compression, shrinking and cropping and is read without the original.

It lives in the coordinates of the aligned crop (`face.crop`), so that whoever finds the face finds the mark, whatever the picture's size,
and it changes nothing outside that crop.  Each bit is spread over its own share of the crop's middle frequencies (spread spectrum, Cox et
al. 1997), with signs that look like noise.  The photo is known when it is marked, so its own say in every bit is cancelled (informed
embedding, Miller, Doërr, Cox 2004): all bits end up equally far from error, with the least change that does it.  The mark is a picture
that stays the same for all frames of a video: it is computed once, costs an addition a frame, and does not flicker.

The payload: the 32 bits of `PRODUCT_CODE`, by which a mark is known as such, then an identifier of 32 bits.
"""

import hashlib
import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from ..face.crop import CROP_SIZE, scale_of, shrink_large
from ..face.mouth_box import LEFT, TOP, MouthBox, Rectangle

PAYLOAD_BITS = 64
PRODUCT_CODE = 0x54534450
# Half periods in the crop's 256 px that carry the mark: lower frequencies show on skin, higher ones die in the encoder.
LOWEST, HIGHEST = 20, 112
# A reader's weights grow with the frequency to this power, as photographs' own contents fall.  The mark itself grows less, for the eye's
# sake, and in a face smaller than the crop it falls, as much as the picture can still be shrunk.
WHITENING, TILT, SMALL_TILT = 1.5, 0.5, -0.5
# Widths, in crop pixels, of the blurs that take away what is smooth and even out what is busy; levels that do not count as busy.
SMOOTH, FINE, BUSY, QUIET = 4.0, 3.0, 5.0, 1.0
# The mark may be stronger where the photo is busy: strength as its deviation, in levels, to this power.
MASKING, FLAT = 0.5, 1.0
# Of each bit, in standard deviations, as it leaves, in a crop of one pixel a crop pixel; of a larger one, of which encoders keep more, it
# falls with the root of the size.  The mark is as strong as this needs, but within limits: root mean square levels of the crop.
FULL_SCORE = 7.5
LEAST_LEVELS, MOST_LEVELS = 0.9, 2.15
MOVING_SHARE = 0.8
# Scale of a face from which its crop is interpolated by cubic curves; not 1, about which searches try several.
CUBIC_FROM = 1.1
# Crop pixels from the crop's edge where nothing changes, and where the mark has its full strength.
EDGE, FEATHER = 3, 24
# The crop in the pixels of the mouth's window.
_CROP = Rectangle(-TOP, CROP_SIZE - TOP, -LEFT, CROP_SIZE - LEFT)


class Code(NamedTuple):
    """Places of the crop's discrete cosine transform that carry each bit, their signs and weights, [64, n] each."""

    places: np.ndarray
    signs: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=1)
def code() -> Code:
    """The one code; it rests on SHAKE-256 and not on a random generator, whose numbers another release may change."""
    rows, columns = np.mgrid[:CROP_SIZE, :CROP_SIZE]
    frequency = np.hypot(rows, columns).ravel()
    places = np.flatnonzero((frequency >= LOWEST) & (frequency < HIGHEST))
    noise = np.frombuffer(hashlib.shake_256(b"temposync watermark 1").digest(8 * len(places)), "<u8")
    share = len(places) // PAYLOAD_BITS
    order = np.argsort(noise, kind="stable")[:PAYLOAD_BITS * share].reshape(PAYLOAD_BITS, share)
    return Code(places[order], np.where(noise[order] & 1, 1, -1).astype(np.float32),
                ((frequency[places[order]] / HIGHEST) ** WHITENING).astype(np.float32))


@lru_cache(maxsize=1)
def mark_mask() -> np.ndarray:
    """Strength of the mark by place in the crop, float32 [256, 256]: 1, fading to 0 at the edges."""
    depth = np.minimum(np.arange(CROP_SIZE), np.arange(CROP_SIZE)[::-1])
    share = np.clip((np.minimum(depth[:, None], depth) - EDGE) / (FEATHER - EDGE), 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def payload_bits(identifier: int) -> np.ndarray:
    """+1 and -1, float32 [64], of `PRODUCT_CODE` and a number of 32 bits; ValueError for any other number."""
    if not 0 <= identifier < 2**32:
        raise ValueError(f"an identifier is a whole number of 32 bits, got {identifier!r}")
    payload = PRODUCT_CODE << 32 | identifier
    return np.array([1 if payload >> place & 1 else -1 for place in reversed(range(PAYLOAD_BITS))], np.float32)


def luma_crop(luma: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The aligned crop, float32 [256, 256], of luma [H, W], uint8 or float32; `matrix` goes from picture to crop pixels, [2, 3]."""
    luma, matrix = shrink_large(luma.astype(np.float32, copy=False), np.asarray(matrix, np.float64))
    interpolation = cv2.INTER_CUBIC if scale_of(matrix) > CUBIC_FROM else cv2.INTER_LINEAR
    return cv2.warpAffine(luma, matrix, (CROP_SIZE, CROP_SIZE), flags=interpolation, borderMode=cv2.BORDER_REPLICATE)


def _deviation(fine: np.ndarray, width: float) -> np.ndarray:
    return np.sqrt(np.maximum(cv2.GaussianBlur(fine * fine, (0, 0), width), 0))


def whitened(crop: np.ndarray) -> np.ndarray:
    """A crop without what is smooth, all parts equally busy, float32 [256, 256]."""
    detail = crop - cv2.GaussianBlur(crop, (0, 0), SMOOTH)
    fine = detail - cv2.GaussianBlur(detail, (0, 0), FINE)
    return detail / (_deviation(fine, BUSY) + QUIET) * mark_mask()


def evidence(crop: np.ndarray) -> np.ndarray:
    """What each place says for its bit being 1, float32 [64, n], of a luma crop [256, 256]."""
    places, signs, weights = code()
    return cv2.dct(whitened(crop)).ravel()[places] * signs * weights


def scores(evidence: np.ndarray) -> np.ndarray:
    """How surely each bit is 1 or, negative, 0: float32 [64], in standard deviations of crops without a mark."""
    return evidence.sum(1) / max(math.sqrt(float(np.square(evidence).sum()) / len(evidence)), 1e-9)


def crop_pattern(crop: np.ndarray, identifier: int, size: float = 1.0) -> np.ndarray:
    """The mark for a luma crop float32 [256, 256]: levels to add, float32 [256, 256]; `size` is that of a crop pixel in the picture's."""
    return _strength(crop) * _carried(crop, identifier, size)


def _strength(crop: np.ndarray) -> np.ndarray:
    """How strong a mark may be by place, float32 [256, 256]: stronger where the crop is busy."""
    busy = (_deviation(crop - cv2.GaussianBlur(crop, (0, 0), FINE), BUSY) + FLAT) ** MASKING
    return mark_mask() * busy / np.sqrt(np.square(busy).mean())


def _carried(crop: np.ndarray, identifier: int, size: float) -> np.ndarray:
    """The mark before its strength, float32 [256, 256]."""
    bits, host, strength = payload_bits(identifier), evidence(crop), _strength(crop)
    full_score, tilt = FULL_SCORE / math.sqrt(max(size, 1)), TILT if size >= 1 else SMALL_TILT
    unit = evidence(crop + strength * _carriers(bits, tilt)) - host
    gain = max(float((unit.sum(1) * bits).mean()), 1e-9)

    def carried(margin: float) -> np.ndarray:
        """What moves every bit to `margin`, and none that is beyond it already."""
        levels = np.zeros(PAYLOAD_BITS, np.float32)
        for _ in range(3):
            missing = margin - evidence(crop + strength * _carriers(bits * levels, tilt)).sum(1) * bits
            levels = np.maximum(levels + missing / gain, 0)
        return _carriers(bits * levels, tilt)

    def is_enough(carried: np.ndarray) -> bool:
        pattern = strength * carried
        levels = np.sqrt(np.square(pattern).mean())
        return levels > MOST_LEVELS or (levels > LEAST_LEVELS and (scores(evidence(crop + pattern)) * bits).mean() > full_score)

    low, high = 0.0, 16 * gain
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(carried(middle)) else (middle, high)
    return carried(low)


def _carriers(levels: np.ndarray, tilt: float) -> np.ndarray:
    """The sum of all bits' patterns, each with its level, float32 [256, 256], growing with the frequency to the power `tilt`."""
    places, signs, weights = code()
    spectrum = np.zeros(CROP_SIZE * CROP_SIZE, np.float32)
    spectrum[places] = signs * weights ** (tilt / WHITENING) * levels[:, None]
    return cv2.dct(spectrum.reshape(CROP_SIZE, CROP_SIZE), flags=cv2.DCT_INVERSE)


def in_picture(pattern: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A pattern of the crop where it lies in a picture of that height and width: whole levels, int16 [H, W], 0 outside the crop."""
    box, levels = MouthBox(shape, matrix), np.zeros(shape, np.int16)
    rectangle = box.rectangle_of(*_CROP)
    if not rectangle.is_empty:
        rectangle.of(levels)[:] = np.rint(box.to_photo(pattern, cv2.INTER_CUBIC, rectangle, _CROP))
    return levels


def watermark(luma: np.ndarray, matrix: np.ndarray, identifier: int) -> np.ndarray:
    """The mark for the frames of a video: levels to add to the luma of each, int16 [H, W], 0 outside the face's crop.

    Args:
        luma: of the photo, or of the first frame, uint8 [H, W] (BT.709, limited range, as `media.planes` makes it).
        matrix: from picture to crop pixels, [2, 3] (`face.crop.align_matrix`).
        identifier: 32 bits.
    """
    pattern = crop_pattern(luma_crop(luma, matrix), identifier, 1 / scale_of(matrix))
    return in_picture(pattern, matrix, luma.shape)


class MovingMark:
    """The mark of a video in which the face moves: what carries its bits is found once for each shot; where the face is, and where a frame
    is busy enough to hide it, anew for each frame.  Many frames vote, and what moves is seen sooner: it is `MOVING_SHARE` as strong.

    Args:
        identifier: 32 bits.
    """

    def __init__(self, identifier: int):
        self.identifier = identifier
        self._shot: int | None = None
        self._carried = np.zeros((CROP_SIZE, CROP_SIZE), np.float32)

    def lay(self, luma: np.ndarray, matrix: np.ndarray, shot: int) -> None:
        """Add it to a frame's luma uint8 [H, W], in place; `matrix` goes from the frame to crop pixels, [2, 3], `shot` is a number."""
        crop = luma_crop(luma, matrix)
        if shot != self._shot:
            self._shot = shot
            self._carried = MOVING_SHARE * _carried(crop, self.identifier, 1 / scale_of(matrix))
        levels = in_picture(_strength(crop) * self._carried, matrix, luma.shape)
        luma[:] = cv2.add(luma, levels, dtype=cv2.CV_8U)  # saturates
