"""Which frame of a film lends its mouth at rest to the others."""

from typing import NamedTuple

import numpy as np

from temposync_pipeline.face.landmarks import LEFT_MOUTH_CORNER, NUM_LANDMARKS, RIGHT_MOUTH_CORNER
from temposync_pipeline.pipelines.mouth_plate import MOST_TRIED, POSE, WIDTH_AT_REST, Plate, Plates


class Frame(NamedTuple):
    landmarks: np.ndarray
    opening: float
    closing: float = 0.0


def frame(opening: float = 0.0, width: float = WIDTH_AT_REST, turned: float = 0.0, closing: float = 0.0) -> Frame:
    landmarks = np.zeros((NUM_LANDMARKS, 2), np.float32)
    landmarks[POSE] += (turned, 0)
    landmarks[LEFT_MOUTH_CORNER] = (width, 0)
    landmarks[RIGHT_MOUTH_CORNER] = (0, opening)  # no two frames are alike
    return Frame(landmarks, opening, closing)


def plates_of(made: list[Frame]) -> Plates:
    def make(chosen: Frame, near: tuple[Frame, ...]) -> Plate:
        assert any(chosen is each for each in near)
        made.append(chosen)
        return Plate(None, chosen.landmarks, chosen.opening, None, chosen.closing)

    return Plates(make)


def chosen(*frames: Frame) -> int:
    made: list[Frame] = []
    plate = plates_of(made).choose(frames, ())[1]
    return next(index for index, each in enumerate(frames) if each.landmarks is plate.landmarks)


def test_a_mouth_that_is_shut_and_near_in_pose_is_taken():
    assert chosen(frame(opening=0.2), frame(opening=0.01), frame(opening=0.1)) == 1
    assert chosen(frame(turned=12), frame(opening=0.02), frame(turned=-12)) == 1


def test_rounded_lips_are_not_at_rest():
    assert chosen(frame(opening=0.005, width=44), frame(opening=0.04)) == 1
    assert chosen(frame(opening=0.005, width=44), frame(opening=0.3)) == 0
    assert chosen(frame(opening=0.001, width=WIDTH_AT_REST + 6), frame(opening=0.02)) == 0  # a smile is


def test_nor_are_lips_that_would_be_closed_still():
    assert chosen(frame(opening=0.011, closing=2.0), frame(opening=0.03)) == 1
    assert chosen(frame(opening=0.011, closing=0.3), frame(opening=0.03)) == 0


def test_no_frame_is_made_a_plate_twice_and_few_at_a_time():
    made: list[Frame] = []
    plates, frames = plates_of(made), [frame(opening=0.01 + index / 1000, closing=9.0) for index in range(8)]
    before, plate = plates.choose(frames, ())
    assert before is None and len(made) == MOST_TRIED and plate.landmarks is frames[0].landmarks
    for _ in range(3):
        assert plates.choose(frames, ()) == (None, plate)
    assert len(made) == len({each.opening for each in made})
