"""Teeth that a photo shows: found between the lips, and left where they are when the lips move."""

import cv2
import numpy as np
import pytest

from temposync_pipeline.face.inner_mouth import BLOCK, SCALE
from temposync_pipeline.face.landmarks import GROUPS, NUM_LANDMARKS
from temposync_pipeline.face.own_teeth import own_teeth
from temposync_pipeline.face.warp import TEETH_GONE_FROM, PhotoWarp

from .test_inner_mouth import hidden_mouth

SKIN, LIPS, TEETH, DARK = (224, 172, 140), (180, 90, 90), (225, 220, 205), (30, 12, 12)
CENTRE, MATRIX = (128, 176), np.eye(3)[:2]
UPPER, LOWER = slice(164, 178), slice(180, 190)  # rows of either jaw's teeth


def ellipse(width: int, height: int, count: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(count) / count
    return np.array(CENTRE) + np.column_stack([width * np.cos(angles), height * np.sin(angles)])


def mouth(
    height: int = 8, teeth: tuple[slice, ...] = (slice(164, 183),), colours=(SKIN, LIPS, TEETH, DARK)
) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 [256, 256, 3] of parted lips, and landmarks of it."""
    skin, lips, tooth, dark = colours
    landmarks = np.zeros((NUM_LANDMARKS, 2), np.float32)
    picture = np.full((256, 256, 3), skin, np.uint8)
    for group, size, colour in (("outer_lips", (36, height + 10), lips), ("inner_lips", (28, height), dark)):
        places = GROUPS[group]
        landmarks[places] = ellipse(*size, len(landmarks[places]))
        cv2.fillPoly(picture, [np.round(landmarks[places]).astype(np.int32)], colour)
    inside = (picture == np.array(dark, np.uint8)).all(-1)
    for rows in teeth:
        picture[rows][inside[rows]] = tooth
    return picture, landmarks


def in_crop(share: np.ndarray) -> np.ndarray:
    """The share of teeth by the crop's pixels, [256, 256]."""
    whole = np.zeros((256, 256), np.float32)
    whole[BLOCK.y0:BLOCK.y1, BLOCK.x0:BLOCK.x1] = cv2.resize(share, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=cv2.INTER_AREA)
    return whole


GREY = tuple((level,) * 3 for level in (170, 110, 210, 15))
DARK_SKIN = (70, 48, 40), (74, 48, 48), (200, 196, 185), (20, 10, 10)


@pytest.mark.parametrize("colours", [(SKIN, LIPS, TEETH, DARK), DARK_SKIN, GREY])
def test_teeth_are_found_and_lips_are_not(colours):
    picture, landmarks = mouth(colours=colours)
    share, shade, _ = own_teeth(picture, MATRIX, landmarks)
    share = in_crop(share)
    assert share[170:175, 116:140].min() > 0.9 and shade < 0.5 * max(colours[1])
    assert share[(picture == np.array(colours[1])).all(-1) | (picture == np.array(colours[0])).all(-1)].max() < 0.2


def test_where_both_rows_show_none_counts():
    picture, landmarks = mouth(10, (UPPER, LOWER))
    assert own_teeth(picture, MATRIX, landmarks) is None
    assert own_teeth(mouth(10, (slice(164, 190),))[0], MATRIX, landmarks) is not None


@pytest.mark.parametrize("teeth, height", [((), 8), ((slice(170, 172),), 1), ((), 0), ((slice(160, 172),), 16)])
def test_a_mouth_without_teeth_has_none_nor_one_that_speaks(teeth, height):
    picture, landmarks = mouth(height, teeth)
    assert own_teeth(picture, MATRIX, landmarks) is None


def test_they_stay_where_they_are_until_lips_shut():
    """As sharp as the photo has them, whatever is painted, and whatever moves."""
    picture, landmarks = mouth()
    picture[170:175, 100:156:4] //= 2  # gaps between teeth
    warp = PhotoWarp(picture, MATRIX, fine=True, teeth=own_teeth(picture, MATRIX, landmarks))
    flow, visibility = hidden_mouth(slice(160, 196), slice(98, 158))
    painted = np.full((128, 192, 3), 60, np.float32)
    teeth = slice(170, 175), slice(118, 138)

    def frame(closing: float) -> np.ndarray:
        return warp.patch(flow + 3, visibility, painted, closing).onto(picture)[teeth].astype(int)

    assert np.abs(frame(0.0) - picture[teeth]).max() <= 8
    assert 20 < np.abs(frame(TEETH_GONE_FROM / 2) - frame(0.0)).mean() > np.abs(frame(TEETH_GONE_FROM / 4) - frame(0.0)).mean() > 10
    without = PhotoWarp(picture, MATRIX, fine=True).patch(flow + 3, visibility, painted).onto(picture)
    assert np.array_equal(frame(TEETH_GONE_FROM), without[teeth]) and np.abs(frame(1.0) - frame(0.0)).max() > 60


def test_it_is_dark_below_them():
    """Whatever a painter puts there, but beside the lips."""
    picture, landmarks = mouth()
    teeth = own_teeth(picture, MATRIX, landmarks)
    flow, visibility = hidden_mouth(slice(160, 200), slice(98, 158))
    painted = np.full((128, 192, 3), 200, np.float32)
    warp = PhotoWarp(picture, MATRIX, fine=True, teeth=teeth)
    frame, shut = (warp.patch(flow, visibility, painted, closing).onto(picture) for closing in (0.0, 1.0))
    assert abs(frame[188:192, 118:138].mean() - teeth.shade) < 5 < 60 < frame[199, 128].mean() and shut[188:192, 118:138].min() > 120

