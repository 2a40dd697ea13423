import cv2
import numpy as np
import pytest

from temposync_pipeline.face.crop import align_matrix
from temposync_pipeline.metrics.detail import detail_figures, face_regions, is_large, zoomed_mouths

from .test_retarget import face

SCALE = 3


@pytest.fixture
def photo() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grainy photo of a face three times the crop's size, its landmarks in photo and in crop pixels."""
    grain = np.random.default_rng(0).normal(128, 20, (256 * SCALE, 256 * SCALE, 1)).clip(0, 255).astype(np.uint8)
    return np.repeat(grain, 3, axis=-1), SCALE * face(6), face(6)


def test_detail_is_relative_to_the_photos_own_and_to_the_moving_half(photo):
    picture, landmarks, in_crop = photo
    matrix = align_matrix(landmarks)
    blurred = cv2.GaussianBlur(picture, (0, 0), 8)
    halved = (picture.astype(np.float32) * 0.5 + blurred.astype(np.float32) * 0.5).round().astype(np.uint8)

    def figures(*frames: np.ndarray) -> dict[str, float]:
        return detail_figures(picture, frames, matrix, landmarks, np.stack([in_crop] * len(frames)))

    assert all(value == pytest.approx(1, abs=0.02) for value in figures(picture, picture).values())
    # Still frames do not count, and half the amplitude is a quarter of the energy.
    assert all(value == pytest.approx(0.25, abs=0.03) for value in figures(picture, halved).values())
    assert all(value < 0.02 for value in figures(picture, blurred).values())


def test_regions_are_lips_and_the_skin_below(photo):
    picture, landmarks, _ = photo
    regions = face_regions(landmarks, align_matrix(landmarks), picture.shape[:2])
    assert regions["lips"][178 * SCALE, 128 * SCALE] and not regions["lips"][168 * SCALE, 128 * SCALE]  # the lower lip, the mouth
    assert regions["skin"][200 * SCALE, 128 * SCALE] and not regions["skin"][60 * SCALE, 128 * SCALE]  # the chin, the forehead
    assert not (regions["skin"] & regions["lips"]).any()


def test_large_photos_are_shown_enlarged(photo):
    picture, landmarks, _ = photo
    matrix = align_matrix(landmarks)
    assert is_large(matrix) and not is_large(matrix * SCALE)
    frames = np.stack([np.full_like(picture, shade) for shade in (10, 60, 200)])
    sheet = zoomed_mouths(picture, frames, matrix, np.array([0.2, 0.0, 0.1]))
    assert sheet.shape == (416, 4 * 512, 3)
    assert [int(sheet[200, 512 * column + 200, 0]) for column in (1, 3)] == [10, 200]
