import json
from pathlib import Path

import numpy as np
import pytest

from temposync_pipeline.data.clips import load_clip, load_landmarks
from temposync_pipeline.data.manifest import Clip, build_manifest, portrait_split, read_manifest, write_manifest
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
])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "clips.jsonl").write_text('{"id": "a", "talker": "b", "video": "c.mp4", "split": "val"}\n' + line + "\n")
    with pytest.raises(InvalidInputError, match="clips.jsonl, line 2"):
        read_manifest(tmp_path / "clips.jsonl")


def test_files_that_are_no_manifest(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "video.mp4").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InvalidInputError, match="empty"):
        read_manifest(tmp_path / "empty.jsonl")
    with pytest.raises(InvalidInputError, match="not a text file"):
        read_manifest(tmp_path / "video.mp4")
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "nothing.jsonl")


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
