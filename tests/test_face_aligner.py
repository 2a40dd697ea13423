"""FaceAligner: geometry against closed forms, detector decoding against its own targets, training data, and the bundled weights."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

import temposync_pipeline
from temposync_pipeline.data.aligner_data import (
    EVALUATION_PICTURES,
    AlignerData,
    LabelledFace,
    load_pictures,
    mirror_landmarks,
    place,
    random_pose,
    scene_targets,
    warped_crop,
)
from temposync_pipeline.face.crop import TEMPLATE, align_matrix, transform_points
from temposync_pipeline.face.landmarks import CHIN, GROUPS, NUM_LANDMARKS, RIGID, interocular_distance
from temposync_pipeline.face.pose import ALIGNED_INTEROCULAR, CROP_SPAN, FACE_SPAN, Pyramid, crop_matrix, landmark_pose, pose_matrix
from temposync_pipeline.metrics.aligner import FaceScene, measure_speed, times_by_size
from temposync_pipeline.models.face_aligner import FaceAligner, peaks
from temposync_pipeline.training.aligner import detector_loss, landmark_loss

BUNDLED = Path(temposync_pipeline.__file__).parent / "checkpoints" / "temposync-tiny" / "face_aligner"


def aligned_landmarks(seed: int = 0) -> np.ndarray:
    """Landmarks whose alignment to the crop is the identity."""
    landmarks = np.random.default_rng(seed).uniform(40, 216, (NUM_LANDMARKS, 2)).astype(np.float32)
    landmarks[RIGID] = TEMPLATE
    return landmarks


def dotted_face(size: int = 256) -> LabelledFace:
    """A dark picture with a bright dot on each of a few landmarks."""
    landmarks = aligned_landmarks(3)
    image = np.full((size, size, 3), 20, np.uint8)
    for x, y in landmarks[RIGID]:
        cv2.circle(image, (int(x * 16), int(y * 16)), 3 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    return LabelledFace(Pyramid(image), landmarks, "dots")


@pytest.fixture(scope="module")
def tiny() -> FaceAligner:
    torch.manual_seed(0)
    return FaceAligner(detector_channels=(4, 4, 8, 8, 8), landmark_channels=(4, 4, 8, 8, 8), crop_size=64).eval()


def test_pose_of_an_aligned_face_and_back():
    x, y, size, cos, sin = landmark_pose(aligned_landmarks())
    assert (x, y, size, cos, sin) == pytest.approx((128, 128, FACE_SPAN, 1, 0), abs=1e-3)
    pose = np.array([310.0, 95.0, 60.0, np.cos(0.5), np.sin(0.5)])
    picture = transform_points(pose_matrix(pose), aligned_landmarks())
    assert landmark_pose(picture) == pytest.approx(pose, abs=1e-3)
    assert transform_points(crop_matrix(pose, 128), pose[:2]) == pytest.approx([64, 64], abs=1e-3)


def test_pyramid_keeps_positions_while_shrinking():
    ramp = np.broadcast_to(np.arange(250, dtype=np.uint8)[None, :, None], (130, 250, 3)).copy()
    factor = 0.2
    matrix = np.array([[factor, 0, 0.5 * factor - 0.5], [0, factor, 0.5 * factor - 0.5]])
    small = Pyramid(ramp).warp(matrix, (50, 26))
    expected = (np.arange(50) + 0.5) / factor - 0.5
    assert np.abs(small[10, 2:-2, 0] - expected[2:-2]).max() < 1.1


def test_detector_targets_decode_to_the_poses_they_were_made_from():
    poses = [np.array([61.3, 70.2, 52.0, np.cos(0.4), np.sin(0.4)]), np.array([150.0, 40.0, 18.0, 1.0, 0.0])]
    targets = scene_targets(poses, [True, True], 192)
    output = torch.from_numpy(np.concatenate([np.log((targets["heat"] + 1e-4) / (1.0001 - targets["heat"]))[None], targets["pose"]]))
    found = sorted(peaks(output, 0.5, 10), key=lambda pose: pose[0])
    assert np.array(found) == pytest.approx(np.array(poses), abs=1e-2)


def test_face_mostly_outside_the_picture_is_neither_face_nor_background():
    targets = scene_targets([np.array([-5.0, 60.0, 80.0, 1.0, 0.0])], [False], 128)
    assert targets["heat"].max() == 0 and targets["weight"].min() == 0 and targets["weight"][:, -4:].min() == 1


def test_mirrored_landmarks_swap_sides_and_return():
    landmarks = aligned_landmarks()
    assert mirror_landmarks(mirror_landmarks(landmarks, 200), 200) == pytest.approx(landmarks)
    mirrored = mirror_landmarks(landmarks, 200)
    assert mirrored[CHIN] == pytest.approx([199 - landmarks[CHIN, 0], landmarks[CHIN, 1]])
    # The outer corner of the right eye becomes that of the left eye.
    assert mirrored[GROUPS["left_eye"]][0, 0] == pytest.approx(199 - landmarks[GROUPS["right_eye"]][0, 0])


@pytest.mark.parametrize("seed", range(6))
def test_warped_crops_carry_their_landmarks_along(seed):
    rng = np.random.default_rng(seed)
    crop, landmarks = warped_crop(dotted_face(), 128, rng)
    for x, y in landmarks[RIGID]:
        if 4 < x < 123 and 4 < y < 123:
            assert crop[round(float(y)), round(float(x))].mean() > 120


def test_placed_faces_carry_their_landmarks_along():
    rng = np.random.default_rng(1)
    for rectangular in (True, False):
        pose = random_pose(256, (120, 160), rng)
        canvas, landmarks = place(np.zeros((256, 256, 3), np.uint8), dotted_face(), pose, rectangular, rng)
        values = [canvas[round(float(y)), round(float(x))].mean() for x, y in landmarks[RIGID] if 0 <= x < 255 and 0 <= y < 255]
        assert min(values) > 120


def test_losses_of_a_perfect_and_of_a_shifted_answer():
    target = torch.rand(2, NUM_LANDMARKS, 2) - 0.5
    is_face = torch.tensor([1.0, 0.0])
    shift = 0.1 * 2 * ALIGNED_INTEROCULAR / CROP_SPAN
    distance, gap, _ = landmark_loss(target + torch.tensor([shift, 0.0]), torch.zeros(2, NUM_LANDMARKS), target, is_face)
    assert float(distance) == pytest.approx(0.1, abs=1e-3)
    # A shift of the whole face leaves the lip opening alone.
    assert float(gap) == pytest.approx(0, abs=4e-3)

    targets = scene_targets([np.array([60.0, 60.0, 40.0, 1.0, 0.0])], [True], 128)
    targets = {key: torch.from_numpy(value)[None] for key, value in targets.items()}
    right = torch.cat([torch.where(targets["heat"] == 1, 20.0, -20.0)[:, None], targets["pose"]], 1)
    wrong = torch.cat([-right[:, :1], right[:, 1:] + 1], 1)
    assert all(float(loss) < 1e-3 for loss in detector_loss(right, **targets))
    assert all(float(loss) > 1 for loss in detector_loss(wrong, **targets))


def test_training_samples_have_the_shapes_the_networks_take(tiny):
    samples = AlignerData([[dotted_face()]], [1.0], load_pictures(EVALUATION_PICTURES[:2]), 64, seed=0)
    crops, landmarks, _ = zip(*[samples.landmark_crop() for _ in range(12)])
    scene = samples.scene(128, (20, 100))
    pictures, crops = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1 for images in ([scene["image"]], crops))
    output, (points, log_error, logit, _) = tiny(pictures, crops)
    assert output.shape == (1, 6, *scene["heat"].shape)
    assert points.shape == np.stack(landmarks).shape and log_error.shape == points.shape[:2] and logit.shape == (12,)


def test_saved_model_answers_the_same(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    loaded = FaceAligner.from_pretrained(tmp_path)
    assert loaded.config.crop_size == 64 and not loaded.training
    pictures, crops = torch.randn(1, 3, 64, 96), torch.randn(2, 3, 64, 64)
    for ours, theirs in zip(tiny(pictures, crops)[1], loaded(pictures, crops)[1]):
        assert torch.equal(ours, theirs)


def test_no_face_and_bad_pictures(tiny):
    grey = np.full((50, 70, 3), 128, np.uint8)
    assert tiny.detect(grey, threshold=1.0) == []
    for bad in (grey.astype(np.float32), grey[..., 0], grey[:4], None):
        with pytest.raises(ValueError, match="uint8 RGB"):
            tiny.detect(bad)


def test_detector_passes_until_the_smallest_face_can_be_seen(tiny):
    assert tiny._detector_sides(200) == [200]
    assert tiny._detector_sides(700) == [256]
    assert tiny._detector_sides(1100) == [298]
    assert tiny._detector_sides(1500) == [204, 407]
    assert tiny._detector_sides(4800) == [163, 325, 650, 1300]


def test_times_are_told_by_the_size_of_the_picture():
    figures = times_by_size([100, 512, 513, 3000], [10.0, 30.0, 7.0, 90.0])
    assert list(figures) == ["all", "1-512", "513-1024", "above 2048"]
    assert figures["1-512"] == {"count": 2, "median_ms": 20.0, "p95_ms": pytest.approx(29.0)}
    assert figures["all"]["count"] == 4 and figures["all"]["median_ms"] == 20.0 and figures["above 2048"]["p95_ms"] == 90.0


def test_speed_tells_pictures_with_a_face_from_those_without_and_the_threads(tiny):
    small, large = np.full((60, 50, 3), 90, np.uint8), np.full((20, 600, 3), 90, np.uint8)
    figures = measure_speed(tiny, [FaceScene(small, aligned_landmarks())], [small, large])
    assert figures["threads"] == {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads()}
    counts = {kind: {size: times["count"] for size, times in classes.items()} for kind, classes in figures["milliseconds"].items()}
    assert counts == {"with_face": {"all": 1, "1-512": 1}, "face_free": {"all": 2, "1-512": 1, "513-1024": 1},
                      "all": {"all": 3, "1-512": 2, "513-1024": 1}}
    assert figures["milliseconds"]["all"]["all"]["p95_ms"] >= figures["milliseconds"]["all"]["all"]["median_ms"] > 0


@pytest.fixture(scope="module")
def bundled() -> FaceAligner:
    return FaceAligner.from_pretrained(BUNDLED, torch_dtype=torch.float32)


@pytest.mark.parametrize("size, roll", [(48, 0), (150, 30), (400, -30), (1500, 10)])
def test_astronaut_is_found_at_any_size_and_roll(bundled, size, roll):
    astronaut = skimage.data.astronaut()
    reference = bundled.detect(astronaut[0:256, 96:352], max_faces=1)[0].landmarks + np.float32([96, 0])
    pose = np.array([0.75 * size, 0.7 * size, size, np.cos(np.radians(roll)), np.sin(np.radians(roll))])
    matrix = np.vstack([pose_matrix(pose), [0, 0, 1]]) @ np.vstack([align_matrix(reference), [0, 0, 1]])
    picture = Pyramid(astronaut).warp(matrix[:2], (round(1.5 * size), round(1.4 * size)), cv2.BORDER_CONSTANT)
    faces = bundled.detect(picture)
    assert len(faces) == 1
    face, expected = faces[0], transform_points(matrix[:2], reference)
    assert np.linalg.norm(face.landmarks - expected, axis=-1).mean() < 0.06 * interocular_distance(expected)
    assert face.landmarks.shape == (NUM_LANDMARKS, 2) and face.confidence.shape == (NUM_LANDMARKS,)
    assert 0 <= face.confidence.min() and face.confidence.max() <= 1 and face.score > 0.5


def test_several_faces_come_largest_first(bundled):
    face = skimage.data.astronaut()[0:224, 112:336]
    picture = np.full((300, 420, 3), 90, np.uint8)
    picture[:224, :224] = face
    picture[60:172, 260:372] = cv2.resize(face, (112, 112), interpolation=cv2.INTER_AREA)
    faces = bundled.detect(picture)
    assert len(faces) == 2 and faces[0].size > faces[1].size
    assert faces[0].box[2] < faces[1].box[0]
    assert len(bundled.detect(picture, max_faces=1)) == 1


def test_tracking_follows_a_moving_face_and_marks_where_it_is_gone(bundled):
    astronaut = skimage.data.astronaut()
    frames = [np.roll(astronaut[0:256, 96:352], 3 * t, axis=1) for t in range(5)] + [np.full((256, 256, 3), 60, np.uint8)]
    tracked = bundled.track(frames)
    assert tracked.shape == (6, NUM_LANDMARKS, 2) and tracked.dtype == np.float32
    assert np.diff(tracked[:5].mean(1), axis=0) == pytest.approx(np.tile([3, 0], (4, 1)), abs=1.0)
    assert np.isnan(tracked[5]).all()


def test_no_faces_in_pictures_without_any(bundled):
    assert [name for name, picture in zip(EVALUATION_PICTURES, load_pictures(EVALUATION_PICTURES)) if bundled.detect(picture)] == []
