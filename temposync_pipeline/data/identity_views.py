"""Different pictures of one person out of one picture: what must not change an identity embedding."""

import cv2
import numpy as np

from ..face.crop import CROP_SIZE

# Centre and half-axes (x, y) of the face in the aligned crop, from brow to chin: hair and background lie outside.
FACE_CENTRE = (128, 134)
FACE_AXES = (80, 104)
_SHADES = np.linspace(-1, 1, CROP_SIZE, dtype=np.float32)


def face_ellipse(scale: float = 1.0, feather: float = 8.0) -> np.ndarray:
    """1 on the face, 0 outside, float32 [256, 256]; `feather` is the width of the soft edge in pixels."""
    hard = np.zeros((CROP_SIZE, CROP_SIZE), np.float32)
    cv2.ellipse(hard, FACE_CENTRE, tuple(round(scale * axis) for axis in FACE_AXES), 0, 0, 360, 1, -1)
    return cv2.GaussianBlur(hard, (0, 0), feather / 2)


def _jitter(crop: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Another camera position: mirrored half of the time, turned ±5°, scaled ±7 %, moved ±7 px."""
    if generator.random() < 0.5:
        crop = np.ascontiguousarray(crop[:, ::-1])
    matrix = cv2.getRotationMatrix2D(FACE_CENTRE, generator.uniform(-5, 5), generator.uniform(0.93, 1.07))
    matrix[:, 2] += generator.uniform(-7, 7, 2)
    return cv2.warpAffine(crop, matrix, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _other_background(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Outside the face, one colour fading into another from side to side; float32 [256, 256, 3] in and out."""
    left, right = generator.uniform(0, 255, (2, 3)).astype(np.float32)
    ramp = (_SHADES[None, :, None] + 1) / 2
    face = face_ellipse(generator.uniform(0.95, 1.25))[..., None]
    return face * picture + (1 - face) * (left + (right - left) * ramp)


def _other_light(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Another lamp and white balance: saturation, gain per channel, gamma, and light that falls off across the picture."""
    grey = picture.mean(-1, keepdims=True)
    picture = grey + generator.uniform(0.5, 1.3) * (picture - grey)
    slope = generator.uniform(-0.25, 0.25, 2)
    falloff = 1 + slope[0] * _SHADES[None, :, None] + slope[1] * _SHADES[:, None, None]
    gain = generator.uniform(0.75, 1.25) * generator.uniform(0.88, 1.12, 3)
    return 255 * np.clip(picture / 255 * falloff * gain, 0, 1).astype(np.float32) ** np.float32(generator.uniform(0.75, 1.35))


def _other_camera(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A coarser sensor: fewer pixels, noise."""
    size = round(CROP_SIZE * generator.uniform(0.35, 1))
    coarse = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    picture = cv2.resize(coarse, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
    return picture + generator.uniform(0, 5) * generator.standard_normal(picture.shape, dtype=np.float32)


def augment_view(crop: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The same person from another camera, in other light, half of the time before another background; uint8 [256, 256, 3] in and out."""
    picture = _jitter(crop, generator).astype(np.float32)
    if generator.random() < 0.5:
        picture = _other_background(picture, generator)
    picture = _other_camera(_other_light(picture, generator), generator)
    return np.clip(picture, 0, 255).round().astype(np.uint8)
