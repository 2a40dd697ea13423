"""A picture's colours, as its ICC profile means them, to sRGB."""

import logging
from functools import lru_cache
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageCms

from ..limits import MAX_PROFILE_BYTES

logger = logging.getLogger(__name__)

# A profile that moves no colour by more than this many levels is another writing of sRGB: the pixels stay as they are.
SAME_LEVELS = 1
# The picture's mode for a profile's colour space; what else there is (Lab, XYZ, devices with five inks) is no photograph's.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Light in Adobe RGB (1998) to light in sRGB; both have the white point D65.
_ADOBE_TO_SRGB = np.array([[1.39836, -0.39836, 0.0], [0.0, 1.0, 0.0], [0.0, -0.04293, 1.04293]], np.float32)
_ROWS = 256


def to_srgb(image: Image.Image, name: str) -> Image.Image:
    """The picture as RGB (RGBA where it has an alpha channel) in sRGB; itself where it is that already.

    Colours are converted relative to the white point, with black mapped to black. A profile that cannot be used, being damaged, made
    for another kind of picture or larger than 8 MB, is ignored and logs a warning; a picture without one counts as sRGB, unless its EXIF
    says that the camera wrote Adobe RGB, and one of printing inks as the complement of RGB.
    """
    if image.mode == "LAB":
        return _transform(_standard("LAB"), "LAB").apply(image)
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    profile = image.info.get("icc_profile")
    if not profile and image.mode == "RGB" and _is_adobe_rgb(image):
        return _from_adobe_rgb(image)
    if profile:
        try:
            image = _apply(profile, image)
        except (OSError, TypeError, ValueError) as cause:
            logger.warning("%s: its colour profile cannot be used and is ignored (%s)", name, cause)
    image = image if image.mode == "RGB" and alpha is None else image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    return image


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether a camera says so in its own way, without a profile (DCF 2.0, 3.3.5)."""
    try:
        return image.getexif().get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex) == "R03"
    except Exception:  # Damaged tags make Pillow raise nearly anything.
        return False


def _from_adobe_rgb(image: Image.Image) -> Image.Image:
    pixels = np.array(image)
    light = (np.arange(256, dtype=np.float32) / 255) ** np.float32(2.19921875)
    encoded = np.linspace(0, 1, 2**14)
    encoded = np.where(encoded <= 0.0031308, 12.92 * encoded, 1.055 * encoded ** (1 / 2.4) - 0.055)
    levels = np.rint(255 * encoded).astype(np.uint8)
    for first in range(0, len(pixels), _ROWS):  # without a second picture's worth of memory
        rows = light[pixels[first:first + _ROWS]] @ _ADOBE_TO_SRGB.T
        pixels[first:first + _ROWS] = levels[np.rint(np.clip(rows, 0, 1) * (len(levels) - 1)).astype(np.intp)]
    return Image.fromarray(pixels)


def _apply(profile: bytes, image: Image.Image) -> Image.Image:
    if len(profile) > MAX_PROFILE_BYTES:
        raise ValueError(f"{len(profile)} bytes, above the limit of {MAX_PROFILE_BYTES}")
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    mode = _MODES.get(space)
    if mode is None or (mode == "CMYK") != (image.mode == "CMYK"):
        raise ValueError(f"for {space}, the picture is {image.mode}")
    if mode == "L" and image.mode not in ("L", "LA", "1"):
        raise ValueError("for grey, the picture has colours")
    transform = _transform(source, mode)
    if mode == "RGB" and _difference(transform.apply(_colour_cube()), _colour_cube()) <= SAME_LEVELS:
        return image
    return transform.apply(image.convert(mode))


def _standard(space: Literal["LAB", "sRGB"]) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space))


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.ImageCmsTransform(source, _standard("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC,
                                      flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)


@lru_cache(maxsize=1)
def _colour_cube() -> Image.Image:
    """Colours from all over the cube, 17 levels a channel."""
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(17, -1, 3))


def _difference(image: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(image, np.int16) - np.asarray(other, np.int16)).max())
