"""Puts a generated mouth back into the original photo, at the photo's own resolution.

Three things make the seam vanish.  The soft edge of `mouth_mask`; a membrane, the harmonic function
that interpolates the tone difference along that edge over the whole mouth (Pérez et al. 2003,
"Poisson Image Editing", eq. 2, solved once as a linear map); and the photo's own detail, which
the autoencoder loses, added back where the generated frame says that nothing moved.  All of it
happens in the bounding box of the mask: the rest of the photo is never touched.  Generated crops
come in the colours that the networks know and get the photo's own first (`face.tone`).
"""

from functools import lru_cache

import cv2
import numpy as np

from .crop import CROP_SIZE, crop_face, mouth_mask
from .mouth_box import CELL, HEIGHT, WIDTH, MouthBox, Patch, window_of
from .tone import read_tone

# A membrane's cell, `CELL` crop pixels, is finer than a shadow's edge and coarser than a lip.
MAX_TONE_SHIFT = 24.0  # levels; a larger difference at the edge is motion, not tone
STILL_LEVELS = 12.0  # levels of change at which the photo's detail has faded to 1/e; 6 loses the grain of skin that moves a little


@lru_cache(maxsize=1)
def _edge() -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the window on the mask's soft edge, float32 [HEIGHT, WIDTH], and its share of each cell."""
    mask = window_of(mouth_mask())
    edge = ((mask > 0) & (mask < 0.6)).astype(np.float32)
    return edge, cv2.resize(edge, (WIDTH // CELL, HEIGHT // CELL), interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=1)
def _membrane_operator() -> np.ndarray:
    """Linear map from the values of the edge cells to the harmonic function on all cells, float32 [cells, edge cells].

    Solves Δf = 0 with f given on the edge cells and no flux through the window's border.
    """
    on_edge = (_edge()[1] > 0.05).ravel()
    rows, columns = HEIGHT // CELL, WIDTH // CELL
    index = np.arange(rows * columns).reshape(rows, columns)
    laplacian = np.zeros((rows * columns, rows * columns))
    for a, b in ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1])):
        for i, j in ((a.ravel(), b.ravel()), (b.ravel(), a.ravel())):
            laplacian[i, i] += 1  # indices are unique within one pair of neighbours
            laplacian[i, j] -= 1
    laplacian[on_edge] = np.eye(rows * columns)[on_edge]
    return np.linalg.solve(laplacian, np.eye(rows * columns)[:, on_edge]).astype(np.float32)


def membrane(difference: np.ndarray) -> np.ndarray:
    """Smooth field that equals `difference` along the mask's edge, float32 [HEIGHT, WIDTH, 3] in and out, in levels."""
    edge, share = _edge()
    on_edge = share > 0.05
    cells = cv2.resize(difference * edge[..., None], share.shape[::-1], interpolation=cv2.INTER_AREA)
    samples = np.clip(cells[on_edge] / share[on_edge, None], -MAX_TONE_SHIFT, MAX_TONE_SHIFT)
    field = (_membrane_operator() @ samples).reshape(*share.shape, 3)
    return cv2.resize(field, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def stillness(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """How little a frame differs from the reference, float32 [HEIGHT, WIDTH], 1 = unchanged: exp(-(d / STILL_LEVELS)²).

    d is the largest channel difference, spread over 7 pixels so that no trace of the old lips stays beside the new ones.
    """
    change = cv2.absdiff(generated, reference).max(-1)
    change = cv2.blur(change, (3, 3))  # single-pixel noise of the decoder is no motion
    change = cv2.GaussianBlur(cv2.dilate(change, np.ones((7, 7), np.uint8)), (0, 0), 2.0)
    return np.exp(-np.square(change / STILL_LEVELS))


class Blender:
    """Pastes generated crops into one photo; everything that depends on the photo alone is computed here, once.

    Args:
        photo: RGB uint8 [H, W, 3], any size.
        matrix: affine from photo to crop pixels, [2, 3] (`face.crop.align_matrix`).
        reference_reconstruction: the autoencoder's reconstruction of `face.tone.known_crop`, [256, 256, 3] in 0..255: tells
            the decoder's loss of detail from motion.  Without it the photo's crop takes its place.

    A video to be dubbed needs one Blender a frame; building one costs about as much as a paste.
    """

    def __init__(self, photo: np.ndarray, matrix: np.ndarray, reference_reconstruction: np.ndarray | None = None):
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
            raise ValueError(f"photo must be uint8 [H, W, 3], got {photo.dtype} {photo.shape}")
        self.photo = photo
        crop = crop_face(photo, matrix)
        self._tone = read_tone(crop)
        self._crop = window_of(crop).astype(np.float32)
        self.box = MouthBox(photo.shape[:2], matrix)
        if self.is_empty:
            return
        original = self.box.rectangle.of(photo).astype(np.float32)
        self._is_neutral = bool((original == original[..., :1]).all())
        reference = self._crop if reference_reconstruction is None else self._checked(reference_reconstruction)
        self._reference = self._tone.keep(reference + membrane(self._crop - reference))
        # Linear interpolation keeps the mask in [0, 1] and exactly 0 outside, where `_outside` is then the photo itself.
        self._mask = self.box.to_photo(window_of(mouth_mask()))[..., None]
        self._outside = (1 - self._mask) * original
        self._detail = self._mask * (original - self.box.to_photo(self._reference, cv2.INTER_CUBIC))

    @property
    def is_empty(self) -> bool:
        """True when the mouth lies outside the photo."""
        return self.box.rectangle.is_empty

    def _checked(self, crop: np.ndarray) -> np.ndarray:
        """The crop's window as float32, in the photo's colours."""
        if crop.shape != (CROP_SIZE, CROP_SIZE, 3):
            raise ValueError(f"the crop must be [{CROP_SIZE}, {CROP_SIZE}, 3], got {crop.shape}")
        return self._tone.to_photo(window_of(crop).astype(np.float32))

    def patch(self, crop_patch: np.ndarray) -> Patch:
        """What the generated mouth changes in the photo; pixels outside the mask are bit-identical to the photo's.

        `crop_patch` is [256, 256, 3], uint8, or float in 0..255, in the colours of `face.tone.known_crop`.
        """
        if self.is_empty:
            return Patch(0, 0, self.photo[:0, :0])
        generated = self._checked(crop_patch)
        generated = self._tone.keep(generated + membrane(self._crop - generated))
        still = stillness(generated * self._tone.gain, self._reference * self._tone.gain)
        warped = self.box.to_photo(np.dstack([generated, still]), cv2.INTER_CUBIC)
        blended = self._outside + self._mask * warped[..., :3] + warped[..., 3:] * self._detail
        if self._is_neutral:
            blended = np.repeat(blended[..., :1], 3, axis=-1)  # rounding may differ between the channels
        return Patch(self.box.rectangle.y0, self.box.rectangle.x0, np.clip(np.rint(blended), 0, 255).astype(np.uint8))

    def paste(self, crop_patch: np.ndarray) -> np.ndarray:
        """The photo with the generated mouth, uint8 [H, W, 3], see `patch`."""
        return self.patch(crop_patch).onto(self.photo)
