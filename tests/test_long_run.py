"""Minutes of speech: the figures are those of the whole video, a face that drifts is seen to, and the command takes every model."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from tqdm import tqdm

from temposync_pipeline import cli
from temposync_pipeline.data.clips import load_sound
from temposync_pipeline.data.manifest import Clip
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.face.crop import mouth_mask
from temposync_pipeline.media.video import VideoWriter
from temposync_pipeline.metrics.crop_video import VideoMaker
from temposync_pipeline.metrics.long_run import Stopwatch, measure, run_long
from temposync_pipeline.metrics.long_speech import by_talker, join_clips
from temposync_pipeline.metrics.temporal import RunningSteadiness, flicker_std, temporal_l1
from temposync_pipeline.models.face_aligner import FaceAligner

from .test_evaluate import SIZE, PuppetPipeline, face, picture, track
from .tiny_components import picture as smooth_picture
from .tiny_components import spoken, template_face, tiny_asymtalker_pipeline, tiny_pipeline, tiny_read_pipeline

SPEECH = 0.15 + 0.12 * np.sin(np.arange(100) * 0.9)


def puppet() -> VideoMaker:
    pipeline = PuppetPipeline()
    pipeline.face_aligner.follow = lambda frames: (SimpleNamespace(landmarks=track([frame])[0]) for frame in frames)
    return VideoMaker(pipeline)


def figures_of(frames: list[np.ndarray], real: np.ndarray, minute: int) -> list[dict]:
    maker, clock = puppet(), Stopwatch()
    return list(measure(maker, maker.portrait(picture(0.0, 90)), clock.timed(iter(frames)), real, clock, tqdm(disable=True), minute))


def test_steadiness_of_frames_that_come_one_at_a_time_is_that_of_the_whole_video():
    frames, mask = np.random.default_rng(0).integers(0, 256, (9, 16, 20, 3)).astype(np.uint8), mouth_mask()[::16, ::13][:, :20]
    running = RunningSteadiness(mask)
    assert running.take() == {}
    for frame in frames[:5]:
        running.add(frame)
    assert running.take() == pytest.approx({"temporal_l1": temporal_l1(frames[:5], mask), "flicker_std": flicker_std(frames[:5], mask)})
    for frame in frames[5:]:
        running.add(frame)
    # What came before is forgotten but for the last frame.
    assert running.take()["temporal_l1"] == pytest.approx(temporal_l1(frames[4:], mask))


def test_a_face_that_stays_as_it_was_has_the_same_figures_in_every_minute():
    first, second = figures_of([picture(opening, 90) for opening in np.tile(SPEECH[:50], 2)], np.tile(SPEECH[:50], 2), minute=50)
    assert first["lip_r"] > 0.99 and first["amplitude_ratio"] == pytest.approx(1, abs=0.05) and first["frames_without_face"] == 0
    for name in ("lip_r", "sharpness", "colour", "proxy_csim", "flicker_std"):
        assert second[name] == pytest.approx(first[name], rel=0.02, abs=0.02)
    assert first["memory_mb"] > 50 and first["frame_ms"] >= 0


def test_a_face_that_drifts_is_seen_to():
    frames = [picture(opening, 90) for opening in SPEECH]
    frames[50:] = [np.clip(cv2.GaussianBlur(frame, (0, 0), 4) + np.float32([12, 0, 0]), 0, 255).astype(np.uint8) for frame in frames[50:]]
    real = SPEECH.copy()
    real[50:] = np.random.default_rng(0).permutation(real[50:])  # the lips of the second minute follow nothing
    real[3] = np.nan
    first, second = figures_of(frames, real, minute=50)
    assert second["sharpness"] < 0.5 * first["sharpness"] and second["colour"] > first["colour"] + 3
    assert first["lip_r"] > 0.99 and second["lip_r"] < 0.5


def test_what_is_left_at_the_end_counts_to_the_last_minute():
    assert len(figures_of([picture(opening, 90) for opening in SPEECH[:60]], SPEECH[:60], minute=50)) == 1


def write_talker(path, openings: np.ndarray, seconds: float) -> Clip:
    with VideoWriter(path, audio_path=spoken(seconds)) as writer:
        for opening in openings:
            writer.write(picture(opening, 90))
    return Clip(path.stem, "anna", path, "val")


def test_clips_are_joined_with_their_lips_until_there_is_enough(tmp_path):
    clips = [write_talker(tmp_path / "a.mp4", SPEECH[:20], 0.8), write_talker(tmp_path / "b.mp4", SPEECH[:15] + 0.1, 0.6)]
    voice = join_clips(clips, 80, track)
    assert voice.clips == ("a", "b") and voice.own_frames == 35 and len(voice.opening) == 80 and len(voice.samples) == 80 * 640
    np.testing.assert_array_equal(voice.opening[:10], voice.opening[70:])
    np.testing.assert_array_equal(voice.samples[:20 * 640], load_sound(clips[0])[:20 * 640])
    np.testing.assert_array_equal(voice.samples[20 * 640:35 * 640], load_sound(clips[1])[:15 * 640])
    assert np.corrcoef(voice.opening[:20], SPEECH[:20])[0, 1] > 0.99
    short = join_clips(clips, 12, track)
    assert short.clips == ("a",) and short.own_frames == 12
    np.testing.assert_array_equal(short.samples, voice.samples[:12 * 640])


def test_sound_that_is_late_is_moved_to_its_lips(tmp_path):
    clip = write_talker(tmp_path / "a.mp4", SPEECH[:20], 0.8)
    # 80 ms late: the lips of the last two frames are not heard.
    voice = join_clips([Clip("a", "anna", clip.video, "val", offset=0.08)], 18, track)
    assert voice.own_frames == 18
    np.testing.assert_array_equal(voice.samples, load_sound(clip)[2 * 640:20 * 640])
    with pytest.raises(InvalidInputError, match="anna: no face"):
        join_clips([clip], 18, lambda frames: np.stack([face(0.1, SIZE) * np.nan for _ in frames]))


def test_the_talker_with_the_most_clips_comes_first(tmp_path):
    clips = [Clip(str(index), talker, tmp_path, "val") for index, talker in enumerate("abb")]
    assert [[clip.id for clip in own] for own in by_talker(clips)] == [["1", "2"], ["0"]]


@pytest.fixture
def talkers(tmp_path, monkeypatch):
    monkeypatch.setattr(FaceAligner, "detect", lambda self, image, max_faces=None: template_face(image))
    folder = tmp_path / "clips" / "anna"
    folder.mkdir(parents=True)
    with VideoWriter(folder / "clip.mp4", audio_path=spoken(0.8)) as writer:
        for _ in range(20):
            writer.write(smooth_picture(128, 128))
    return folder.parent


@pytest.mark.makes_videos
def test_the_command_measures_one_model_beside_others(talkers, tmp_path, capsys):
    models = {"moves_mouths": tiny_pipeline(), "moves_faces": tiny_read_pipeline(), "speaks_in_chunks": tiny_asymtalker_pipeline()}
    for name, pipeline in models.items():
        pipeline.save_pretrained(tmp_path / name)
    options = [part for name in models for part in ("--model", str(tmp_path / name))]
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", "--protocol", "long", "--manifest", str(talkers), "--json", str(tmp_path / "out.json"), "--minutes", "0.02",
                  "--steps", "1", "--device", "cpu", *options])
    assert not end.value.code and "speaks_in_chunks, 1 steps" in capsys.readouterr().out
    report = json.loads((tmp_path / "out.json").read_text())
    assert list(report["models"]) == list(models) and report["failures"] == []
    for measured in report["models"].values():
        minute, = measured["minutes"]
        assert {"proxy_csim", "sharpness", "colour", "temporal_l1", "flicker_std", "memory_mb", "frame_ms"} <= set(minute)
        assert measured["drift"]["sharpness"] == 1 and measured["drift"]["colour"] == 0
        record, = measured["records"]
        assert (record["talker"], record["clips"], record["own_seconds"]) == ("anna", ["anna_clip"], 0.8)
        assert measured["first_frame_ms"] > minute["frame_ms"] > 0
    table = (tmp_path / "out.md").read_text()
    assert "## moves_faces, 1 steps" in table and "| minute 1 |" in table
    assert cv2.imread(str(tmp_path / "out_minutes.png")) is not None


@pytest.mark.makes_videos
def test_photographs_speak_with_the_talkers_voices(talkers, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, photo in {"anna": smooth_picture(120, 100), "nobody": np.full((100, 100, 3), 80, np.uint8)}.items():
        cv2.imwrite(str(photos / f"{name}.png"), photo)
    tiny_pipeline().save_pretrained(tmp_path / "model")
    report = run_long(talkers, [str(tmp_path / "model")], minutes=0.02, steps=1, limit=2, portraits=photos)
    assert [record["name"] for record in report["models"]["model"]["records"]] == ["anna.png"]
    assert report["failures"] == [{"name": "model: nobody.png", "error": "no face found in the portrait"}]
    with pytest.raises(InvalidInputError, match="takes no guidance"):
        run_long(talkers, [str(tmp_path / "model")], minutes=0.02, guidances=[(2, 6)])


@pytest.mark.parametrize(("options", "message"), [
    (("--protocol", "long", "--rows", "student"), "--rows: not with --protocol long"),
    (("--protocol", "long", "--processes", "2"), "--processes: not with --protocol long"),
    (("--protocol", "long", "--steps", "1,2"), "--steps with several numbers: not with --protocol long"),
    (("--protocol", "long", "--minutes", "16"), "--minutes 16: a recording may have 0.01 to 15"),
    (("--protocol", "long", "--minutes", "inf"), "--minutes inf: a recording may have 0.01 to 15"),
    (("--protocol", "long", "--minutes", "nan"), "--minutes: 'nan' is not a number"),
    (("--minutes", "1"), "--minutes: only with --protocol long"),
    (("--model", "temposync-tiny", "--model", "temposync-tiny"), "several models: only with --protocol long"),
])
def test_the_command_names_unusable_options(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", "--manifest", str(tmp_path), "--json", str(tmp_path / "out.json"), *options])
    printed = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(printed) == 1 and message in printed[0]


