"""The inside of a mouth that is drawn: it has the photo's grain, and what shines in it moves with it."""

import cv2
import numpy as np

from temposync_pipeline.face.open_mouth import open_mouth
from temposync_pipeline.face.own_teeth import own_teeth
from temposync_pipeline.face.warp import PhotoWarp

from .test_own_teeth import LIPS, MATRIX, lips_that_part_by, mouth

TONGUE = slice(186, 196), slice(112, 144)


def spoken(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """A photo with so much noise, in levels, and a frame of it."""
    picture, landmarks = mouth()
    chance = np.random.default_rng(1).normal(0, noise, (256, 256, 1)) if noise else 0
    photo = np.clip(np.rint(picture + chance), 0, 255).astype(np.uint8)
    return photo, PhotoWarp(photo, MATRIX, fine=True, teeth=own_teeth(photo, MATRIX, landmarks)).patch(
        *lips_that_part_by(40, 16.0), None).onto(photo)


def test_what_is_drawn_has_the_photos_grain():
    none, some, more = (spoken(noise)[1].astype(np.float32).mean(-1)[TONGUE] for noise in (0.0, 1.5, 3.0))
    assert 0.5 < (some - none).std() < (more - none).std() < 3.5
    assert np.array_equal(spoken(3.0)[1], spoken(3.0)[1])


def cavity(top: int) -> np.ndarray:
    """Of a gap that begins at a row."""
    hidden = np.zeros((70, 90), np.float32)
    hidden[top:top + 40, 15:75] = 1
    return open_mouth(np.full((70, 90, 3), LIPS, np.uint8), 1 - hidden, hidden, np.zeros((35, 45), np.float32), are_shut=False).cavity


def test_spots_that_shine_move_with_the_mouth():
    here, there = cavity(10), cavity(14)
    rows, columns = slice(40, 90), slice(50, 130)
    moved = np.roll(there, -8, 0)  # four rows are eight of the block's
    assert np.abs(here - moved)[rows, columns].max() < 1e-3 < np.abs(here - there)[rows, columns].max()
    assert (here - cv2.GaussianBlur(here, (0, 0), 2))[rows, columns].std() > 0.003  # there are some
