"""The cache that READ's stages learn from: frames in one crop, and beside each what is heard at that moment."""

import numpy as np
import pytest
import torch

from temposync_pipeline.data.clips import load_sound
from temposync_pipeline.data.manifest import Clip
from temposync_pipeline.data.speaking_portraits import SpeakingPortrait
from temposync_pipeline.media.video import FPS, VideoWriter
from temposync_pipeline.models.lip_motion import LipMotion
from temposync_pipeline.training.face_cache import FaceCache
from temposync_pipeline.training.face_latents import FaceLatentsWriter, add_portrait, add_talker, portrait_landmarks
from temposync_pipeline.training.latents import HeardVisemes

from .test_whole_face import face, nodding
from .tiny_components import MEDIA, picture, tiny_vae, tiny_viseme_classifier

LENGTH = 20


@pytest.fixture
def clip(tmp_path) -> Clip:
    """A picture that slides, its face with it; the sound is two frames early, so that the first two frames have none."""
    shown, points = picture(), face()[None] + np.stack([2.0 * np.arange(LENGTH), np.zeros(LENGTH)], -1)[:, None]
    with VideoWriter(tmp_path / "talker.mp4", audio_path=MEDIA / "speech_hello.wav") as writer:
        for frame in range(LENGTH):
            writer.write(np.roll(shown, 2 * frame, 1))
    np.savez(tmp_path / "talker.npz", landmarks=points.astype(np.float32))
    return Clip("talker", "s1", tmp_path / "talker.mp4", "train", landmarks=tmp_path / "talker.npz", offset=-2 / FPS)


@pytest.fixture
def ear():
    torch.manual_seed(0)
    return tiny_viseme_classifier(), LipMotion(hidden_channels=32, channels=8, num_layers=1).eval()


def test_frames_lie_in_the_references_crop_and_beside_what_is_heard_then(clip, ear, tmp_path):
    writer = FaceLatentsWriter(tiny_vae())
    lips = np.random.default_rng(0).standard_normal((LENGTH, 6)).astype(np.float32)
    assert add_talker(writer, clip, *ear, reference=3, lips=lips) == slice(2, LENGTH)
    writer.write(tmp_path / "faces_train.safetensors")
    cache = FaceCache(tmp_path, "train")
    assert cache.tensors["sequences"].tolist() == [[0, LENGTH - 2, 2]]
    window = cache.window(torch.tensor([0]), torch.tensor([3]), 9)
    assert torch.equal(window.frames[0, :, 0], window.reference[0])  # the reference is one of the frames
    assert not torch.equal(window.frames[0, :, 8], window.reference[0])  # whose face has moved on in the same crop
    hearing = ear[0].hear(load_sound(clip), LENGTH, FPS)
    assert np.allclose(window.heard[0, :, :32], hearing.hidden[5:14], atol=2e-3)
    assert np.allclose(window.lips[0], lips[5:14], atol=2e-3)


def test_a_clip_whose_face_was_lost_is_left_out(clip, ear):
    with np.load(clip.landmarks) as file:
        points = file["landmarks"]
    points[11] = np.nan
    np.savez(clip.landmarks, landmarks=points)
    writer = FaceLatentsWriter(tiny_vae())
    assert add_talker(writer, clip, *ear, reference=0) == slice(0, 0) and not writer.sequences and not writer.rows


def portrait_like(driver: np.ndarray) -> FaceLatentsWriter:
    """A portrait that says what the driver, with landmarks [80, 131, 2], says in its frames 30 … 41."""
    crop, points = picture(), np.repeat(face()[None], 12, 0)
    writer = FaceLatentsWriter(tiny_vae())
    writer.hear("another", np.zeros((5, 4), np.float32))
    writer.hear("driver", np.zeros((80, 4), np.float32))
    speaking = SpeakingPortrait(np.repeat(crop[None], 12, 0), points, crop, "driver", 30)
    add_portrait(writer, speaking, face(), driver, np.random.default_rng(1))
    return writer


def motion(writer: FaceLatentsWriter) -> np.ndarray:
    """Of each frame, how far its latents are from the reference's."""
    return (writer.latents[0].float() - writer.references[0].float()).abs().mean((1, 2, 3)).numpy()


def test_a_portrait_moves_like_the_talker_at_the_moments_that_it_speaks_like():
    writer = portrait_like(nodding(80, 8.0))
    assert writer.sequences == [(0, 12, 5 + 30)]
    still = np.repeat(face()[None], 80, 0)
    assert motion(portrait_like(still)).max() == 0
    still[36:] += np.float32([0, 5])
    late = motion(portrait_like(still))
    # At rest is where it is most of the time: lower.
    assert late[:6].min() > 0 and late[6:].max() == 0 and motion(writer).max() > 0


def test_portraits_without_a_face_have_no_landmarks(tmp_path):
    np.savez(tmp_path / "portraits.npz", names=["found.jpg", "lost.jpg"], landmarks=np.stack([2 * face() + 9, np.full((131, 2), np.nan)]))
    (name, points), = portrait_landmarks(tmp_path / "portraits.npz")
    assert name == "found" and np.allclose(points, face(), atol=0.01)


def test_a_sequence_is_heard_by_one_of_several_classifiers(clip, tmp_path):
    """`training.latents`: what learns from the cache depends on none of them."""
    classifiers = [tiny_viseme_classifier(), tiny_viseme_classifier()]
    torch.nn.init.normal_(classifiers[1].head.bias)
    visemes = HeardVisemes(classifiers, [clip])
    heard = [classifier.predict(load_sound(clip), LENGTH, FPS) for classifier in classifiers]
    looks = [[np.array_equal(look, each) for each in heard] for look in (visemes["talker"] for _ in range(20))]
    assert "talker" in visemes and all(sum(look) == 1 for look in looks) and 0 < sum(look[0] for look in looks) < 20
