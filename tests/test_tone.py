"""Photos in other colours than the networks know, made from the example portraits."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from temposync_pipeline.face.blend import Blender
from temposync_pipeline.face.crop import CROP_SIZE, crop_face
from temposync_pipeline.face.mouth_box import HEIGHT, LEFT, TOP, WIDTH
from temposync_pipeline.face.tone import LUMA, SKIN, known_crop, read_tone, without_green
from temposync_pipeline.media.image import load_image

PORTRAITS = ("portrait_man", "portrait_man_2", "portrait_woman")
MEDIA = Path(__file__).parent.parent / "examples" / "media"
# From luma to the colours of a toned print.
CURVES = {
    "three levels": lambda luma: (luma + 2, luma, luma - 1),
    "sepia": lambda luma: (1.07 * luma + 12, 0.95 * luma + 4, 0.72 * luma),
    "cyanotype": lambda luma: (255 * (luma / 255) ** 1.9, 255 * (luma / 255) ** 1.15, 60 + 195 * (luma / 255) ** 0.8),
    "yellowed": lambda luma: (30 + 0.86 * luma, 25 + 0.8 * luma, 10 + 0.62 * luma),
    "split": lambda luma: (luma + 0.1 * luma**2 / 255, 1.02 * luma, luma + 0.12 * (255 - luma) - 0.08 * luma),
    "selenium": lambda luma: (255 * (luma / 255) ** 0.9, 255 * (luma / 255) ** 1.05, 255 * (luma / 255) ** 0.98),
}

DUOTONE = {"duotone": lambda luma: (26 + 0.9 * luma, 30 + 190 * (luma / 255) ** 1.1, 90 + 0.25 * luma)}


def levels(picture) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def portrait(name: str) -> tuple[np.ndarray, np.ndarray]:
    """An example portrait, whose face fills the crop's place for it, and its affine to the crop."""
    photo = load_image(MEDIA / f"{name}.jpg")
    scale = 0.62
    matrix = np.array([[scale, 0, CROP_SIZE / 2 - scale * photo.shape[1] / 2], [0, scale, 110 - scale * 0.42 * photo.shape[0]]], np.float32)
    return photo, matrix


def toned(photo: np.ndarray, curve: str) -> np.ndarray:
    return levels(np.stack((CURVES | DUOTONE)[curve](photo @ LUMA), -1))


def speaking(photo: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The photo with a mouth of the usual colours: pink lips, white teeth, a black hole; and the crop's window of it."""
    mouth = cv2.ellipse(known_crop(photo, matrix), (128, 185), (34, 20), 0, 0, 360, (190, 90, 100), -1)
    mouth = cv2.ellipse(mouth, (128, 185), (24, 12), 0, 0, 360, (30, 20, 20), -1)
    mouth = cv2.ellipse(mouth, (128, 180), (18, 4), 0, 0, 360, (210, 204, 194), -1)
    result = Blender(photo, matrix).paste(mouth)
    return result, crop_face(result, matrix)[TOP:TOP + HEIGHT, LEFT:LEFT + WIDTH]


@pytest.mark.parametrize("name", PORTRAITS)
def test_usual_portraits_are_left_alone(name):
    photo, matrix = portrait(name)
    for picture in (photo, levels(photo * 0.6), levels(photo * [1.04, 1, 0.9])):
        assert read_tone(crop_face(picture, matrix)).is_usual
        np.testing.assert_array_equal(known_crop(picture, matrix), crop_face(picture, matrix))


@pytest.mark.parametrize("name", PORTRAITS)
@pytest.mark.parametrize("curve", CURVES)
def test_a_toned_photo_keeps_its_tone_curve(name, curve):
    photo, matrix = portrait(name)
    print_ = toned(photo, curve)
    known = known_crop(print_, matrix)
    assert np.ptp(known.astype(int), axis=-1).max() == 0  # the networks see black and white
    result, window = speaking(print_, matrix)
    mouth = np.flatnonzero(cv2.absdiff(window, crop_face(print_, matrix)[TOP:TOP + HEIGHT, LEFT:LEFT + WIDTH]).max(-1) > 10)
    assert len(mouth) > 1000
    # Where on its curve the print has each pixel's luma.
    curve_colours = np.stack(CURVES[curve](np.arange(256.0)), -1).clip(0, 255)
    colours = window.reshape(-1, 3)[mouth].astype(float)
    nearest = curve_colours[np.abs(curve_colours @ LUMA - (colours @ LUMA)[:, None]).argmin(1)]
    off_curve = np.abs(colours - nearest).max(-1)
    assert np.percentile(off_curve, 95) <= 10 and np.mean(off_curve) <= 3


@pytest.mark.parametrize("name", PORTRAITS)
@pytest.mark.parametrize("curve", CURVES | DUOTONE)
@pytest.mark.parametrize("quality", [40, 75])
def test_compression_leaves_a_toned_photo_toned(name, curve, quality):
    """As on old pages of the web: JPEG keeps a colour for blocks of 16 pixels, in whole steps."""
    photo, matrix = portrait(name)
    scale = 0.4
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    matrix = matrix @ np.diag([1 / scale, 1 / scale, 1]).astype(np.float32)

    def compressed(picture):
        return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)

    assert read_tone(crop_face(compressed(toned(small, curve)), matrix)).curve is not None
    pale = levels(0.25 * small + 0.75 * (small @ LUMA)[..., None])
    assert read_tone(crop_face(compressed(pale), matrix)).curve is None


@pytest.mark.parametrize("light", [(1, 0.3, 0.35), (0.25, 0.45, 1), (0.35, 1, 0.4), (1, 0.7, 0.25)])
def test_coloured_light_falls_on_the_mouth_too(light):
    photo, matrix = portrait("portrait_man")
    lit = levels(photo * light)
    tone = read_tone(crop_face(lit, matrix))
    assert not tone.is_usual
    if tone.curve is None:
        red, green, blue = np.median(tone.to_known(crop_face(lit, matrix))[SKIN].reshape(-1, 3), 0)
        assert 1.0 < red / green < 1.8 and 0.5 < blue / green < 1.05
    # White teeth look as white things do in that light, as far as it is from white.
    _, window = speaking(lit, matrix)
    teeth = np.median(window[178 - TOP:183 - TOP, 120 - LEFT:136 - LEFT].reshape(-1, 3), 0)
    assert np.argmax(teeth) == np.argmax(light)
    assert teeth.min() / teeth.max() < 0.75


@pytest.mark.parametrize("colours", [lambda photo: photo, lambda photo: toned(photo, "sepia")])
def test_a_faded_photo_gets_no_black_mouth(colours):
    photo, matrix = portrait("portrait_woman")
    faded = levels(0.35 * colours(photo).astype(float) + 140)
    darkest = np.percentile(crop_face(faded, matrix) @ LUMA, 0.5)
    _, window = speaking(faded, matrix)
    hole = np.median(window[186 - TOP:194 - TOP, 118 - LEFT:138 - LEFT] @ LUMA)
    assert darkest - 12 < hole < darkest + 40
    known = known_crop(faded, matrix) @ LUMA
    assert np.percentile(known, 99) - np.percentile(known, 1) > 150


def test_what_is_brought_near_comes_back():
    photo, matrix = portrait("portrait_man_2")
    for changed in (levels(photo * [0.25, 0.45, 1]), levels(0.4 * photo + 120), toned(photo, "sepia")):
        crop = crop_face(changed, matrix)
        tone = read_tone(crop)
        back = tone.to_photo(tone.to_known(crop).astype(np.float32))
        assert np.percentile(np.abs(back - crop), 90) <= 4


@pytest.mark.parametrize("teeth", [(147, 155, 133), (160, 155, 128)], ids=["mint", "olive"])
def test_teeth_are_not_green(teeth):
    """They become as red as they are yellow, and no lighter."""
    colours = np.full((4, 5, 3), teeth, np.float32)
    changed = without_green(colours)
    assert np.allclose(changed @ LUMA, colours @ LUMA, atol=1e-3)
    red, blue = changed[0, 0, 0] - changed[0, 0] @ LUMA, changed[0, 0, 2] - changed[0, 0] @ LUMA
    assert red == pytest.approx(-blue, abs=0.1) and (changed[..., 0] > changed[..., 1]).all() and (changed[..., 1] > changed[..., 2]).all()


@pytest.mark.parametrize("colour", [(190, 90, 100), (215, 203, 199), (224, 172, 140), (30, 20, 20), (0, 0, 0), (120, 120, 120)],
                         ids=["lips", "ivory", "skin", "gap", "black", "grey"])
def test_what_is_not_green_is_left_alone(colour):
    colours = np.full((4, 5, 3), colour, np.float32)
    np.testing.assert_array_equal(without_green(colours), colours)
