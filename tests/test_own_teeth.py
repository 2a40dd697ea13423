"""Teeth that a photo shows: found between the lips, and left where they are when the lips move."""

import cv2
import numpy as np
import pytest

from temposync_pipeline.face.crop import LATENT_STRIDE, LATENT_WINDOW
from temposync_pipeline.face.inner_mouth import BLOCK, SCALE
from temposync_pipeline.face.landmarks import GROUPS, NUM_LANDMARKS
from temposync_pipeline.face.open_mouth import open_mouth
from temposync_pipeline.face.own_teeth import own_teeth
from temposync_pipeline.face.warp import FLOW_STRIDE, PhotoWarp

from .test_inner_mouth import hidden_mouth

SKIN, LIPS, TEETH, DARK = (224, 172, 140), (180, 90, 90), (225, 220, 205), (30, 12, 12)
CENTRE, MATRIX = (128, 176), np.eye(3)[:2]
UPPER, LOWER = slice(164, 178), slice(180, 190)  # rows of either jaw's teeth


def in_usual_light(picture: np.ndarray) -> np.ndarray:
    """With hair, a wall and a plant at its top, so that nobody takes it for a faded or toned photo."""
    for rows, colour in ((slice(0, 16), (10, 8, 8)), (slice(16, 32), (240, 242, 245)), (slice(32, 48), (60, 140, 50))):
        picture[rows] = colour
    return picture


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
    return in_usual_light(picture), landmarks


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
    share = in_crop(own_teeth(picture, MATRIX, landmarks).share)
    assert share[170:175, 116:140].min() > 0.9
    assert share[(picture == np.array(colours[1])).all(-1) | (picture == np.array(colours[0])).all(-1)].max() < 0.2


def test_where_both_rows_show_none_counts():
    picture, landmarks = mouth(10, (UPPER, LOWER))
    assert own_teeth(picture, MATRIX, landmarks) is None
    assert own_teeth(mouth(10, (slice(164, 190),))[0], MATRIX, landmarks) is not None


@pytest.mark.parametrize("teeth, height", [((), 8), ((slice(170, 172),), 1), ((), 0), ((slice(160, 172),), 16)])
def test_a_mouth_without_teeth_has_none_nor_one_that_speaks(teeth, height):
    picture, landmarks = mouth(height, teeth)
    assert own_teeth(picture, MATRIX, landmarks) is None


def lips_that_part_by(rows: int, down: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Flow and visibility: the photo's own gap, or what is left of it, `down` the way of the lower lip down from where it was, in px."""
    flow, visibility = hidden_mouth(slice(162, 162 + rows), slice(98, 158))
    flow[(170 - LATENT_STRIDE * LATENT_WINDOW[0]) // FLOW_STRIDE:, :, 1] = -down
    return flow, visibility


def test_they_stay_where_they_are_until_lips_shut():
    """As sharp as the photo has them, whatever moves, and nothing of them is left between lips that touch."""
    picture, landmarks = mouth()
    picture[170:175, 100:156:4] //= 2  # gaps between teeth
    warp = PhotoWarp(picture, MATRIX, fine=True, teeth=own_teeth(picture, MATRIX, landmarks))
    teeth = slice(170, 173), slice(118, 138)

    def frame(rows: int, down: float) -> np.ndarray:
        return warp.patch(*lips_that_part_by(rows, down), None).onto(picture).astype(int)

    for rows, down in ((24, 0.0), (30, 6.0)):
        assert np.abs(frame(rows, down)[teeth] - picture[teeth]).max() <= 8
    shut = frame(6, -14.0)[162:182, 118:138]
    assert (shut[..., 0] - shut[..., 2]).min() > 25  # it is lips, that are red
    assert shut.sum(-1).min(0).max() < 0.8 * np.sum(LIPS)  # and a line between them


def test_it_is_dark_below_them_and_there_is_a_tongue():
    """With no colours from a network; the lower lip goes on to the gap."""
    picture, landmarks = mouth()
    warp = PhotoWarp(picture, MATRIX, fine=True, teeth=own_teeth(picture, MATRIX, landmarks))
    luma = warp.patch(*lips_that_part_by(40, 16.0), None).onto(picture)[:, 118:138].mean((1, 2))
    assert luma[184:200].max() < 0.5 * luma[175]  # teeth end at 182
    assert luma[198:200].max() < luma[188:194].max() - 10  # in the shadow of the lip, which begins at 200
    closed = warp.patch(*lips_that_part_by(0), None).onto(picture)
    assert np.array_equal(closed, picture)
    hidden = np.zeros((60, 90), np.float32)
    hidden[10:50, 15:75] = 1
    inside = open_mouth(np.full((60, 90, 3), LIPS, np.uint8), 1 - hidden, hidden, np.zeros((30, 45), np.float32), are_shut=False)
    back, tongue = inside.cavity[32:44, 84:88], inside.cavity[70:80, 84:88]
    assert back.max() < 0.15 and 0.4 < tongue.min() and inside.gap[32:80, 84:88].min() == 1
    assert max(inside.gap[:26].max(), inside.gap[:, :10].max()) < 0.2


@pytest.mark.parametrize("colours", [(SKIN, LIPS, TEETH, DARK), GREY])
def test_the_inside_of_a_mouth_has_the_photos_contrast_and_tone(colours):
    """In a faded photo no black hole, in a monochrome one no colour."""
    picture, landmarks = mouth(colours=colours)
    if colours == GREY:
        picture = np.repeat(picture.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    faded = (0.4 * picture + 100).astype(np.uint8)
    warp = PhotoWarp(faded, MATRIX, fine=True, teeth=own_teeth(faded, MATRIX, landmarks))
    inside = warp.patch(*lips_that_part_by(40, 16.0), None).onto(faded)[183:199, 118:138].astype(int)
    assert 95 < inside.min() and np.ptp(inside.mean(-1)) > 4
    assert (np.ptp(inside, axis=-1).max() <= 1) == (colours == GREY)
