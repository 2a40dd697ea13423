import time

import cv2
import numpy as np
import pytest

from temposync_pipeline.face.blend import HEIGHT, WIDTH, Blender, membrane
from temposync_pipeline.face.crop import CROP_SIZE, crop_face, mouth_mask


def portrait(size: int, roll: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """A textured picture and the alignment of a face that fills most of it."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(50, 180, (6, 6, 1)) * [1.2, 1.0, 0.8] * rng.uniform(0.8, 1.2, (6, 6, 3))  # as of skin in white light
    smooth = cv2.resize(colours.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    photo = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), roll, CROP_SIZE / size * 1.2)
    matrix[:, 2] += CROP_SIZE / 2 - size / 2
    return photo, matrix.astype(np.float32)


def decoded(crop: np.ndarray) -> np.ndarray:
    """What a slim decoder does to a crop: softer, and a few levels off."""
    return cv2.GaussianBlur(crop, (0, 0), 1.5).astype(np.float32) * 1.03 + 4


def open_mouth(crop: np.ndarray) -> np.ndarray:
    return cv2.ellipse(crop.copy(), (128, 190), (26, 16), 0, 0, 360, (40, 10, 10), -1)


@pytest.mark.parametrize("size", [64, 300, 1500])
def test_photo_outside_the_mask_is_untouched(size):
    photo, matrix = portrait(size)
    result = Blender(photo, matrix).paste(open_mouth(decoded(crop_face(photo, matrix))))
    mask = cv2.warpAffine((mouth_mask() > 0).astype(np.uint8), matrix, (size, size), flags=cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST)
    reach = int(np.ceil(size / CROP_SIZE)) + 1
    outside = cv2.dilate(mask, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) == 0
    assert result.dtype == np.uint8 and result.shape == photo.shape
    assert np.array_equal(result[outside], photo[outside])
    assert not np.array_equal(result, photo)


def test_frame_equal_to_the_reference_gives_the_photo_back():
    photo, matrix = portrait(400)
    reconstruction = decoded(crop_face(photo, matrix))
    result = Blender(photo, matrix, reconstruction).paste(reconstruction)
    assert np.abs(result.astype(int) - photo).max() <= 1


def test_no_seam_when_the_decoder_shifts_the_tone():
    photo, matrix = portrait(256, roll=0)
    photo = cv2.GaussianBlur(photo, (0, 0), 4)
    crop = crop_face(photo, matrix).astype(np.float32)
    result = Blender(photo, matrix).paste(crop + 15)
    assert np.abs(result.astype(float) - photo).max() < 3


def test_membrane_of_a_constant_is_that_constant_and_is_bounded():
    np.testing.assert_allclose(membrane(np.full((HEIGHT, WIDTH, 3), 7, np.float32)), 7, atol=1e-3)
    assert np.abs(membrane(np.full((HEIGHT, WIDTH, 3), 200, np.float32))).max() < 25


def test_opened_mouth_shows_in_the_photo():
    photo, matrix = portrait(512)
    reconstruction = decoded(crop_face(photo, matrix))
    result = Blender(photo, matrix, reconstruction).paste(open_mouth(reconstruction))
    inner = crop_face(result, matrix)[184:196, 116:140].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(inner, (40, 10, 10), atol=12)


def test_detail_of_the_photo_survives_where_nothing_moved():
    photo, matrix = portrait(512)
    reconstruction = decoded(crop_face(photo, matrix))
    result = crop_face(Blender(photo, matrix, reconstruction).paste(open_mouth(reconstruction)), matrix)
    cheek = np.s_[165:180, 75:90]
    original = crop_face(photo, matrix)

    def sharpness(picture):
        return cv2.Laplacian(picture[cheek].astype(np.float32), cv2.CV_32F).var()

    assert sharpness(result) > 0.8 * sharpness(original) > 2 * sharpness(reconstruction)


def colourfulness(picture: np.ndarray) -> int:
    return int(np.ptp(picture.astype(int), axis=-1).max())


def test_a_scanned_black_and_white_photo_gets_no_colours():
    photo, matrix = portrait(300)
    photo = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, -1)
    noise = np.random.default_rng(1).integers(-2, 3, photo.shape)
    photo = np.clip(photo.astype(int) + noise + [3, 1, 0], 0, 255).astype(np.uint8)
    assert colourfulness(photo) > 4
    mouth = cv2.ellipse(decoded(crop_face(photo, matrix)), (128, 190), (26, 16), 0, 0, 360, (180, 40, 60), -1)
    result = Blender(photo, matrix).paste(mouth)
    assert colourfulness(result) <= colourfulness(photo) + 2 and not np.array_equal(result, photo)


def test_colours_stay_colours():
    photo, matrix = portrait(300)
    assert colourfulness(Blender(photo, matrix).paste(open_mouth(decoded(crop_face(photo, matrix))))) > 60


def test_mouth_beyond_the_picture_is_no_failure():
    photo, matrix = portrait(200)
    matrix[:, 2] -= 10_000
    blender = Blender(photo, matrix)
    assert blender.is_empty
    assert np.array_equal(blender.paste(np.zeros((256, 256, 3), np.uint8)), photo)


def test_bad_inputs_are_named():
    photo, matrix = portrait(100)
    with pytest.raises(ValueError, match="photo must be uint8"):
        Blender(photo / 255, matrix)
    with pytest.raises(ValueError, match="the crop must be"):
        Blender(photo, matrix).paste(np.zeros((128, 128, 3), np.uint8))


def test_paste_is_quick():
    photo, matrix = portrait(512)
    crop = crop_face(photo, matrix)
    blender = Blender(photo, matrix, crop)
    times = []
    for _ in range(10):
        start = time.process_time()
        blender.paste(crop)
        times.append(time.process_time() - start)
    assert min(times) < 0.03  # 3 ms measured on an idle core; room for a slow one
