import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from temposync_pipeline import cli
from temposync_pipeline.data.clips import load_clip, load_landmarks
from temposync_pipeline.data.manifest import (
    Clip,
    build_manifest,
    hold_out_clips,
    portrait_split,
    read_manifest,
    split_by_talker,
    usable_clips,
    write_manifest,
)
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.face.crop import TEMPLATE
from temposync_pipeline.face.landmarks import MESH_INDICES, RIGID
from temposync_pipeline.media.video import VideoWriter


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in ("train/s1/one.mpg", "train/s1/one.align", "train/s1/note.txt", "train/s2/two.MP4", "val/s3/three.mpg"):
        name = f"grid/{name}"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_tree_of_talkers_becomes_clips(tree):
    (tree / "labels").mkdir()
    np.savez(tree / "labels/train_s2_two.npz", landmarks=np.zeros((1, 131, 2)))
    clips = build_manifest(tree / "grid", landmarks=tree / "labels")
    assert [(clip.id, clip.talker, clip.split) for clip in clips] == [
        ("train_s1_one", "s1", "train"), ("train_s2_two", "s2", "train"), ("val_s3_three", "s3", "val")]
    assert [clip.alignment is not None for clip in clips] == [True, False, False]
    assert [clip.landmarks is not None for clip in clips] == [False, True, False]
    assert clips[0].video.exists() and clips[0].alignment.exists()


@pytest.mark.parametrize(("name", "split"), [("val", "val"), ("validation", "val"), ("test", "train"), ("clips", "train")])
def test_the_tree_itself_may_be_for_validation(tree, monkeypatch, name, split):
    (tree / "grid" / "train").rename(tree / name)
    assert [clip.split for clip in build_manifest(tree / name)] == [split] * 2
    monkeypatch.chdir(tree / name)
    assert [clip.split for clip in build_manifest(".")] == [split] * 2


def test_no_clip_is_an_error(tmp_path):
    with pytest.raises(InvalidInputError, match="no clip"):
        build_manifest(tmp_path)


def test_a_manifest_survives_writing_and_moving(tree, monkeypatch):
    clips = build_manifest(tree / "grid")
    write_manifest(clips, tree / "clips.jsonl")
    assert json.loads((tree / "clips.jsonl").read_text().splitlines()[0]) == {
        "id": "train_s1_one", "talker": "s1", "video": "grid/train/s1/one.mpg", "split": "train", "alignment": "grid/train/s1/one.align"}
    assert read_manifest(tree / "clips.jsonl") == clips
    monkeypatch.chdir(tree.parent)
    moved = tree.rename(tree.parent / "elsewhere")
    assert all(clip.video.exists() for clip in read_manifest(Path("elsewhere/clips.jsonl")))
    assert [clip.id for clip in read_manifest(moved / "grid")] == [clip.id for clip in clips]


@pytest.mark.parametrize("line", [
    "{", "[]", "7", '{"id": "a", "talker": "b", "split": "train"}', '{"id": "a", "talker": "b", "video": 3, "split": "train"}',
    '{"id": "a", "talker": "b", "video": "c", "split": "test"}',
    '{"id": "../a", "talker": "b", "video": "c", "split": "train"}',
])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "clips.jsonl").write_text('{"id": "a", "talker": "b", "video": "c.mp4", "split": "val"}\n' + line + "\n")
    with pytest.raises(InvalidInputError, match="clips.jsonl, line 2"):
        read_manifest(tmp_path / "clips.jsonl")


@pytest.mark.parametrize(("content", "message"), [(" " * 1001, "1001 bytes, above the limit of 1000"),
                                                  ("\n" * 13, "13 lines, above the limit of 12")])
def test_a_manifest_has_an_end(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr("temposync_pipeline.text_files.MAX_TABLE_BYTES", 1000)
    monkeypatch.setattr("temposync_pipeline.text_files.MAX_TABLE_LINES", 12)
    (tmp_path / "clips.jsonl").write_text(content)
    with pytest.raises(InvalidInputError, match=f"^clips.jsonl: {message}$"):
        read_manifest(tmp_path / "clips.jsonl")


def test_files_that_are_no_manifest(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "video.mp4").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InvalidInputError, match="empty"):
        read_manifest(tmp_path / "empty.jsonl")
    with pytest.raises(InvalidInputError, match="neither a manifest"):
        read_manifest(tmp_path / "video.mp4")
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "nothing.jsonl")


def record(path: Path, audio: Path | None = None, frames: int = 10) -> Path:
    """A small grey video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, audio_path=audio) as writer:
        for _ in range(frames):
            writer.write(np.full((48, 64, 3), 90, np.uint8))
    return path


def test_the_manifest_command_lists_what_can_be_used(tmp_path, make_audio, capsys):
    """An LRS3-style tree with a damaged, an empty and a silent clip among the good ones."""
    sound, data = make_audio("speech.wav", seconds=0.4), tmp_path / "data"
    for name in ("ann/00001.mp4", "ann/00002.mp4", "ben/00001.mp4"):
        record(data / name, sound).with_suffix(".txt").write_text("Text: HELLO\n")
    record(data / "ben/silent.mp4")
    (data / "ben/broken.mp4").write_bytes(b"no video at all" * 20)
    (data / "ben/empty.mp4").touch()
    with pytest.raises(SystemExit) as ended:
        cli.main(["manifest", "--data", str(data), "--output", str(tmp_path / "clips.jsonl"), "--json", str(tmp_path / "counts.json")])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in err.splitlines()] == ["skipped ben_broken", "skipped ben_empty", "skipped ben_silent"]
    clips = read_manifest(tmp_path / "clips.jsonl")
    assert [clip.id for clip in clips] == ["ann_00001", "ann_00002", "ben_00001"]
    assert all(clip.transcript.read_text() == "Text: HELLO\n" and clip.video.exists() for clip in clips)
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["skipped"] == 3 and counts["train"]["talkers"] == counts["val"]["talkers"] == 1
    assert f"train: {counts['train']['clips']} clips of 1 talkers" in out


def test_a_folder_without_a_usable_clip_is_one_line(tmp_path, capsys):
    (tmp_path / "note.txt").touch()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/clip.mp4").write_bytes(b"nothing")
    for folder, message in ((tmp_path / "bad", "none of its 1 clips can be used"), (tmp_path / "note.txt", "not a folder")):
        with pytest.raises(SystemExit):
            cli.main(["manifest", "--data", str(folder), "--output", str(tmp_path / "clips.jsonl")])
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "clips.jsonl").exists()


def test_talkers_are_split_for_good():
    clips = [Clip(f"{talker}_{i}", f"talker {talker}", Path("x.mp4"), "train") for talker in range(40) for i in range(2)]
    split = {clip.talker: clip.split for clip in split_by_talker(clips, 0.2)}
    assert 2 <= list(split.values()).count("val") <= 16
    # Fewer or more talkers beside them change nothing for those held out by their own name.
    fewer = {clip.talker: clip.split for clip in split_by_talker(clips[:60], 0.2)}
    assert all(split[talker] == side for talker, side in fewer.items())
    assert {clip.split for clip in split_by_talker(clips[:2])} == {"train"}
    assert sorted({clip.split for clip in split_by_talker(clips[:4], 0.0)}) == ["train", "val"]
    assert sorted({clip.split for clip in split_by_talker(clips[:4], 1.0)}) == ["train", "val"]
    marked = [Clip("a", "a", Path("a.mp4"), "val"), *clips]
    assert split_by_talker(marked) == hold_out_clips(marked) == marked


def test_some_clips_of_each_talker_are_held_out():
    clips = [Clip(f"{talker}{i}", talker, Path("x.mp4"), "train") for talker, count in (("a", 10), ("b", 4)) for i in range(count)]
    assert [clip.id for clip in hold_out_clips(clips) if clip.split == "val"] == ["a9"]


def test_usable_clips_name_the_others(tmp_path):
    lines = []
    assert usable_clips([Clip("gone", "a", tmp_path / "gone.mp4", "train")], lines.append) == []
    assert len(lines) == 1 and lines[0].startswith("skipped gone: ")


def test_an_id_cannot_lead_out_of_a_folder():
    with pytest.raises(InvalidInputError, match="not an id"):
        Clip("../a", "a", Path("a.mp4"), "train")


def test_portraits_are_split_by_name():
    assert portrait_split("someone/A000055.jpg") == portrait_split("A000055")
    held_out = sum(portrait_split(f"person {i}") == "val" for i in range(1600))
    assert 70 < held_out < 130


def face_in_picture(scale: float, x: float, y: float) -> np.ndarray:
    """Mesh landmarks [478, 3] of a face whose aligned crop is the picture scaled by 1 / `scale`."""
    mesh = np.zeros((478, 3), np.float32)
    mesh[MESH_INDICES, :2] = np.random.default_rng(0).uniform(40, 200, (131, 2)) * scale + [x, y]
    mesh[MESH_INDICES[RIGID], :2] = TEMPLATE * scale + [x, y]
    return mesh


@pytest.fixture
def clip(tmp_path) -> Clip:
    """A white dot travels with a drifting face, always at crop position (128, 128)."""
    meshes = np.stack([face_in_picture(0.5, 10 + t, 5) for t in range(12)])
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for mesh in meshes:
            frame = np.full((160, 160, 3), 60, np.uint8)
            x, y = mesh[MESH_INDICES[RIGID], :2].mean(0) + 0.5 * (128 - TEMPLATE.mean(0))
            frame[round(y) - 2:round(y) + 3, round(x) - 2:round(x) + 3] = 255
            writer.write(frame)
    np.savez(tmp_path / "clip.npz", landmarks=meshes)
    return Clip("clip", "someone", tmp_path / "clip.mp4", "val", landmarks=tmp_path / "clip.npz")


def test_a_clip_is_cropped_around_its_landmarks(clip):
    loaded = load_clip(clip)
    assert loaded.crops.shape == (12, 256, 256, 3) and loaded.crops.dtype == np.uint8
    assert loaded.landmarks.shape == (12, 131, 2) and loaded.matrices.shape == (12, 2, 3)
    # Away from the ends smoothing leaves a steady drift as it is.
    np.testing.assert_allclose(loaded.landmarks[5:8, RIGID], np.broadcast_to(TEMPLATE, (3, 8, 2)), atol=0.1)
    assert loaded.crops[6, 126:131, 126:131].mean() > 200 and loaded.crops[6, 100:105, 100:105].mean() < 80


class Tracker:
    """Stands where the face aligner stands: it is handed the frames and returns landmarks."""

    def __init__(self, landmarks: np.ndarray):
        self.landmarks = landmarks

    def track(self, frames: np.ndarray) -> np.ndarray:
        return self.landmarks[:len(frames)]


def test_landmarks_come_from_the_caller_the_file_or_the_aligner(clip):
    points = load_landmarks(clip.landmarks)
    expected = load_clip(clip).landmarks
    unlabelled = Clip("clip", "someone", clip.video, "val")
    np.testing.assert_array_equal(load_clip(unlabelled, landmarks=points).landmarks, expected)
    np.testing.assert_array_equal(load_clip(unlabelled, aligner=Tracker(points)).landmarks, expected)
    with pytest.raises(InvalidInputError, match="no landmarks"):
        load_clip(unlabelled)
    with pytest.raises(InvalidInputError, match="11 frames of landmarks for 12"):
        load_clip(unlabelled, landmarks=points[:11])
    with pytest.raises(InvalidInputError, match="without a face"):
        load_clip(unlabelled, landmarks=np.full_like(points, np.nan))


def test_landmark_files_of_another_layout_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", landmarks=np.zeros((4, 68, 2)))
    np.savez(tmp_path / "b.npz", points=np.zeros((4, 131, 2)))
    with pytest.raises(InvalidInputError, match="68"):
        load_landmarks(tmp_path / "a.npz")
    with pytest.raises(InvalidInputError, match="no array"):
        load_landmarks(tmp_path / "b.npz")


LINE = {"id": "a", "talker": "t", "video": "a.mp4", "split": "train"}


@pytest.mark.parametrize(("lines", "message"), [
    (["[" * 100_000], "line 1: not a clip with"), ([json.dumps(LINE | {"video": "a\0.mp4"})], "line 1: no file's name has a NUL in it"),
    ([json.dumps(LINE), "", json.dumps(LINE)], "line 3: the id of line 1 again"),
    *(([json.dumps(LINE | {"id": name})], "line 1: .*: not an id that files") for name in (
        "", "..", "a\nb", "a\x1b[31m", "\ud800", "x" * 201, "x" * 5000)),
    ([json.dumps(LINE | {"split": "x" * 5000})], "line 1: a: the split is .*, not one of train, val"),
    ([json.dumps(LINE | {"split": ["x" * 5000]})], "line 1: a: the split is .*, not one of train, val"),
    ([json.dumps(LINE | {"offset": "9" * 5000})], "line 1: a: the offset is .*, not a number of seconds in ±10"),
    ([json.dumps(LINE | {"offset": 10**4000})], "line 1: a: the offset is .*, not a number of seconds in ±10"),
])
def test_hostile_lines_are_named(tmp_path, lines, message):
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    with pytest.raises(InvalidInputError, match=f"^m.jsonl, {message}") as error:
        read_manifest(tmp_path / "m.jsonl")
    assert len(str(error.value)) < 200


def test_a_manifest_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps(LINE), encoding="utf-8-sig")
    assert [clip.id for clip in read_manifest(tmp_path / "m.jsonl")] == ["a"]


def test_every_clip_of_a_tree_has_an_id_of_its_own(tmp_path):
    folder = tmp_path / "clips" / "s1"
    folder.mkdir(parents=True)
    names = [b"x.mp4", b"x.mov", b"new\nline.mp4", b"latin\xe9.mp4", b"n" * 250 + b".mp4"]
    for name in (*names, b"../s1_x.mp4"):
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).touch()
    clips = build_manifest(folder.parent)
    assert len({clip.id for clip in clips}) == len(names) + 1 and {"s1_x", "s1_x_2", "s1_x_3", "s1_new_line"} <= {clip.id for clip in clips}
    write_manifest(clips, tmp_path / "m.jsonl")
    assert [(clip.id, clip.video.resolve()) for clip in read_manifest(tmp_path / "m.jsonl")] == [(clip.id, clip.video) for clip in clips]


def test_damaged_landmarks_are_refused_before_memory_is_taken(tmp_path):
    path, whole, huge = tmp_path / "l.npz", io.BytesIO(), io.BytesIO()
    np.savez(whole, landmarks=np.zeros((6, 131, 2)))
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (200_000, 131, 2)})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("landmarks.npy", huge.getvalue())
    damaged = bytearray(whole.getvalue())
    damaged[300] ^= 255
    objects = io.BytesIO()
    np.savez(objects, landmarks=np.array([{}], object))
    for content in (b"", b"text", b"PK\3\4", whole.getvalue()[:2000], bytes(damaged), objects.getvalue(), packed.getvalue()):
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match="^l.npz: no readable .npz with landmarks$"):
            load_landmarks(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InvalidInputError, match="^l.npz: .*, not a file$"):
        load_landmarks(path)
