"""Sound that is late: found by what the lips do, written down, and moved."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temposync_pipeline import cli
from temposync_pipeline.data.clips import frames_with_sound, load_sound
from temposync_pipeline.data.manifest import Clip, read_manifest, write_manifest
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.face.landmarks import GROUPS, LEFT_IRIS, NUM_LANDMARKS, RIGHT_IRIS
from temposync_pipeline.media.video import VideoWriter
from temposync_pipeline.metrics.closures import clip_words, closures_by_talker, closures_of, shut_share
from temposync_pipeline.metrics.linear_baseline import LinearBaseline, classifier_hash, fit
from temposync_pipeline.metrics.offset import OffsetEstimator, correct_clips, describe_offset, estimate_offset
from temposync_pipeline.metrics.voice import Listener, Voice
from temposync_pipeline.models.viseme_classifier import Hearing
from temposync_pipeline.training.clip_latents import ClipEncoder
from temposync_pipeline.training.lip_corpus import talker_motion
from tests.test_viseme_labels import phone
from tests.tiny_components import tiny_pipeline, tiny_viseme_classifier


def speech(frames: int, seed: int = 0) -> np.ndarray:
    """An opening of the lips that comes and goes a few times a second, 0 to 0.3."""
    noise = np.random.default_rng(seed).normal(size=frames + 20)
    smooth = np.convolve(noise, np.hanning(7) / 2, "same")[10:-10]
    return 0.15 + 0.06 * np.clip(smooth, -2, 2)


@pytest.mark.parametrize("late", [-8.0, 0.0, 1.5, 7.25])
def test_a_shift_is_found_to_a_fraction_of_a_frame(late):
    fine = speech(1200)
    times = np.arange(100) * 10 + 100
    # What the sound lets expect is also fainter, and not quite right.
    expected = 0.7 * np.interp(times - 10 * late, np.arange(1200), _smooth(fine))
    opening = np.interp(times, np.arange(1200), _smooth(fine)) + 0.01 * np.random.default_rng(1).normal(size=100)
    assert estimate_offset(expected, opening) == pytest.approx(late, abs=0.3)


def _smooth(values: np.ndarray) -> np.ndarray:
    return np.convolve(values, np.hanning(60) / 30, "same")


def test_what_cannot_be_told_is_unknown():
    opening = speech(100)
    assert estimate_offset(speech(100, seed=9), opening) is None, "another sentence"
    assert estimate_offset(opening, np.full(100, 0.1)) is None, "lips that do not move"
    assert estimate_offset(np.roll(opening, 40), opening) is None, "beyond the range"
    assert estimate_offset(opening[:45], opening[:45]) is None, "too short"
    assert estimate_offset(np.roll(opening, 14), opening) == pytest.approx(14, abs=0.3)
    assert estimate_offset(np.roll(opening[:60], 14), opening[:60]) is None, "more than a fifth of the clip"
    faceless = np.where(np.arange(100) < 30, np.nan, opening)
    assert estimate_offset(np.r_[opening[:2], opening[:-2]], faceless) == pytest.approx(2, abs=0.2)


def face(opening: np.ndarray) -> np.ndarray:
    """Landmarks [T, 131, 2] of lips that open by `opening` [T] interocular distances of 100 px."""
    landmarks = np.zeros((len(opening), NUM_LANDMARKS, 2))
    landmarks[:, LEFT_IRIS, 0] = 100
    landmarks[:, RIGHT_IRIS, 0] = 0
    inner = landmarks[:, GROUPS["inner_lips"]]
    inner[:, :10, 1] = 150 + 100 * opening[:, None]
    inner[:, 10:, 1] = 150
    landmarks[:, GROUPS["inner_lips"]] = inner
    return landmarks


class LoudnessListener:
    """Hears the lips' opening as the loudness of each frame."""

    def hear(self, samples, num_frames, fps):
        loud = np.zeros(num_frames, np.float32)
        frames = np.abs(samples[:len(samples) // 640 * 640]).reshape(-1, 640).mean(1)[:num_frames]
        loud[:len(frames)] = frames
        return Hearing(np.eye(15, dtype=np.float32)[np.zeros(num_frames, int)], np.repeat(loud[:, None], 8, 1), loud)


LOUDNESS = OffsetEstimator(LoudnessListener(), lambda hearing: hearing.loudness)


def record(path: Path, opening: np.ndarray, late_frames: int) -> Clip:
    """A clip whose sound is as loud as the lips are open, so many frames late, with its landmarks."""
    samples = np.concatenate([np.zeros(640 * late_frames), np.repeat(opening, 640) * np.resize([1, -1], 640 * len(opening))])
    with VideoWriter(path, audio_path=(samples[:640 * len(opening)].astype(np.float32), 16_000)) as writer:
        for _ in opening:
            writer.write(np.full((48, 64, 3), 90, np.uint8))
    np.savez(path.with_suffix(".npz"), landmarks=face(opening))
    return Clip(path.stem, "anna", path, "train", landmarks=path.with_suffix(".npz"))


@pytest.mark.parametrize(("late", "expected"), [(0, 0.0), (6, 0.24)])
def test_a_clip_gets_its_offset_and_its_sound_is_moved_by_it(tmp_path, late, expected):
    opening = speech(90)
    clip = record(tmp_path / "clip.mp4", opening, late)
    corrected = LOUDNESS.correct(clip, face(opening))
    assert corrected.offset == pytest.approx(expected, abs=0.015)
    assert LOUDNESS.correct(replace(clip, offset=0.5), face(opening)).offset == 0.5, "what is known is not estimated"
    moved = load_sound(corrected)
    heard = np.abs(moved[:640 * 80]).reshape(-1, 640).mean(1)
    assert np.corrcoef(heard, opening[:80])[0, 1] > 0.9
    assert len(load_sound(clip)) - len(moved) == round(corrected.offset * 16_000)


def test_frames_whose_sound_is_gone_are_left_out(tmp_path):
    opening = speech(50)
    clip = record(tmp_path / "clip.mp4", opening, 0)
    length = len(load_sound(clip))
    assert frames_with_sound(clip, 50, length - 5000) == slice(0, 50), "sound that was not moved is silence at its end"
    late, early = replace(clip, offset=0.4), replace(clip, offset=-0.4)
    # The encoder fills up its last packet.
    assert frames_with_sound(late, 50, len(load_sound(late))) == slice(0, (length - 6400) // 640)
    assert frames_with_sound(early, 50, len(load_sound(early))) == slice(10, 50)
    samples, motion = talker_motion(early, np.arange(50)[:, None])
    assert motion[0] == 10 and len(samples) == pytest.approx(length, abs=1), "lips and sound begin at the same moment"
    with pytest.raises(InvalidInputError, match="an offset of 9 s"):
        load_sound(replace(clip, offset=9))


def test_a_manifest_keeps_offsets(tmp_path):
    clips = [Clip(name, "a", tmp_path / "a.mp4", "val", offset=offset) for name, offset in (("a", 0.28), ("b", 0.0), ("c", None))]
    write_manifest(clips, tmp_path / "clips.jsonl")
    assert [json.loads(line).get("offset") for line in (tmp_path / "clips.jsonl").read_text().splitlines()] == [0.28, 0.0, None]
    assert read_manifest(tmp_path / "clips.jsonl") == clips
    for wrong in ('"late"', "true", "NaN", "99"):
        (tmp_path / "bad.jsonl").write_text(f'{{"id": "a", "talker": "b", "video": "c.mp4", "split": "val", "offset": {wrong}}}\n')
        with pytest.raises(InvalidInputError, match="bad.jsonl, line 1: a: the offset is"):
            read_manifest(tmp_path / "bad.jsonl")


def test_offsets_in_words():
    assert "0.28 s late" in describe_offset(0.28) and "0.28 s early" in describe_offset(-0.28)
    assert "cannot be told" in describe_offset(None) and "agree" in describe_offset(0.0)


def test_the_manifest_command_says_where_the_checkpoint_cannot_tell(tmp_path, capsys):
    record(tmp_path / "clip.mp4", speech(12), 0)
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    with pytest.raises(SystemExit) as ended:
        cli.main(["manifest", "--data", str(tmp_path), "--output", str(tmp_path / "clips.jsonl"), "--offsets", "--model",
                  str(tmp_path / "tiny")])
    assert ended.value.code == 2 and "by which offsets are estimated" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["manifest", "--data", str(tmp_path), "--output", str(tmp_path / "clips.jsonl"), "--offsets"])
    assert ended.value.code == 0 and "clip: whether the sound is late cannot be told" in capsys.readouterr().out
    assert read_manifest(tmp_path / "clips.jsonl")[0].offset is None


def test_a_checkpoint_without_expectations_leaves_clips_alone(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    clip, lines = record(tmp_path / "clip.mp4", speech(60), 6), []
    assert correct_clips([clip], str(tmp_path / "tiny"), lines.append) == [clip] and lines == []
    assert correct_clips([replace(clip, offset=0.1)], str(tmp_path / "tiny"), lines.append)[0].offset == 0.1
    assert lines == ["clip: the sound is 0.10 s late; corrected"]
    assert ClipEncoder(str(tmp_path / "tiny")).correct_offset(clip) == clip


# --- linear baseline -------------------------------------------------------------------------------------------------


def test_a_linear_map_is_found_again():
    generator = np.random.default_rng(0)
    heard = [generator.normal(size=(80, 3)).astype(np.float32) for _ in range(12)]
    # The talkers' own means are nothing that could be heard.
    openings = [0.05 * np.roll(x[:, 1], 2) - 0.02 * x[:, 0] + mean for x, mean in zip(heard, np.linspace(0.1, 0.3, 12))]
    baseline = fit(heard, openings, "hidden", 3, "abc", ridge=1e-4)
    weight = baseline.weigh.weight.detach().numpy()[0]
    expected = np.zeros((3, 7))
    expected[1, 1], expected[0, 3] = 0.05, -0.02
    # np.roll brings the end of a recording to its beginning, which no window sees.
    np.testing.assert_allclose(weight, expected, atol=4e-3)
    predicted = baseline.predict(Hearing(np.zeros((80, 15), np.float32), heard[0], np.zeros(80, np.float32)))
    assert predicted.shape == (80,) and predicted.mean() == pytest.approx(0.2, abs=0.02)


def test_a_map_of_hidden_states_belongs_to_one_classifier(tmp_path):
    classifier = tiny_viseme_classifier()
    own = LinearBaseline("hidden", 32, 4, classifier_hash(classifier))
    own.save_pretrained(tmp_path)
    assert LinearBaseline.from_pretrained(tmp_path).fits(classifier)
    classifier.head.weight.data[0, 0] += 1
    assert not own.fits(classifier) and LinearBaseline("visemes").fits(classifier)
    assert OffsetEstimator.of_networks(classifier, None, own) is None


def test_the_evaluation_moves_the_sound_and_prints_the_baselines(tmp_path):
    opening = speech(90)
    clip = record(tmp_path / "clip.mp4", opening, 5)
    loud = fit([np.repeat(opening[:, None], 8, 1).astype(np.float32)], [opening], "hidden", 2)
    listener = Listener(LoudnessListener(), {"hidden": loud}, LOUDNESS)
    voice = listener.read(clip, face(opening))
    assert voice.offset == pytest.approx(0.2, abs=0.015) and voice.closures == [] and voice.source[1] == 16_000
    row = listener.baseline_rows(voice, face(opening))["linear_baseline_hidden"]
    assert row["lip_r"] > 0.9 and row["best_lag"] == 0
    late = listener.baseline_rows(Voice(load_sound(clip)), face(opening))["linear_baseline_hidden"]
    assert late["best_lag"] == 5 and late["lip_r"] < 0.7


# --- closures --------------------------------------------------------------------------------------------------------


def test_closures_are_counted_where_the_lips_are_shut():
    spans = closures_of([phone(0.2, 0.3, "P"), phone(0.3, 0.5, "AA"), phone(0.5, 0.6, "M"), phone(0.6, 0.7, "B"), phone(1.0, 1.1, "T")])
    assert spans == [(0.2, 0.3), (0.5, 0.7)]
    opening = np.full(25, 0.1)
    assert shut_share(opening, spans) == {"closures": 2, "closures_shut": 0.0}
    opening[6] = 0.01
    assert shut_share(opening, spans) == {"closures": 2, "closures_shut": 0.5}
    assert shut_share(opening[:10], spans) == {"closures": 1, "closures_shut": 1.0}, "what the video does not show does not count"
    assert shut_share(opening, []) == {}


def test_closures_add_up_by_talker():
    rows = [{"student_4": {"closures": 3, "closures_shut": 2 / 3}, "still": {"lip_r": 0.0}},
            {"student_4": {"closures": 1, "closures_shut": 1.0}}]
    records = [{"talker": talker, "rows": row} for talker, row in zip(("ann", "ben"), rows)]
    assert closures_by_talker(records) == {"student_4": {
        "all": {"closures": 4, "shut": 3}, "ann": {"closures": 3, "shut": 2}, "ben": {"closures": 1, "shut": 1}}}


def test_words_come_from_what_stands_beside_a_clip(tmp_path):
    (tmp_path / "a.align").write_text("0 14750 sil\n14750 19250 bin\n19250 25000 blue\n25000 26000 sp\n")
    (tmp_path / "b.txt").write_text("Text:  HELLO THERE\nConf: 4\n")
    (tmp_path / "c.txt").write_text("Hello there.\nAnd more.\n")
    clip = Clip("a", "a", tmp_path / "a.mp4", "val")
    assert clip_words(clip) is None
    assert clip_words(replace(clip, alignment=tmp_path / "a.align")) == "bin blue"
    assert clip_words(replace(clip, transcript=tmp_path / "b.txt")) == "HELLO THERE"
    assert clip_words(replace(clip, transcript=tmp_path / "c.txt")) == "Hello there.\nAnd more."
