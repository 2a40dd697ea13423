"""A photo whose whole face moves: its own pixels, carried along, and what it does not show in the decoder's colours.

Two decoded crops, of the photo and of a frame, say what moves where: the optical flow between them (DIS, Kroeger et al. 2016) is enlarged
to the photo, whose pixels follow it at their own resolution.  What that leaves of the frame, closing lids or the inside of a mouth, is
added as the decoder has it.  A frame that is decoded like the photo itself is the photo, to the bit.
"""

from functools import lru_cache

import cv2
import numpy as np

from .crop import CROP_SIZE, crop_face, mouth_mask
from .mouth_box import LEFT, TOP, MouthBox, Patch, Rectangle
from .tone import read_tone

# Crop pixels from the crop's edge where nothing moves, and where everything may.
EDGE, FEATHER = 3, 28
# Smoothing of the flow, in crop pixels; motion and levels too small to be seen.
FLOW_SMOOTHING, STILL_FLOW, STILL_LEVEL = 1.0, 0.04, 0.5
# The photo's fine detail fades as exp(-(d / DETAIL_LEVELS)²) where the moved photo differs by d levels from the frame.
DETAIL_LEVELS = 14.0
# Where a still head is seen: forehead, nose and cheeks, every few pixels; lids and lips move by themselves.
_SKULL = np.concatenate([np.stack(np.meshgrid(np.arange(*columns, 6), np.arange(*rows, 6)), -1).reshape(-1, 2)
                         for rows, columns in (((40, 62), (84, 172)), ((92, 134), (84, 172)))]).astype(np.float32)
# The crop in the pixels of the mouth's window.
_CROP = Rectangle(-TOP, CROP_SIZE - TOP, -LEFT, CROP_SIZE - LEFT)
_HERE = np.stack(np.meshgrid(*[np.arange(CROP_SIZE, dtype=np.float32)] * 2), -1)


@lru_cache(maxsize=1)
def face_mask() -> np.ndarray:
    """Where a crop may move, float32 [256, 256] in [0, 1]: all of it, fading to 0 at its edges."""
    inside = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
    inside[1 + EDGE:-1 - EDGE, 1 + EDGE:-1 - EDGE] = 1
    depth = np.clip(cv2.distanceTransform(inside, cv2.DIST_L2, 5) / (FEATHER - EDGE), 0, 1)
    return (depth * depth * (3 - 2 * depth)).astype(np.float32)


def _grey(crop: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.clip(np.rint(crop), 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)


def _pulled(crop: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """A crop [256, 256, 3] whose pixel at (x, y) comes from (x, y) + flow."""
    return cv2.remap(crop, _HERE + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


class MovingPhoto:
    """Makes frames out of one photo; everything that depends on the photo alone is computed here, once.

    Args:
        photo: RGB uint8 [H, W, 3], any size.
        matrix: affine from photo to crop pixels, [2, 3] (`face.crop.align_matrix`).
        reference: the photo's crop as the decoder shows it, [256, 256, 3] in 0..255, in the colours of `face.tone.known_crop`.
        still: keep to the mouth: the head's motion is taken back, and nothing changes outside `mouth_mask`.
    """

    def __init__(self, photo: np.ndarray, matrix: np.ndarray, reference: np.ndarray, still: bool = False):
        self.photo, self.still = photo, still
        self._box = MouthBox(photo.shape[:2], matrix)
        self._tone = read_tone(crop_face(photo, matrix))
        self._reference, self._reference_grey = reference.astype(np.float32), _grey(reference)
        self._known = self._tone.to_photo(self._reference)
        self._mask = mouth_mask() if still else face_mask()
        self._to_photo_pixels = np.linalg.inv(np.asarray(matrix, np.float64)[:, :2]).astype(np.float32)
        known = self._rectangle(Rectangle(0, CROP_SIZE, 0, CROP_SIZE)).of(photo)
        self._is_neutral = bool((known == known[..., :1]).all())
        self._motion = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def patch(self, decoded: np.ndarray) -> Patch:
        """What one frame changes in the photo; pixels outside the crop's mask are the photo's, to the bit.

        `decoded` is the frame's crop, [256, 256, 3] in 0..255, in the colours of `face.tone.known_crop`.
        """
        flow = self._flow(decoded)
        if self.still:
            decoded = self._without_head_motion(decoded, flow)
            flow = self._flow(decoded)
        moved, colours = _pulled(self._known, flow), self._tone.to_photo(decoded.astype(np.float32))
        difference = self._mask[..., None] * (colours - moved)
        flow = self._mask[..., None] * flow
        changed = Rectangle.around((np.abs(flow).max(-1) > STILL_FLOW) | (np.abs(difference).max(-1) > STILL_LEVEL))
        changed = changed.grown(2).within(Rectangle(0, CROP_SIZE, 0, CROP_SIZE))
        rectangle = self._rectangle(changed)
        if changed.is_empty or rectangle.is_empty:
            return Patch(0, 0, self.photo[:0, :0])
        return Patch(rectangle.y0, rectangle.x0, self._pixels(rectangle, flow, difference, moved))

    def _rectangle(self, part: Rectangle) -> Rectangle:
        """The photo's rectangle that covers a part of the crop."""
        return self._box.rectangle_of(part.y0 - TOP, part.y1 - TOP, part.x0 - LEFT, part.x1 - LEFT)

    def _to_photo(self, crop: np.ndarray, rectangle: Rectangle, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
        """A crop [256, 256, ...] as it lies in the photo's rectangle."""
        return self._box.to_photo(crop, interpolation, rectangle, _CROP)

    def _flow(self, decoded: np.ndarray) -> np.ndarray:
        """Where the frame's pixels come from in the reference, float32 [256, 256, 2]: (x, y) + flow."""
        return cv2.GaussianBlur(self._motion.calc(_grey(decoded), self._reference_grey, None), (0, 0), FLOW_SMOOTHING)

    def _without_head_motion(self, decoded: np.ndarray, flow: np.ndarray) -> np.ndarray:
        """The frame with its head where the reference has it."""
        rows, columns = _SKULL[:, 1].astype(int), _SKULL[:, 0].astype(int)
        to_reference, _ = cv2.estimateAffinePartial2D(_SKULL, _SKULL + flow[rows, columns], ransacReprojThreshold=1.0)
        if to_reference is None:
            return decoded
        return cv2.warpAffine(decoded.astype(np.float32), to_reference, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_CUBIC,
                              borderMode=cv2.BORDER_REPLICATE)

    def _pixels(self, rectangle: Rectangle, flow: np.ndarray, difference: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """The photo's rectangle, uint8 [h, w, 3]: the photo moved by `flow`, and the `difference` between frame and moved reference."""
        shift = self._to_photo(flow @ self._to_photo_pixels.T, rectangle)
        shift[..., 0] += np.arange(rectangle.x0, rectangle.x1, dtype=np.float32)
        shift[..., 1] += np.arange(rectangle.y0, rectangle.y1, dtype=np.float32)[:, None]
        pixels = cv2.remap(self.photo, shift, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        size = cv2.GaussianBlur(cv2.dilate(cv2.blur(np.abs(difference).max(-1), (3, 3)), np.ones((5, 5), np.uint8)), (0, 0), 1.5)
        fading = self._mask * (1 - np.exp(-np.square(size / DETAIL_LEVELS)))
        # Where detail fades, the photo gives way to the decoder's picture of it, and that to the frame.
        added = self._to_photo(difference + fading[..., None] * moved, rectangle, cv2.INTER_CUBIC)
        kept = self._to_photo(1 - fading, rectangle)[..., None]
        pixels = cv2.add(pixels * kept, added, dtype=cv2.CV_8U)  # rounds, and keeps within 0..255
        if self._is_neutral:
            pixels = np.repeat(pixels[..., :1], 3, axis=-1)
        return pixels
