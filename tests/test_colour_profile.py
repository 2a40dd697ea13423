import logging

import numpy as np
import pytest
from PIL import Image

from temposync_pipeline.errors import InvalidImageError
from temposync_pipeline.media.image import load_image

from .icc_profiles import PRIMARIES, grey_profile, ink_profile, rgb_profile


def linear(encoded: np.ndarray) -> np.ndarray:
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def encode(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def in_srgb(colour: tuple, primaries: str, gamma: float | None) -> np.ndarray:
    """What a colour of such a profile is in sRGB, in levels, by the definition of both."""
    encoded = np.array(colour) / 255
    light = linear(encoded) if gamma is None else encoded**gamma
    return 255 * encode(np.linalg.inv(PRIMARIES["srgb"]) @ np.array(PRIMARIES[primaries]) @ light)


def plain(colour, mode="RGB") -> Image.Image:
    return Image.new(mode, (40, 40), colour)


@pytest.mark.parametrize(("primaries", "gamma"), [("display_p3", None), ("adobe_rgb", 2.2), ("prophoto", 1.8), ("srgb", 1.8)])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.avif"])
def test_colours_are_converted(tmp_path, primaries, gamma, name):
    # Of the skin colours here, all lie within sRGB.
    for colour in ((200, 160, 140), (90, 60, 50), (128, 128, 128)):
        options = {"quality": 100} if name != "a.png" else {}
        plain(colour).save(tmp_path / name, icc_profile=rgb_profile(primaries, gamma), **options)
        tolerance = 1 if name in ("a.png", "a.tif") else 3
        np.testing.assert_allclose(load_image(tmp_path / name)[20, 20], in_srgb(colour, primaries, gamma), atol=tolerance)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_camera_that_says_adobe_rgb_without_a_profile(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112], exif[0x8769] = orientation, {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    for colour in ((200, 160, 140), (90, 60, 50), (128, 128, 128)):
        plain(colour).save(tmp_path / "a.jpg", exif=exif, quality=100)
        np.testing.assert_allclose(load_image(tmp_path / "a.jpg")[20, 20], in_srgb(colour, "adobe_rgb", 2.19921875), atol=3)
        plain(colour).save(tmp_path / "b.jpg", exif=exif, quality=100, icc_profile=rgb_profile("srgb"))
        np.testing.assert_allclose(load_image(tmp_path / "b.jpg")[20, 20], colour, atol=2)


def test_a_srgb_profile_changes_no_pixel(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png", icc_profile=rgb_profile("srgb"))
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), picture)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_gammas(tmp_path, mode):
    value = {"L": 100, "LA": (100, 255), "I;16": 100 * 257}[mode]
    plain(value, mode).save(tmp_path / "a.png", icc_profile=grey_profile(1.0))
    np.testing.assert_allclose(load_image(tmp_path / "a.png")[20, 20], np.full(3, 255 * encode(np.array(100 / 255))), atol=1)


def test_a_grey_picture_with_a_profile_for_colours(tmp_path):
    plain(100, "L").save(tmp_path / "a.png", icc_profile=rgb_profile("adobe_rgb", 1.8))
    np.testing.assert_allclose(load_image(tmp_path / "a.png")[20, 20], in_srgb((100, 100, 100), "adobe_rgb", 1.8), atol=1)


def test_printing_inks_are_converted_by_their_profile(tmp_path):
    half = plain((0, 0, 0, 128), "CMYK")
    half.save(tmp_path / "a.tif", icc_profile=ink_profile())
    # L* = 50 is 18.4 % of the light, 119 in sRGB; the complement would be 127.
    np.testing.assert_allclose(load_image(tmp_path / "a.tif")[20, 20], 119, atol=2)
    half.save(tmp_path / "plain.tif")
    np.testing.assert_allclose(load_image(tmp_path / "plain.tif")[20, 20], 127, atol=1)


def test_lab_pictures(tmp_path):
    plain((255 * 60 // 100, 128, 128), "LAB").save(tmp_path / "a.tif")
    red, green, blue = load_image(tmp_path / "a.tif")[20, 20].astype(int)
    assert abs(red - green) <= 1 and abs(green - blue) <= 1 and abs(green - 145) <= 2  # L* = 60


def test_transparency_and_palettes_keep_their_profile(tmp_path):
    for image in (plain((200, 160, 140, 255), "RGBA"), plain((200, 160, 140)).convert("P", palette=Image.Palette.ADAPTIVE)):
        image.save(tmp_path / "a.png", icc_profile=rgb_profile("display_p3"))
        np.testing.assert_allclose(load_image(tmp_path / "a.png")[20, 20], in_srgb((200, 160, 140), "display_p3", None), atol=1)


def test_a_picture_handed_over_keeps_its_profile():
    image = plain((200, 160, 140))
    image.info["icc_profile"] = rgb_profile("prophoto", 1.8)
    np.testing.assert_allclose(load_image(image)[20, 20], in_srgb((200, 160, 140), "prophoto", 1.8), atol=1)


@pytest.mark.parametrize("profile", [
    b"nonsense", rgb_profile("display_p3")[:200], rgb_profile("display_p3") + bytes(9 * 2**20), grey_profile(2.2), ink_profile(),
])
def test_a_profile_that_cannot_be_used_is_ignored_in_one_line(tmp_path, picture, caplog, profile):
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        image.load()
    image.info["icc_profile"] = profile
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(load_image(image), load_image(tmp_path / "a.jpg"))
    assert [record.getMessage().startswith("image: its colour profile cannot be used") for record in caplog.records] == [True]


def test_damaged_profiles_never_raise_anything_else(tmp_path, picture):
    profile = np.frombuffer(rgb_profile("adobe_rgb", 2.2), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = profile.copy()
        damaged[rng.integers(0, len(profile), 8)] = rng.integers(0, 256, 8)
        Image.fromarray(picture).save(tmp_path / "a.png", icc_profile=damaged.tobytes())
        try:
            load_image(tmp_path / "a.png")
        except InvalidImageError:
            pass
