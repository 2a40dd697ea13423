import cv2
import numpy as np
import pytest

from temposync_pipeline.face.crop import CROP_SIZE, LATENT_STRIDE, LATENT_WINDOW, crop_face, mouth_mask
from temposync_pipeline.face.warp import INNER_WINDOW, PhotoWarp, sharpened

from .test_blend import portrait

TOP, LEFT, HEIGHT, WIDTH = (LATENT_STRIDE * cells for cells in LATENT_WINDOW)
LIPS = (slice(150, 190), slice(100, 156))  # of the crop


def still() -> tuple[np.ndarray, np.ndarray]:
    """No flow, all visible."""
    return np.zeros((HEIGHT // 2, WIDTH // 2, 2), np.float32), np.ones((HEIGHT, WIDTH), np.float32)


def inner(crop: np.ndarray) -> np.ndarray:
    top, left, height, width = (LATENT_STRIDE * cells for cells in INNER_WINDOW)
    return crop[top:top + height, left:left + width]


def flat(*colour: float) -> np.ndarray:
    return inner(np.full((CROP_SIZE, CROP_SIZE, 3), colour, np.float32))


def region_in_photo(region: tuple[slice, slice], matrix: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
    mask[region] = 1
    return cv2.warpAffine(mask, matrix, (size, size), flags=cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST) > 0


def test_a_still_frame_is_the_photo():
    photo, matrix = portrait(300)
    patch = PhotoWarp(photo, matrix).patch(*still(), flat(0))
    assert patch.pixels.size == 0 and np.array_equal(patch.onto(photo), photo)


@pytest.mark.parametrize("size", [90, 300, 1500])
def test_photo_outside_the_mask_is_untouched(size):
    photo, matrix = portrait(size)
    flow, visibility = still()
    frame = PhotoWarp(photo, matrix).patch(flow + 5, 0 * visibility, flat(90)).onto(photo)
    inside = cv2.warpAffine((mouth_mask() > 0).astype(np.uint8), matrix, (size, size), flags=cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST)
    reach = int(np.ceil(size / CROP_SIZE)) + 2
    outside = cv2.dilate(inside, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) == 0
    assert np.array_equal(frame[outside], photo[outside]) and not np.array_equal(frame, photo)


@pytest.mark.parametrize("roll", [0, 30])
def test_pixels_move_with_the_photos_own_detail(roll):
    """A flow of whole photo pixels takes each pixel from its place, grain and all, in a photo of three pixels a crop pixel."""
    photo, matrix = portrait(640, roll)
    shift = np.array([6, -9])  # photo pixels
    flow, visibility = still()
    flow += (matrix[:, :2] @ shift).astype(np.float32)
    frame = PhotoWarp(photo, matrix).patch(flow, visibility, flat(0)).onto(photo)
    lips = region_in_photo(LIPS, matrix, len(photo))
    y, x = np.nonzero(lips)
    assert np.abs(frame[y, x].astype(int) - photo[y + shift[1], x + shift[0]]).max() <= 1


def test_what_is_hidden_takes_the_decoders_colours_in_the_photos_tone():
    """The decoder is 15 levels too light everywhere; the mouth it opens comes out as dark as it should be, without an edge of light."""
    photo, matrix = portrait(512, 0)
    truth = cv2.GaussianBlur(crop_face(photo, matrix), (0, 0), 3)
    photo = cv2.GaussianBlur(photo, (0, 0), 4)
    mouth = (slice(166, 182), slice(108, 148))
    colours = truth.astype(np.float32) + 15
    colours[mouth] = 45
    flow, visibility = still()
    visibility[mouth[0].start - TOP:mouth[0].stop - TOP, mouth[1].start - LEFT:mouth[1].stop - LEFT] = 0
    frame = PhotoWarp(photo, matrix).patch(flow, visibility, inner(colours)).onto(photo)
    middle = region_in_photo((slice(170, 178), slice(114, 142)), matrix, len(photo))
    assert abs(frame[middle].mean() - 30) < 4
    outside = ~region_in_photo((slice(160, 188), slice(102, 154)), matrix, len(photo))
    assert np.array_equal(frame[outside], photo[outside])


def test_a_black_and_white_photo_stays_so():
    photo, matrix = portrait(300)
    photo = np.repeat(photo[..., :1], 3, axis=-1)
    flow, visibility = still()
    frame = PhotoWarp(photo, matrix).patch(flow + 2, 0.5 * visibility, flat(200, 90, 80)).onto(photo)
    assert np.ptp(frame, axis=-1).max() == 0 and not np.array_equal(frame, photo)


@pytest.mark.parametrize("fine", [False, True])
def test_a_mouth_has_no_green_teeth(fine):
    photo, matrix = portrait(300)
    flow, visibility = still()
    colours = np.full((2 * 64, 2 * 96, 3) if fine else (112, 128, 3), (147, 155, 133), np.float32)
    frame = PhotoWarp(photo, matrix, fine).patch(flow, 0 * visibility, colours).onto(photo)
    changed = frame[(frame != photo).any(-1)].astype(int)
    assert len(changed) > 500 and (changed[:, 0] >= changed[:, 1]).mean() > 0.9


def test_sharpening_strengthens_what_a_blur_takes_from_the_luma_but_grain():
    row, inside = np.arange(40), np.s_[10:30, 10:30]

    def wave(period: float) -> np.ndarray:
        line = 120 + 20 * np.cos(2 * np.pi * row / period)
        return np.repeat(np.tile(line, (40, 1))[..., None], 3, -1).astype(np.float32)

    for period in (3, 8, 400):  # pixels
        for grain in (0, 1.2):
            kept, smooth = (np.exp(-2 * (np.pi * sigma / period) ** 2) for sigma in (grain, 2.5))
            strength = np.std(sharpened(wave(period), 2.5, 0.8, grain)[inside]) / np.std(wave(period)[inside])
            assert strength == pytest.approx(1 + 0.8 * (kept - smooth), abs=0.05)
    colours = wave(8) + np.float32([30, 0, -10])
    assert np.allclose(sharpened(colours, 2.5, 0.8) - colours, sharpened(wave(8), 2.5, 0.8) - wave(8), atol=1e-3)


def test_painted_teeth_are_sharpened():
    photo, matrix = portrait(512)
    flow, visibility = still()
    stripes = np.repeat(np.where(np.arange(192) // 6 % 2, 180, 140)[None, :, None], 3, -1).repeat(128, 0).astype(np.float32)
    frame = PhotoWarp(photo, matrix, fine=True).patch(flow, 0 * visibility, stripes).onto(photo)
    teeth = crop_face(frame, matrix, 512)[330:350, 230:282]
    assert np.ptp(teeth.mean((0, 2))) > 1.3 * (180 - 140)


def test_a_mouth_outside_the_photo_changes_nothing():
    photo, matrix = portrait(300)
    matrix[:, 2] += 2000
    flow, visibility = still()
    frame = PhotoWarp(photo, matrix).patch(flow + 4, 0 * visibility, flat(0)).onto(photo)
    assert np.array_equal(frame, photo)
