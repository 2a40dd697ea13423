"""The evaluation must give known answers: here the "checkpoint" is a puppet whose lips do exactly what a test says."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from temposync_pipeline.data.manifest import Clip
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.face.crop import TEMPLATE
from temposync_pipeline.face.landmarks import GROUPS, LEFT_IRIS, NUM_LANDMARKS, RIGHT_IRIS, RIGID
from temposync_pipeline.media.video import VideoWriter
from temposync_pipeline.metrics import evaluate
from temposync_pipeline.metrics.talking_face import closure_figures, lip_figures, sharpness_ratio, steadiness_figures
from temposync_pipeline.models.autoencoder_temposync import AutoencoderTempoSync

SIZE, LENGTH = 160, 24
SCALE = SIZE / 256


def face(opening: float) -> np.ndarray:
    """Landmarks [131, 2] of the puppet in its picture."""
    points = np.full((NUM_LANDMARKS, 2), 128.0)
    points[RIGID] = TEMPLATE
    points[[RIGHT_IRIS, LEFT_IRIS]] = (90, 80), (166, 80)
    angles = np.linspace(np.pi, -np.pi, 20, endpoint=False)
    for group, height in (("inner_lips", 0), ("outer_lips", 8)):
        points[GROUPS[group]] = np.stack([128 + 26 * np.cos(angles), 185 + (38 * opening + height) * np.sin(angles)], -1)
    return (points * SCALE).astype(np.float32)


def picture(opening: float, shade: int) -> np.ndarray:
    """The puppet: its mouth is as bright as it is open; `shade` tells people apart."""
    image = np.full((SIZE, SIZE, 3), shade, np.uint8)
    cv2.circle(image, (80, 116), 14, (int(500 * opening),) * 3, -1)
    return image


def read_opening(frame: np.ndarray) -> float:
    return float(frame[112:120, 76:84].mean()) / 500


class PuppetPipeline:
    """Speaks what it hears: reads the lips of the clip that the sound comes from, with a lag and a gain."""

    def __init__(self, lag: int = 0, gain: float = 1.0):
        self.lag, self.gain = lag, gain
        self.vae = AutoencoderTempoSync(encoder_channels=(4, 4, 4, 4), decoder_channels=(4, 4, 4, 4)).eval()
        self.face_aligner = SimpleNamespace(track=lambda frames: np.stack([face(read_opening(frame)) for frame in frames]))

    def __call__(self, image, audio, num_inference_steps, generator, output_type):
        heard = np.roll([read_opening(frame) for frame in evaluate.read_video(audio)[0]], self.lag) * self.gain
        visemes = np.eye(15)[np.where(heard < 0.1, 0, 10)]
        frames = np.repeat(image[None].astype(np.float32) / 255, len(heard), 0)
        for frame, opening in zip(frames, heard, strict=True):
            cv2.circle(frame, (80, 116), 14, (500 * opening / 255,) * 3, -1)
        return SimpleNamespace(frames=frames, visemes=visemes, fps=25)


@pytest.fixture
def clips(tmp_path):
    """Two talkers whose lips move differently, on video."""
    openings = [0.15 + 0.12 * np.sin(np.arange(LENGTH) * speed) for speed in (0.9, 0.4)]
    made = []
    for name, shade, series in zip("ab", (90, 140), openings, strict=True):
        path = tmp_path / f"{name}.mp4"
        with VideoWriter(path) as writer:
            for opening in series:
                writer.write(picture(opening, shade))
        made.append(Clip(name, name, path, "val"))
    return made


def test_perfect_lips_score_perfectly_on_their_own_clip(clips):
    record, example = evaluate.Evaluator(PuppetPipeline(), 4).self_driven(clips[0])
    generated, still = record["rows"]["generated"], record["rows"]["still_portrait"]
    assert generated["lip_r"] > 0.99 and generated["best_lag"] == 0
    assert generated["amplitude_ratio"] == pytest.approx(1, abs=0.05)
    assert generated["lmd"] < 0.1 * still["lmd"] and still["lip_r"] == 0
    assert generated["psnr_mouth"] > still["psnr_mouth"]
    assert generated["flicker_outside_mouth"] == 0 < generated["temporal_l1_mouth"]
    assert generated["opening_sil"] < generated["opening_aa"]
    assert set(record["rows"]["autoencoder"]) >= {"lip_r", "psnr_mouth", "ssim_mouth", "sharpness_ratio"}
    assert example.real_crops.shape == example.generated_crops.shape == (LENGTH, 256, 256, 3)


def test_late_and_timid_lips_are_seen_as_such(clips):
    row = evaluate.Evaluator(PuppetPipeline(lag=2, gain=0.5), 4).self_driven(clips[0])[0]["rows"]["generated"]
    assert row["best_lag"] == 2 and row["lip_r_at_best_lag"] > 0.95 > row["lip_r"]
    assert row["amplitude_ratio"] == pytest.approx(0.5, abs=0.1)


def test_cross_protocol_tells_whose_lips_are_followed(clips):
    evaluator = evaluate.Evaluator(PuppetPipeline(), 4)
    pairs = evaluator.uncorrelated_pairs(clips)
    assert pairs == [(clips[1], clips[0]), (clips[0], clips[1])]
    rows = evaluator.cross_driven(*pairs[0])[0]["rows"]
    assert rows["generated_vs_voice_talker"]["lip_r"] > 0.99
    assert abs(rows["generated_vs_portrait_clip"]["lip_r"]) < 0.25
    assert abs(rows["real_vs_real"]["lip_r"]) < evaluate.MAX_REAL_R
    assert "lmd" not in rows["generated_vs_voice_talker"]


def test_whole_run_writes_report_table_and_pictures(clips, tmp_path, monkeypatch):
    pipe = PuppetPipeline()
    pipe.to = lambda device: pipe
    pipe.set_progress_bar_config = lambda **kwargs: None
    monkeypatch.setattr(evaluate.TempoSyncPipeline, "from_pretrained", lambda model: pipe)
    portraits = tmp_path / "portraits"
    portraits.mkdir()
    for name, opening in (("closed", 0.0), ("smiling", 0.2)):
        cv2.imwrite(str(portraits / f"{name}.png"), picture(opening, 100))
    (portraits / "broken.png").write_bytes(b"no picture")
    report = evaluate.run_evaluation(tmp_path, protocol="portraits", portraits=portraits, output=tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert report["summary"]["generated"]["lip_r"]["n"] == 2 and report["summary"]["generated"]["lip_r"]["mean"] > 0.99
    assert report["summary"]["smiling_portraits"]["lip_r"]["n"] == 1
    assert "broken.png" in report["failures"][0]["name"]
    table = (tmp_path / "out.md").read_text()
    assert "| lip r |" in table and "broken.png" in table
    assert cv2.imread(str(tmp_path / "out_lips.png")) is not None and cv2.imread(str(tmp_path / "out_sheet.png")) is not None


def test_clips_are_taken_from_each_talker_in_turn(tmp_path):
    clips = [Clip(str(i), talker, tmp_path, "val") for i, talker in enumerate("aaab")]
    assert [clip.talker for clip in evaluate.spread_over_talkers(clips, 3)] == ["a", "b", "a"]


def test_unusable_arguments_are_named(clips, tmp_path):
    with pytest.raises(InvalidInputError, match="needs a folder"):
        evaluate.run_evaluation(tmp_path, protocol="portraits")
    with pytest.raises(InvalidInputError, match="not a protocol"):
        evaluate.run_evaluation(tmp_path, protocol="other")
    with pytest.raises(InvalidInputError, match="no face"):
        evaluate.fill_gaps(np.full((3, NUM_LANDMARKS, 2), np.nan))


def test_gaps_take_the_nearest_face():
    complete = np.stack([face(0.1), face(0.2), face(0.3), face(0.4)])
    landmarks = complete.copy()
    landmarks[[0, 2]] = np.nan
    filled, missing = evaluate.fill_gaps(landmarks)
    assert missing == 2
    np.testing.assert_array_equal(filled, complete[[1, 1, 1, 3]])


def test_figures_of_single_aspects():
    still = np.repeat(face(0.1)[None], 20, 0)
    assert lip_figures(still, still)["motion_amplitude"] == pytest.approx(0, abs=1e-5)
    visemes = np.eye(15)[[0] * 10 + [1] * 10]
    figures = closure_figures(still, visemes)
    assert figures["opening_sil"] == pytest.approx(figures["opening_PP"]) and "opening_aa" not in figures
    crops = torch.randint(0, 256, (2, 256, 256, 3), dtype=torch.uint8).numpy()
    assert sharpness_ratio(crops, crops) == pytest.approx(1)
    frames = np.zeros((4, 256, 256, 3), np.uint8)
    frames[::2, 190:200, 120:130] = 50
    figures = steadiness_figures(frames, np.float32([[1, 0, 0], [0, 1, 0]]))
    assert figures["flicker_outside_mouth"] == 0 < figures["flicker_std_of_differences_mouth"]
