"""Upper teeth that are drawn, for photos that show none."""

import numpy as np
import pytest

from temposync_pipeline.face.crop import transform_points
from temposync_pipeline.face.drawn_teeth import SHUT, drawn_teeth
from temposync_pipeline.face.inner_mouth import BLOCK, SCALE
from temposync_pipeline.face.landmarks import GROUPS, LEFT_IRIS, NUM_LANDMARKS, RIGHT_IRIS, lip_opening
from temposync_pipeline.face.warp import PhotoWarp

from .test_inner_mouth import hidden_mouth
from .test_own_teeth import in_usual_light

CENTRE, MATRIX, SKIN, LIPS = (128, 176), np.eye(3)[:2], (190, 150, 125), (150, 80, 80)


def face(gap: float = 0.0, eyes: int = 180) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 [256, 256, 3] with eyes of that luma and lips so many pixels apart, and its landmarks [131, 2]."""
    landmarks = np.zeros((NUM_LANDMARKS, 2), np.float32)
    landmarks[RIGHT_IRIS], landmarks[LEFT_IRIS] = (90, 92), (166, 92)
    outlines = {"right_eye": ((90, 92), 14, 6), "left_eye": ((166, 92), 14, 6), "outer_lips": (CENTRE, 30, 12),
                "inner_lips": (CENTRE, 28, gap / 2)}
    for group, (centre, width, height) in outlines.items():
        count = GROUPS[group].stop - GROUPS[group].start
        angles = np.pi - 2 * np.pi * np.arange(count) / count  # from the right corner along the lower edge
        landmarks[GROUPS[group]] = np.array(centre) + np.column_stack([width * np.cos(angles), height * np.sin(angles)])
    picture = np.full((256, 256, 3), SKIN, np.uint8)
    picture[84:100] = eyes
    picture[160:192, 94:162] = LIPS
    return in_usual_light(picture), landmarks


def rows_of(share: np.ndarray) -> np.ndarray:
    """Rows of the crop with more than half of a tooth in the middle columns, beside the midline."""
    column = SCALE * (CENTRE[0] + 5 - BLOCK.x0)
    return BLOCK.y0 + np.flatnonzero(share[:, column] > 0.5) / SCALE


def test_they_lie_behind_the_lips_and_end_a_little_below_where_those_meet():
    picture, landmarks = face()
    teeth = drawn_teeth(picture, MATRIX, landmarks)
    rows = rows_of(teeth.share)
    assert rows[0] < CENTRE[1] - 5 and CENTRE[1] + 1 < rows[-1] < CENTRE[1] + 4
    middle = SCALE * (CENTRE[0] - BLOCK.x0)
    assert np.abs(teeth.share[:, :middle] - teeth.share[:, :middle - 1:-1]).mean() < 0.02  # a midline under the nose
    across = teeth.picture[SCALE * (CENTRE[1] - BLOCK.y0)]
    gap, tooth = across[middle - 1:middle + 1], across[middle + 8]
    assert gap.mean() < tooth.mean() - 8 and teeth.share[:, :4].max() == 0


def test_they_follow_size_place_and_roll_of_the_face():
    picture, landmarks = face()
    turn = np.float32([[0.98, -0.2, 28], [0.2, 0.98, -22]])
    plain, turned = drawn_teeth(picture, MATRIX, landmarks), drawn_teeth(picture, MATRIX, transform_points(turn, landmarks))
    centres = []
    for teeth in (plain, turned):
        rows, columns = np.nonzero(teeth.share > 0.5)
        centres.append([columns.mean() / SCALE + BLOCK.x0, rows.mean() / SCALE + BLOCK.y0])
    assert np.allclose(transform_points(turn, np.array(centres[:1]))[0], centres[1], atol=1)


@pytest.mark.parametrize("eyes, least, most", [(180, 180, 235), (120, 120, 165), (5, 80, 135), (255, 150, 255)])
def test_they_are_as_light_as_the_eyes_but_behind_sunglasses(eyes, least, most):
    picture, landmarks = face(eyes=eyes)
    teeth = drawn_teeth(picture, MATRIX, landmarks)
    brightest = np.percentile(teeth.picture.mean(-1)[teeth.share > 0.9], 97)
    assert least < brightest < most
    assert (teeth.picture[..., 0] >= teeth.picture[..., 2]).all()


def test_parted_lips_and_small_faces_get_none():
    picture, landmarks = face(gap=10)
    assert lip_opening(landmarks) > SHUT and drawn_teeth(picture, MATRIX, landmarks) is None
    picture, landmarks = face()
    small = picture[::2, ::2].copy()
    assert drawn_teeth(small, 2 * MATRIX, landmarks) is None and drawn_teeth(picture, MATRIX, landmarks) is not None


def test_they_are_seen_between_lips_alone_and_stay_where_they_are():
    picture, landmarks = face()
    warp = PhotoWarp(picture, MATRIX, fine=True, teeth=drawn_teeth(picture, MATRIX, landmarks))

    def frame(height: int, down: float = 0.0) -> np.ndarray:
        flow, visibility = hidden_mouth(slice(168, 168 + height), slice(98, 158))
        return warp.patch(flow + np.float32([0, down]), visibility, None).onto(picture).astype(int)

    tooth = np.s_[175:177, 132:136]
    wide, lips = frame(24), np.median(picture[170:182, 120:136], (0, 1))
    assert wide[tooth].mean() > 130 and np.abs(wide[tooth] - frame(24, down=1)[tooth]).max() <= 2
    assert wide[180:183, 120:136].mean() < 0.5 * wide[tooth].mean()  # it is dark below them
    touching = frame(1)[160:180, 120:136]
    assert touching.sum(-1).max() < 1.1 * lips.sum() and touching.sum(-1).min(0).max() < 0.9 * lips.sum()  # lips and a line, no tooth
    assert np.abs(wide[164:167, 120:136] - lips).max() < 0.3 * lips.max()
