import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from temposync_pipeline.errors import InvalidImageError
from temposync_pipeline.media.image import load_image


@pytest.mark.parametrize(("name", "tolerance"), [("a.png", 0), ("a.jpg", 6), ("a.webp", 6), ("jpeg_inside.png", 6),
                                                ("a.bmp", 0), ("a.tif", 0), ("a.tiff", 0), ("a.avif", 6), ("a.gif", 12)])
def test_formats(tmp_path, picture, name, tolerance):
    kind = "JPEG" if "jpeg" in name else None
    Image.fromarray(picture).save(tmp_path / name, kind, quality=95)
    loaded = load_image(tmp_path / name)
    assert loaded.dtype == np.uint8 and loaded.shape == picture.shape
    assert np.abs(loaded.astype(int) - picture).mean() <= tolerance


def test_pil_and_arrays(picture):
    np.testing.assert_array_equal(load_image(Image.fromarray(picture)), picture)
    np.testing.assert_array_equal(load_image(picture), picture)
    np.testing.assert_array_equal(load_image(picture / 255), picture)
    np.testing.assert_array_equal(load_image(picture.astype(np.uint16) * 257), picture)
    assert load_image(picture[..., 0]).shape == picture.shape


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_modes(tmp_path, picture, mode):
    if mode == "I;16":
        image = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(picture).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    loaded = load_image(path)
    assert loaded.shape == picture.shape and loaded.dtype == np.uint8
    expected = picture[..., :1] if mode == "I;16" else np.asarray(image.convert("RGB"), int)
    assert np.abs(loaded - expected).mean() < (6 if mode == "CMYK" else 0.001)


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[20:, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    for loaded in (load_image(tmp_path / "a.png"), load_image(rgba)):
        assert (loaded[:20] == 255).all() and (loaded[20:] == 0).all()


@pytest.mark.parametrize(("name", "tolerance"), [("a.png", 0), ("a.tif", 0), ("a.avif", 6)])
@pytest.mark.parametrize("orientation", [*range(1, 9), 99])
def test_exif_orientation(tmp_path, picture, orientation, name, tolerance):
    turned = {1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1], 5: picture.swapaxes(0, 1),
              6: np.rot90(picture), 7: picture[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(picture, -1), 99: picture}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / name, exif=exif)
    loaded = load_image(tmp_path / name)
    assert loaded.shape == picture.shape and np.abs(loaded.astype(int) - picture).mean() <= tolerance


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "AVIF"])
def test_of_several_pictures_the_first_is_read(tmp_path, picture, kind):
    first, second = Image.fromarray(picture), Image.fromarray(255 - picture)
    first.save(tmp_path / "a", kind, save_all=True, append_images=[second])
    assert np.abs(load_image(tmp_path / "a").astype(int) - picture).mean() < 12


def test_a_transparent_gif_lies_over_white(tmp_path):
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[20:, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.gif")
    loaded = load_image(tmp_path / "a.gif")
    assert (loaded[:20] == 255).all() and (loaded[20:] == 0).all()


def test_heic_names_what_reads_it(tmp_path, picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as where it is not installed
    (tmp_path / "a.jpg").write_bytes(struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic") + bytes(100))
    with pytest.raises(InvalidImageError, match=r"^a\.jpg: a HEIC picture.*pip install 'temposync-pipeline\[heic\]' \(pillow-heif\)$"):
        load_image(tmp_path / "a.jpg")


def test_heic_is_read_with_its_extra(tmp_path, picture):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(picture)).save(tmp_path / "a.heic", quality=95)
    assert np.abs(load_image(tmp_path / "a.heic").astype(int) - picture).mean() < 6
    (tmp_path / "cut.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:200])
    with pytest.raises(InvalidImageError, match="cut.heic: not a readable"):
        load_image(tmp_path / "cut.heic")


def test_a_floating_point_picture_beyond_its_range_is_called_by_its_name(tmp_path):
    Image.fromarray(np.full((40, 40), 200.0, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InvalidImageError, match=r"^a\.tif: floating point values outside the limits of 0 to 1$"):
        load_image(tmp_path / "a.tif")


def png_header(width, height):
    """A PNG of a few bytes that claims a size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (chunk, b"IDAT" + zlib.compress(b"\0" * 100), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)


@pytest.mark.parametrize(("size", "limit"), [
    ((65_000, 65_000), "4225 megapixels, above the limit of 40 megapixels; make it smaller"),
    ((10_000, 10_000), "10000x10000 px, .*; make it smaller"), ((1, 20_000), "32 px"),
    ((1, 1), "32 px"), ((31, 100), "31x100"),
])
def test_size_limits(tmp_path, size, limit):
    (tmp_path / "a.png").write_bytes(png_header(*size))
    with pytest.raises(InvalidImageError, match=limit):
        load_image(tmp_path / "a.png")


def test_empty_files_and_pictures_that_break_off_say_so(tmp_path, picture):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(InvalidImageError, match="^empty.png: the file is empty$"):
        load_image(tmp_path / "empty.png")
    for kind in ("png", "jpeg", "bmp", "tiff"):
        path = tmp_path / f"cut.{kind}"
        Image.fromarray(picture).save(path)
        path.write_bytes(path.read_bytes()[:-path.stat().st_size // 3])
        with pytest.raises(InvalidImageError, match="breaks off before the end of the picture" if kind != "tiff" else "cut.tiff"):
            load_image(path)


def test_what_is_not_a_picture(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "whole.png")
    Image.fromarray(picture).save(tmp_path / "ppm.png", "PPM")
    Image.fromarray(picture).save(tmp_path / "jpeg2000.png", "JPEG2000")
    contents = {
        "empty.png": b"", "text.jpg": b"hello", "cut.png": (tmp_path / "whole.png").read_bytes()[:120],
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "ppm.png", "jpeg2000.png"):
        with pytest.raises(InvalidImageError, match=name) as error:
            load_image(tmp_path / name)
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "missing.png")
    with pytest.raises(InvalidImageError):
        load_image(tmp_path)


@pytest.mark.parametrize("array", [np.zeros((64, 64, 2), np.uint8), np.zeros(5, np.uint8), np.zeros((64, 64), np.int64),
                                   np.full((64, 64, 3), 2.0), np.full((64, 64, 3), np.nan), np.zeros((8, 64, 3), np.uint8)])
def test_bad_arrays(array):
    with pytest.raises(InvalidImageError):
        load_image(array)


def test_damaged_jpeg_never_raises_anything_else(tmp_path, picture):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).save(path)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(50):
        damaged = content.copy()
        damaged[rng.integers(0, len(content), 5)] = rng.integers(0, 256, 5)
        path.write_bytes(damaged.tobytes())
        try:
            load_image(path)
        except InvalidImageError:
            pass


def test_a_users_picture_is_neither_changed_nor_shared():
    picture = Image.fromarray(np.arange(48 * 40 * 3, dtype=np.uint8).reshape(48, 40, 3))
    keyed = picture.copy()
    keyed.info["transparency"] = (0, 1, 2)
    for mine in (picture, keyed):
        before = mine.tobytes(), mine.mode, dict(mine.info)
        load_image(mine)[:] = 0
        assert (mine.tobytes(), mine.mode, mine.info) == before
