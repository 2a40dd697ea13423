"""Whole faces that move: what is measured on one face comes out on another."""

import cv2
import numpy as np
import pytest

from temposync_pipeline.data.face_motion import (
    blink_curve,
    close_lids,
    face_motion,
    move_face,
    moved_landmarks,
)
from temposync_pipeline.face.crop import TEMPLATE, transform_points
from temposync_pipeline.face.landmarks import EYES, LEFT_IRIS, LOWER_LID, NUM_LANDMARKS, RIGHT_IRIS, RIGID, UPPER_LID, lid_opening

SKIN, EYE = 180, 40


@pytest.fixture
def landmarks() -> np.ndarray:
    """A face in its crop; everything that is not eyes lies on an oval."""
    angles = np.linspace(0, 2 * np.pi, NUM_LANDMARKS, endpoint=False)
    points = np.stack([128 + 70 * np.sin(angles), 128 - 90 * np.cos(angles)], -1).astype(np.float32)
    points[[RIGHT_IRIS, LEFT_IRIS]] = (90, 80), (166, 80)
    across = np.linspace(-10, 10, 9)
    for eye, x in zip(EYES, (91, 165)):
        height = 4 * (1 - (across / 10) ** 2)
        lower, upper = np.stack([x + across, 80 + height], -1), np.stack([x + across, 80 - height], -1)
        points[eye[np.r_[0, LOWER_LID, 8]]], points[eye[UPPER_LID]] = lower, upper[1:-1]
    points[RIGID] = TEMPLATE
    return points


@pytest.fixture
def crop(landmarks) -> np.ndarray:
    picture = np.full((256, 256, 3), SKIN, np.uint8)
    for eye in EYES:
        cv2.fillPoly(picture, [landmarks[eye].round().astype(np.int32)], (EYE,) * 3)
    return picture


def eye_pixels(picture: np.ndarray) -> int:
    return int((picture[60:100, 75:105, 0] < (SKIN + EYE) // 2).sum())


def test_lids_close_with_skin_and_nothing_else_changes(crop, landmarks):
    assert np.array_equal(close_lids(crop, landmarks, np.float32([1, 1])), crop)
    half, shut = (close_lids(crop, landmarks, np.float32([share, 1])) for share in (0.5, 0.0))
    assert 0.3 < eye_pixels(half) / eye_pixels(crop) < 0.8 and eye_pixels(shut) < 0.35 * eye_pixels(crop)
    changed = (shut != crop).any(-1)
    assert changed[:, :112].any() and not changed[:, 112:].any() and not changed[:60].any() and not changed[100:].any()


def test_a_heads_motion_is_measured_and_followed(landmarks):
    turned = np.float32([[0.998, -0.05, 9], [0.05, 0.998, -4]])
    motion = face_motion(np.stack([landmarks, transform_points(turned, landmarks)]), landmarks)
    assert np.allclose(motion.similarity[0], np.eye(3)[:2], atol=1e-4) and np.allclose(motion.similarity[1], turned, atol=0.02)
    assert np.abs(motion.brows).max() < 1e-3 and np.abs(motion.turn).max() < 1e-3
    assert np.allclose(moved_landmarks(landmarks, motion, 1), transform_points(turned, landmarks), atol=0.05)


def test_a_moved_face_takes_its_skin_along_and_the_border_stays(crop, landmarks):
    moved = move_face(crop, landmarks, landmarks + np.float32([5, 0]))
    places = [np.argwhere(picture[60:100, 60:196, 0] < (SKIN + EYE) // 2)[:, 1].mean() for picture in (crop, moved)]
    assert places[1] - places[0] == pytest.approx(5, abs=0.6)
    gradient = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3)).copy()
    edges = np.s_[[0, 1, -1, -2]]
    assert np.abs(move_face(gradient, landmarks, landmarks + np.float32([5, 0])).astype(int) - gradient)[edges].max() <= 1


def test_lid_opening_is_in_interocular_distances_and_blinks_close(landmarks):
    assert np.allclose(lid_opening(landmarks), 8 / 76, atol=0.01)
    curve = blink_curve(2000, np.random.default_rng(0), rate=0.5)
    assert curve.shape == (2000,) and curve.min() < 0.1 and 0 <= curve.min() and curve.max() == 1
    assert 0.02 < (curve < 0.5).mean() < 0.2
