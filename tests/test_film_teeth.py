"""Teeth that one frame of a film shows, behind lips that are shut in another."""

import numpy as np

from temposync_pipeline.face.film_teeth import MOST_TURNED, UNDER_LIP, film_teeth
from temposync_pipeline.face.inner_mouth import SCALE
from temposync_pipeline.face.landmarks import GROUPS
from temposync_pipeline.face.own_teeth import mouth_and_lips, own_teeth

from .test_own_teeth import MATRIX, TEETH, mouth


def moved(landmarks: np.ndarray, by: tuple[float, float]) -> np.ndarray:
    return landmarks + np.float32(by)


def test_they_go_where_the_head_is():
    picture, landmarks = mouth()
    shut = moved(mouth(height=0)[1], (2, -1))
    share, lips, colours = film_teeth(picture, MATRIX, landmarks, shut)
    seen = own_teeth(picture, MATRIX, landmarks).share
    # Two pixels to the right and one up: four and two of the block's.
    there = np.roll(seen, (-SCALE, 2 * SCALE), (0, 1)) > 0.9
    assert there.any() and share[there].min() > 0.9
    assert np.abs(colours[there] - TEETH).mean() < 8
    assert np.array_equal(lips > 0, mouth_and_lips(shut)[1])


def test_they_go_on_under_the_lip_that_hid_them_and_nowhere_else():
    picture, landmarks = mouth()
    share, _, colours = film_teeth(picture, MATRIX, landmarks, landmarks)
    seen = own_teeth(picture, MATRIX, landmarks).share
    column = seen.shape[1] // 2
    top = int((seen[:, column] > 0.9).argmax())
    assert share[top - UNDER_LIP:top, column].min() > 0.99 and share[top - UNDER_LIP - 1, column] == seen[top - UNDER_LIP - 1, column]
    assert np.abs(colours[top - UNDER_LIP:top, column] - colours[top, column]).max() == 0
    bottom = len(seen) - int((seen[::-1, column] > 0.9).argmax())
    assert np.array_equal(share[bottom:], seen[bottom:])


def test_a_head_that_is_turned_otherwise_and_a_mouth_without_teeth_give_none():
    picture, landmarks = mouth()
    turned = landmarks.copy()
    turned[GROUPS["nose_base"]] += (MOST_TURNED + 0.5, 0)
    assert film_teeth(picture, MATRIX, landmarks, turned) is None
    assert film_teeth(mouth(teeth=())[0], MATRIX, landmarks, landmarks) is None
