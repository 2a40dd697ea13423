"""Any photograph to an RGB array."""

import re
import warnings
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import InvalidImageError
from ..files import check_is_file
from ..limits import MAX_PICTURE_BYTES, MAX_PIXELS, MIN_SIDE, megapixels
from .colour_profile import to_srgb
from .container import check_bytes
from .gif import GifFile, is_gif

# What Pillow decodes within the process, and how such files are called; it would hand an EPS to Ghostscript, whatever the file's name.
_SUFFIXES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",), "BMP": (".bmp",), "TIFF": (".tif", ".tiff"), "GIF": (".gif",),
             "AVIF": (".avif",)}
PICTURE_SUFFIXES = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes) + (".heic", ".heif")
FORMAT_NAMES = "PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF"
# Brands in the first box of a HEIC file (ISO 23008-12, B.4.1); "mif1" and "msf1" are any still picture's or sequence's.
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# Pillow refuses pictures of more than twice a limit of its own, of 89 megapixels: who allows larger ones has to allow them there, too.
if Image.MAX_IMAGE_PIXELS is not None and MAX_PIXELS > Image.MAX_IMAGE_PIXELS:
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def load_image(source: str | PathLike | Image.Image | np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] in sRGB from a PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF file, a PIL image or an array; of HEIC with the extra
    `heic`.

    Turned upright by its EXIF tag, colours converted by its profile (`media.colour_profile`), transparency laid over white, 16 bits
    reduced to 8, everything else that a file carries (EXIF, GPS) dropped; of an animation or of several pages the first picture. Arrays
    are [H, W], [H, W, 3] or [H, W, 4], uint8, uint16, or floating point in [0, 1].

    Raises `InvalidImageError` for anything else, for sides below 32 px or more than 40 megapixels, and OSError where the file
    cannot be read.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, "image")
    path = Path(source)
    check_is_file(path, InvalidImageError)
    formats = _formats(path)
    with open(path, "rb") as file, warnings.catch_warnings():
        check_bytes(file, path.name, MAX_PICTURE_BYTES, InvalidImageError)
        # Of large pictures, where the limit below is lower than Pillow's own, and of damaged tags, which are dropped.
        warnings.simplefilter("ignore")
        try:
            with _opened(file, path, formats) as image:
                return _to_rgb(image, path.name)
        except InvalidImageError:
            raise
        except Image.DecompressionBombError as cause:
            # Pillow says "(400000000 pixels)" and keeps width and height to itself.
            pixels = re.search(r"(\d+) pixels", str(cause))
            size = f"{megapixels(int(pixels[1]))}, " if pixels else ""
            raise InvalidImageError(f"{path.name}: {size}above the limit of {megapixels(MAX_PIXELS)}; make it smaller") from cause
        except Exception as cause:  # Damaged bytes make Pillow raise nearly anything.
            if "HEIF" not in formats and _is_heic(path):
                message = "a HEIC picture; save it as JPEG, or install what reads it: pip install 'temposync-pipeline[heic]' (pillow-heif)"
                raise InvalidImageError(f"{path.name}: {message}") from cause
            if not path.stat().st_size:
                raise InvalidImageError(f"{path.name}: the file is empty") from cause
            if "truncated" in str(cause).lower():
                raise InvalidImageError(f"{path.name}: breaks off before the end of the picture") from cause
            raise InvalidImageError(f"{path.name}: not a readable {FORMAT_NAMES} picture") from cause


def _opened(file: BinaryIO, path: Path, formats: tuple[str, ...]) -> Image.Image:
    return GifFile(file, path.name, MAX_PIXELS, InvalidImageError) if is_gif(path) else Image.open(file, formats=formats)


def _formats(path: Path) -> tuple[str, ...]:
    """The formats that can be read here; of HEIC, whose libraries take memory, only where the file is that."""
    if not _is_heic(path):
        return tuple(_SUFFIXES)
    try:
        import pillow_heif
    except ImportError:
        return tuple(_SUFFIXES)
    pillow_heif.register_heif_opener()
    return (*_SUFFIXES, "HEIF")


def _is_heic(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in _HEIC_BRANDS


def _check_size(name: str, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise InvalidImageError(f"{name}: {width}x{height} px, below the limit of {MIN_SIDE} px a side")
    if width * height > MAX_PIXELS:
        raise InvalidImageError(f"{name}: {width}x{height} px, above the limit of {megapixels(MAX_PIXELS)}; make it smaller")


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    _check_size(name, *image.size)
    image.load()
    # A large photo is not copied for nothing.
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit or floating point grey
        array = np.asarray(image)
        grey = _from_array(array if image.mode == "F" else array.clip(0, 65535).astype(np.uint16), name)
        profile = {key: value for key, value in image.info.items() if key == "icc_profile"}
        image = Image.fromarray(np.ascontiguousarray(grey[..., 0]))
        image.info.update(profile)
    image = to_srgb(image, name)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _from_array(array: np.ndarray, name: str = "image array") -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise InvalidImageError(
            f"{name}: shape {array.shape} of {array.dtype}, expected [H, W], [H, W, 3] or [H, W, 4] of uint8, uint16 or float"
        )
    _check_size(name, array.shape[1], array.shape[0])
    if array.dtype == np.uint16:
        array = np.round(array / 257).astype(np.uint8)
    elif array.dtype != np.uint8:
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InvalidImageError(f"{name}: floating point values outside the limits of 0 to 1")
        array = np.round(array * 255).astype(np.uint8)
    if array.shape[2] == 4:
        alpha = array[..., 3:] / 255
        array = np.round(array[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
