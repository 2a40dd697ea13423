"""The figures of faces that move as a whole, on motion that is known."""

import numpy as np
import pytest
import torch

from temposync_pipeline.data.manifest import Clip
from temposync_pipeline.face.crop import TEMPLATE
from temposync_pipeline.face.landmarks import EYES, GROUPS, LEFT_IRIS, LOWER_LID, NUM_LANDMARKS, RIGHT_IRIS, RIGID, UPPER_LID
from temposync_pipeline.media.video import VideoWriter
from temposync_pipeline.metrics.crop_video import VideoMaker
from temposync_pipeline.metrics.protocols import Evaluator
from temposync_pipeline.metrics.report import markdown, summarise
from temposync_pipeline.metrics.whole_face import coding_figures, motion_figures, mouth_boxes, seam, steadied, whole_face_figures

from .tiny_components import MEDIA, picture, ready, spoken, tiny_asymtalker_pipeline, tiny_pipeline, tiny_read_pipeline

pytestmark = pytest.mark.makes_videos


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


def test_a_jump_where_clips_begin_shows():
    first = np.array([33, 65, 97])
    steady = np.arange(100, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    assert seam(steady, first) == pytest.approx(1.0)
    jumping = steady.copy()
    for joint in first:
        jumping[joint:] += 2
    assert seam(jumping, first) == pytest.approx(3.0)
    assert seam(steady, np.arange(0)) is None


def test_a_head_that_is_held_stays():
    crops = np.zeros((40, 256, 256, 3), np.uint8)
    points = nodding(40, 5.0).astype(np.float32)
    for crop, landmarks in zip(crops, points):
        row = round(float(landmarks[RIGID].mean(0)[1]))
        crop[row - 3:row + 4, 100:156] = 255
    spread = [np.flatnonzero(video.max((2, 3)).max(0) > 200).size for video in (crops, steadied(crops, points))]
    assert spread[0] >= 12 and spread[1] <= 9


def test_what_coding_loses_in_closed_form():
    rng = np.random.default_rng(0)
    still = rng.integers(60, 180, (256, 256, 3), dtype=np.uint8)
    real = np.repeat(still[None], 9, 0)
    real[1::2, 120:220, 80:180] += 40  # a mouth that moves, and more around it
    points = np.repeat(face()[None], 9, 0)
    points[:, GROUPS["outer_lips"]] += np.float32([0, 45])
    assert coding_figures(real, real, points) == {"psnr_crop": 99, "psnr_crop_mouth": 99, "mouth_change_ratio": 1}
    timid = real.copy()
    timid[1::2, 120:220, 80:180] -= 20
    figures = coding_figures(timid, real, points)
    assert figures["mouth_change_ratio"] == pytest.approx(0.5)
    # Four of nine frames are wrong by 20 levels in the box, the others right.
    assert figures["psnr_crop_mouth"] == pytest.approx((5 * 99 + 4 * 20 * np.log10(255 / 20)) / 9, rel=1e-3)
    assert figures["psnr_crop"] > figures["psnr_crop_mouth"]


def test_the_mouths_box_follows_the_lips_and_stays_in_the_crop():
    points = face()[None].repeat(2, 0)
    points[1] += 500
    (rows, columns), (below, right) = mouth_boxes(points)
    assert (rows.start + rows.stop) / 2 == 128 and (columns.start + columns.stop) / 2 == 128
    assert (below.stop, right.stop) == (256, 256)


@pytest.fixture
def talker(tmp_path) -> Clip:
    """A clip of a picture that slides, with real speech."""
    path = tmp_path / "talker.mp4"
    shown = picture(320, 320)
    with VideoWriter(path, audio_path=MEDIA / "speech_hello.wav") as writer:
        for frame in range(12):
            writer.write(np.roll(shown, 2 * frame, 1))
    return Clip("talker", "talker", path, "val")


def test_a_model_of_whole_faces_is_measured_with_its_ceiling(talker, monkeypatch):
    pipeline = tiny_read_pipeline()
    for layer in (pipeline.vae.decoder.layers[0], pipeline.temporal_vae.encoder.out[-1], pipeline.temporal_vae.decoder.fine[-1]):
        torch.nn.init.normal_(layer.weight, std=3)  # what is decoded shows in the picture
    ready(pipeline)
    monkeypatch.setattr(pipeline.face_aligner, "track", lambda frames: np.repeat(face()[None], len(frames), 0))
    judge = Evaluator(
        VideoMaker(pipeline), steps=(2, 1), rows=("student", "one_by_one", "passed_on", "vae", "temporal_vae"), guidances=((2, 6.5),))
    record, _ = judge.self_driven(talker, talker)
    rows = record["rows"]
    assert list(rows) == ["student_2", "student_2_guidance_2_6.5", "student_1", "student_1_guidance_2_6.5", "one_by_one", "vae",
                          "temporal_vae"]
    assert len({figures["temporal_l1"] for row, figures in rows.items() if row.startswith("student")}) == 4
    assert {"head_shift_ratio", "lids_ratio", "seam"} <= set(rows["student_2"])
    assert "seam" not in rows["temporal_vae"]
    assert abs(rows["temporal_vae"]["psnr_crop"] - rows["vae"]["psnr_crop"]) > 0.1
    table = markdown({"protocol": "self", "model": "tiny", "records": [record], "rows": {}, "summary": summarise([record]),
                      "closures": {}, "notes": [], "failures": []})
    assert "What coding leaves of the whole face" in table and "| student 1 guidance 2 6.5 |" in table


def test_frames_of_a_large_photo_have_its_size():
    """Else their crops would not lie where the portrait's does."""
    maker = VideoMaker(tiny_pipeline())
    frame = next(maker.in_photo(maker.portrait(picture(300, 2000)), spoken(0.2), 1))
    assert frame.shape == (300, 2000, 3)


def test_what_recoding_the_kernels_buys_has_a_row(talker, monkeypatch):
    pipeline = tiny_asymtalker_pipeline()
    torch.nn.init.normal_(pipeline.vae.decoder.layers[0].weight, std=3)
    ready(pipeline)
    monkeypatch.setattr(pipeline.face_aligner, "track", lambda frames: np.repeat(face()[None], len(frames), 0))
    judge = Evaluator(VideoMaker(pipeline), steps=(1,), rows=("student", "one_by_one", "passed_on"))
    rows = judge.self_driven(talker, talker)[0]["rows"]
    assert list(rows) == ["student_1", "passed_on"]
    assert rows["passed_on"]["temporal_l1"] != rows["student_1"]["temporal_l1"]
