"""The figures of faces that move as a whole, on motion that is known."""

import numpy as np
import pytest

from temposync_pipeline.data.face_motion import EYES, LOWER_LID, UPPER_LID
from temposync_pipeline.face.crop import TEMPLATE
from temposync_pipeline.face.landmarks import LEFT_IRIS, NUM_LANDMARKS, RIGHT_IRIS, RIGID
from temposync_pipeline.metrics.whole_face import joints, motion_figures, seam, steadied, whole_face_figures


def face() -> np.ndarray:
    """A face in its crop, its eyes 8 px open."""
    points = np.full((NUM_LANDMARKS, 2), 128, np.float32)
    points[[RIGHT_IRIS, LEFT_IRIS]] = (90, 80), (166, 80)
    for eye, x in zip(EYES, (90, 166)):
        points[eye[LOWER_LID]] = np.column_stack([x + np.linspace(-9, 9, 7), np.full(7, 84)])
        points[eye[UPPER_LID]] = np.column_stack([x + np.linspace(-9, 9, 7), np.full(7, 76)])
    points[RIGID] = TEMPLATE
    return points


def nodding(frames: int, pixels: float) -> np.ndarray:
    shift = pixels * np.sin(np.arange(frames) / 12)
    return face()[None] + np.stack([0 * shift, shift], -1)[:, None]


def test_a_head_that_moves_twice_as_far_counts_twice():
    figures = whole_face_figures(nodding(150, 6.0), nodding(150, 3.0))
    assert figures["head_shift_ratio"] == pytest.approx(2.0, rel=0.02)
    assert figures["head_shift"] == pytest.approx(6.0 / 2**0.5, rel=0.1)
    assert figures["head_roll"] < 0.01 and figures["lids"] < 0.01 and figures["blinks"] == 0


def test_blinks_are_counted_by_the_minute():
    points = np.repeat(face()[None], 100, 0)
    for first in (20, 60):
        for eye in EYES:
            points[first:first + 4, eye[UPPER_LID], 1] = 82.5
    assert motion_figures(points)["blinks"] == 30


def test_joints_are_where_clips_begin_and_a_jump_there_shows():
    first = joints(100, 5)
    assert first.tolist() == [33, 65, 97] and joints(33, 5).size == 0
    steady = np.arange(100, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    assert seam(steady, first) == pytest.approx(1.0)
    jumping = steady.copy()
    for joint in first:
        jumping[joint:] += 2
    assert seam(jumping, first) == pytest.approx(3.0)
    assert seam(steady, joints(20, 5)) is None


def test_a_head_that_is_held_stays():
    crops = np.zeros((40, 256, 256, 3), np.uint8)
    points = nodding(40, 5.0).astype(np.float32)
    for crop, landmarks in zip(crops, points):
        row = round(float(landmarks[RIGID].mean(0)[1]))
        crop[row - 3:row + 4, 100:156] = 255
    spread = [np.flatnonzero(video.max((2, 3)).max(0) > 200).size for video in (crops, steadied(crops, points))]
    assert spread[0] >= 12 and spread[1] <= 9
