"""A photo whose face moves with what the decoder shows: exact where nothing does, its own pixels where something does."""

import cv2
import numpy as np
import pytest

from temposync_pipeline.face.crop import CROP_SIZE, crop_face, mouth_mask
from temposync_pipeline.face.moving_photo import MovingPhoto, face_mask

SIZE = 512
MATRIX = np.float32([[0.8, 0, -80], [0, 0.8, -70]])  # the crop lies at (100, 87.5), 320 px a side


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Noise of all scales, which any motion would show."""
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.normal(size=(SIZE // step, SIZE // step, 3)).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
              for step in (1, 4, 16, 32)]
    return np.clip(128 + 25 * sum(layers), 0, 255).astype(np.uint8)


def decoded(photo: np.ndarray, matrix: np.ndarray = MATRIX) -> np.ndarray:
    """A crop as a decoder would show it: without the finest detail."""
    return cv2.GaussianBlur(crop_face(photo, matrix).astype(np.float32), (0, 0), 1.5)


def shifted(pixels: float) -> np.ndarray:
    """The crop of a head that has moved to the right by some crop pixels."""
    return MATRIX + np.float32([[0, 0, pixels], [0, 0, 0]])


def sharpness(picture: np.ndarray) -> float:
    return float(cv2.Laplacian(picture.astype(np.float32), cv2.CV_32F).std())


@pytest.mark.parametrize("still", [False, True])
def test_a_frame_like_the_photo_changes_nothing(photo, still):
    moving = MovingPhoto(photo, MATRIX, decoded(photo), still)
    assert moving.patch(decoded(photo)).pixels.size == 0


def test_a_head_moves_with_all_its_detail_and_the_rest_of_the_photo_stays(photo):
    frame = MovingPhoto(photo, MATRIX, decoded(photo)).patch(decoded(photo, shifted(3.0))).onto(photo)
    moved = cv2.warpAffine(photo, np.float32([[1, 0, 3.75], [0, 1, 0]]), (SIZE, SIZE))
    head, true = (picture[210:290, 220:300] for picture in (frame, moved))
    assert np.abs(head.astype(float) - true).mean() < 0.25 * np.abs(photo[210:290, 220:300].astype(float) - true).mean()
    assert sharpness(head) > 0.8 * sharpness(true)
    outside = np.ones((SIZE, SIZE), bool)
    outside[87:409, 99:421] = False
    assert np.array_equal(frame[outside], photo[outside])


def test_what_the_photo_does_not_show_comes_from_the_decoder(photo):
    crop = decoded(photo)
    crop[150:190, 110:146] = 30
    frame = MovingPhoto(photo, MATRIX, decoded(photo)).patch(crop).onto(photo)
    assert abs(frame[290:310, 250:270].mean() - 30) < 8


def test_a_still_head_is_put_back_and_only_the_mouth_changes(photo):
    crop = decoded(photo, shifted(4.0))
    crop[170:186, 118:154] = 20  # an open mouth, moved along
    frame = MovingPhoto(photo, MATRIX, decoded(photo), still=True).patch(crop).onto(photo)
    changed = crop_face(np.abs(frame.astype(np.int16) - photo).max(-1, keepdims=True).astype(np.uint8).repeat(3, -1), MATRIX)[..., 0]
    assert not changed[cv2.dilate(mouth_mask(), np.ones((5, 5))) == 0].any()
    seen = crop_face(frame, MATRIX)
    assert seen[175:182, 122:142].mean() < 60  # four pixels to the left of where the decoder has it
    assert np.abs(seen[210:240, 80:180].astype(float) - crop_face(photo, MATRIX)[210:240, 80:180]).mean() < 12


def test_black_and_white_stays_so(photo):
    grey = np.repeat(photo[..., :1], 3, -1)
    crop = decoded(grey)
    crop[150:190, 110:146] = (200, 60, 60)
    frame = MovingPhoto(grey, MATRIX, decoded(grey)).patch(crop).onto(grey)
    assert (frame == frame[..., :1]).all() and (frame != grey).any()


def test_the_mask_is_nothing_at_the_edges_and_everything_in_the_middle():
    mask = face_mask()
    assert mask[[0, 1, -1, -2]].max() == mask[:, [0, 1, -1, -2]].max() == 0
    assert mask[32:CROP_SIZE - 32, 32:CROP_SIZE - 32].min() == 1
