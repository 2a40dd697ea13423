"""The shape of the lips: read off landmarks, heard in speech, told to the denoiser."""

import numpy as np
import pytest
import torch

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.face.landmarks import CHIN, GROUPS, LEFT_IRIS, MIRROR, NUM_LANDMARKS, RIGHT_IRIS, lip_opening
from temposync_pipeline.face.lip_shape import LIP_SHAPE, NUM_LIP_SHAPE, OPENING, lip_shape, smooth_over_time
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.models.conditioning import sharpen_motion
from temposync_pipeline.models.lip_motion import PRESSED, LipMotion
from temposync_pipeline.models.viseme_classifier import Hearing, VisemeClassifier, VisemeClassifierConfig
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline
from temposync_pipeline.training.denoising import told_of_lips
from temposync_pipeline.training.lip_corpus import MAX_FRAMES, Recording, hear, load_recordings, save_recordings
from temposync_pipeline.training.lips import Config, RecordingSampler, motion_loss, performer_curves, scaled, shut_lips, train
from tests.test_viseme_classifier import TINY

from .tiny_components import picture, ready, spoken, tiny_denoiser, tiny_pipeline

pytestmark = pytest.mark.makes_videos

UPPER_INNER, LOWER_INNER = GROUPS["inner_lips"].start + np.array([16, 15, 14]), GROUPS["inner_lips"].start + np.array([4, 5, 6])


@pytest.fixture
def face() -> np.ndarray:
    """A symmetric face with closed lips, [131, 2]: irises 100 px apart."""
    half = np.random.default_rng(0).uniform(60, 200, (NUM_LANDMARKS, 2))
    face = (half + half[MIRROR] * [-1, 1] + [256, 0]) / 2 + [[64, 0]]
    face[RIGHT_IRIS], face[LEFT_IRIS] = (78, 80), (178, 80)
    face[UPPER_INNER] = face[LOWER_INNER]
    return face


def moving(face: np.ndarray, points, direction: tuple[float, float], frames: int = 40) -> np.ndarray:
    """`points` of the face go 10 px in `direction` and stay there, [frames, 131, 2]."""
    landmarks = np.repeat(face[None], frames, 0)
    landmarks[:, points] += 10 * np.array(direction)
    return landmarks


def test_each_number_of_the_shape_means_what_it_says(face):
    outer = GROUPS["outer_lips"].start
    moved = {"opening": (LOWER_INNER, (0, 1)), "jaw": (CHIN, (0, 1)), "upper_lip": (outer + np.array([14, 15, 16]), (0, -1)),
             "lower_lip": (outer + np.array([4, 5, 6]), (0, 1)), "corners": (outer + np.array([0, 10]), (0, 1))}
    for name, (points, direction) in moved.items():
        shape = lip_shape(moving(face, points, direction), face)
        wanted = np.zeros(NUM_LIP_SHAPE)
        wanted[LIP_SHAPE.index(name)] = 0.1
        np.testing.assert_allclose(shape[20], wanted, atol=1e-6, err_msg=name)
    wider = moving(face, outer + 10, (1, 0))
    wider[:, outer] -= [10, 0]
    assert lip_shape(wider, face)[20, LIP_SHAPE.index("width")] == pytest.approx(0.2)


def test_a_face_at_rest_has_no_shape_and_a_nod_is_none(face):
    landmarks = moving(face, slice(None), (0, 1))
    np.testing.assert_allclose(lip_shape(landmarks, face), 0, atol=1e-6)
    np.testing.assert_allclose(lip_shape(landmarks, face)[:, OPENING], lip_opening(landmarks), atol=1e-6)


def inputs(batch: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"sample": torch.randn(batch, 32, 10, 12), "timestep": torch.zeros(batch), "reference": torch.randn(batch, 32, 10, 12),
            "context": torch.randn(batch, 32, 10, 12), "visemes": torch.rand(batch, 11, 15), "identity": torch.randn(batch, 128)}


@torch.no_grad()
def test_weights_that_never_knew_of_lips_stay_as_they_are_when_told_of_them():
    plain = tiny_denoiser()
    told = told_of_lips(plain, NUM_LIP_SHAPE).eval()
    assert told.config.lip_shape_values == NUM_LIP_SHAPE and told_of_lips(told, NUM_LIP_SHAPE) is told
    expected = plain(**inputs()).sample
    for lips in (None, torch.randn(3, NUM_LIP_SHAPE)):
        torch.testing.assert_close(told(**inputs(), lips=lips).sample, expected)


@torch.no_grad()
def test_unknown_lips_are_none_of_their_neighbours_business():
    told = told_of_lips(tiny_denoiser(), NUM_LIP_SHAPE).eval()
    torch.nn.init.normal_(told.lip_embedding[2].weight)
    lips = torch.randn(3, NUM_LIP_SHAPE)
    lips[1] = float("nan")
    mixed, known, unknown = (told(**inputs(), lips=given).sample for given in (lips, lips.nan_to_num(0), None))
    torch.testing.assert_close(mixed[[0, 2]], known[[0, 2]])
    torch.testing.assert_close(mixed[1], unknown[1])
    assert (known[1] - unknown[1]).abs().max() > 1e-3, "at rest is not the same as not known"


@pytest.fixture(scope="module")
def speaking() -> TempoSyncPipeline:
    """A pipeline whose lips follow what the classifier hears."""
    pipeline = tiny_pipeline()
    torch.manual_seed(5)
    lip_motion = LipMotion(hidden_channels=32, channels=16, num_layers=1).eval()
    told = TempoSyncPipeline(**pipeline.components | {"lip_motion": lip_motion, "denoiser": tiny_denoiser(lip_shape_values=NUM_LIP_SHAPE)})
    return ready(told)


def frames(pipeline: TempoSyncPipeline, **changes) -> np.ndarray:
    arguments = {"image": picture(200, 300), "audio": spoken(), "num_inference_steps": 2, "output_type": "np"} | changes
    return pipeline(**arguments, generator=torch.Generator().manual_seed(7)).frames


def test_the_pipeline_tells_the_denoiser_of_the_lips(speaking):
    seen = []
    whole = frames(speaking, callback_on_step_end=lambda *given: seen.append(given[-1]["lips"]) or {},
                   callback_on_step_end_tensor_inputs=["lips"])
    recording = load_audio(spoken())
    hearing = speaking.viseme_classifier.hear(recording.samples, len(whole), 25)
    np.testing.assert_allclose(seen[0], speaking.lip_motion.predict(hearing), atol=1e-5)
    np.testing.assert_allclose(frames(speaking, chunk_size=4), whole, atol=2 / 255)
    without = TempoSyncPipeline(**speaking.components | {"lip_motion": None})
    ready(without)
    latents = [frames(pipeline, output_type="latent") for pipeline in (speaking, without)]
    assert (latents[0] - latents[1]).abs().max() > 1e-3


def test_lips_at_rest_leave_a_silent_mouth_as_it_is(speaking, monkeypatch):
    silence = Hearing(np.eye(15, dtype=np.float32)[np.zeros(8, int)], np.zeros((8, 32), np.float32), np.zeros(8, np.float32))
    monkeypatch.setattr(speaking.viseme_classifier, "listen", lambda *_: iter([silence]))
    monkeypatch.setattr(speaking.lip_motion, "predict", lambda _: np.zeros((8, NUM_LIP_SHAPE), np.float32))
    still = frames(speaking)
    assert np.abs(still - still[:1]).max() < 1 / 255


def test_lips_are_sharpened_before_they_are_smoothed(speaking, tmp_path):
    def lips() -> np.ndarray:
        seen = []
        frames(speaking, callback_on_step_end=lambda *given: seen.append(given[-1]["lips"]) or {},
               callback_on_step_end_tensor_inputs=["lips"])
        return seen[0].numpy()

    plain = lips()
    speaking.register_to_config(lip_sharpening=0.8)
    try:
        np.testing.assert_allclose(lips(), sharpen_motion(plain, 0.8), atol=1e-5)
        speaking.save_pretrained(tmp_path)
    finally:
        speaking.register_to_config(lip_sharpening=0.0)
    assert TempoSyncPipeline.from_pretrained(tmp_path).config.lip_sharpening == 0.8
    with pytest.raises(InvalidInputError, match="lip_sharpening.*frames"):
        TempoSyncPipeline(**speaking.components, lip_sharpening=3.0)


def test_a_pipeline_with_lip_motion_is_saved_and_loaded(speaking, tmp_path):
    speaking.save_pretrained(tmp_path)
    loaded = TempoSyncPipeline.from_pretrained(tmp_path)
    for name, value in speaking.lip_motion.state_dict().items():
        assert torch.equal(value, loaded.lip_motion.state_dict()[name])
    without = TempoSyncPipeline(**speaking.components | {"lip_motion": None})
    without.save_pretrained(tmp_path / "without")
    assert TempoSyncPipeline.from_pretrained(tmp_path / "without").lip_motion is None


def recordings(count: int, curves: int, frames: int = 60, seed: int = 0) -> list[Recording]:
    """Lips that open with the first number of the hidden state."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        motion = smooth_over_time(generator.normal(size=(frames, 1)), 2.0).astype(np.float32)
        motion /= motion.std()
        hidden = np.concatenate([motion, -motion, np.tile(np.float32([2, -2, 2, -2, 2, -2]), (frames, 1))], 1)
        motion = np.repeat(motion, curves, 1)
        made.append(Recording(hidden, np.zeros(frames, np.float32), np.full((frames, 15), 1 / 15, np.float32), motion))
    return made


def test_the_stage_learns_what_the_hidden_state_says(tmp_path):
    save_recordings(recordings(6, NUM_LIP_SHAPE), tmp_path / "talkers_train.npz")
    save_recordings(recordings(3, NUM_LIP_SHAPE, seed=1), tmp_path / "talkers_val.npz")
    save_recordings(recordings(3, 5, seed=2), tmp_path / "singer.npz")
    figures = train(Config(data=str(tmp_path), output=str(tmp_path / "run"), max_steps=150, learning_rate=5e-3, channels=16, num_layers=1,
                           dropout=0.0, performers={"singer": 4}, ema_decay=0.9, warmup_steps=5, tensorboard=False, threads=1))
    assert figures["lip_r"] > 0.8 and 0.6 < figures["amplitude"] < 1.3
    saved = LipMotion.from_pretrained(tmp_path / "run" / "lip_motion")
    item = load_recordings(tmp_path / "talkers_val.npz")[0]
    predicted = saved.predict(Hearing(item.visemes, item.hidden, item.loudness))
    assert predicted.shape == item.motion.shape and np.corrcoef(predicted[:, OPENING], item.motion[:, OPENING])[0, 1] > 0.8


def test_motion_is_scaled_and_rest_stays_at_rest():
    network = LipMotion(hidden_channels=8, channels=16, num_layers=1).eval()
    heard = torch.randn(1, 9, 8), torch.zeros(1, 9), torch.full((1, 9, 15), 1 / 15)
    before = network(*heard)
    torch.testing.assert_close(scaled(network, 0.5)(*heard), before / 2)
    assert torch.equal(network(*heard), before)


def test_a_missing_performer_is_named(tmp_path):
    save_recordings(recordings(2, NUM_LIP_SHAPE), tmp_path / "talkers_train.npz")
    with pytest.raises(InvalidInputError, match="no singer.npz"):
        train(Config(data=str(tmp_path), output=str(tmp_path / "run"), performers={"singer": 4}))


def test_short_recordings_are_filled_up_and_do_not_count(tmp_path):
    heard, motion, weight = RecordingSampler(recordings(1, 6, frames=20), 50, np.random.default_rng(0)).draw(2, visemes_only=0.0)
    assert motion.shape == (2, 50, 6) and weight.sum(1).tolist() == [20, 20] and not heard[0][:, 20:].any()
    wrong = motion.clone()
    wrong[:, 20:] = 7
    assert motion_loss(wrong, motion, weight, 1.0) == 0
    shifted = motion_loss(motion + 2, motion, weight, 1.0)
    assert shifted == pytest.approx(4), "a constant error is none of the velocity"
    heard, _, _ = RecordingSampler(recordings(1, 6), 50, np.random.default_rng(0)).draw(2, visemes_only=1.0)
    assert not heard[0].any() and heard[2].any()


def test_only_lips_that_should_be_shut_and_are_not_cost_more():
    motion, weight = torch.tensor([[0.1, 1.0, 0.1, 0.1]])[..., None].expand(1, 4, 6), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    predicted = torch.tensor([[0.6, 0.6, -0.3, 0.9]])[..., None].expand(1, 4, 6)
    assert shut_lips(predicted, motion, weight) == pytest.approx(0.36 / 3)


def test_sure_labials_shut_the_lips():
    torch.manual_seed(0)
    lip_motion, hidden = LipMotion(hidden_channels=8, channels=16, num_layers=1).eval(), np.ones((5, 8), np.float32)
    visemes = np.zeros((5, 15), np.float32)
    visemes[:, 10], visemes[2, 10], visemes[2, 1] = 1, 0.25, 0.75
    shapes = lip_motion.predict(Hearing(visemes, hidden, np.zeros(5, np.float32)))
    with torch.no_grad():
        free = lip_motion(torch.from_numpy(hidden)[None], torch.zeros(1, 5), torch.from_numpy(visemes)[None])[0].numpy()
    pressed = np.float32([0, 0, 0.75 * PRESSED, 0, 0])
    np.testing.assert_allclose(shapes[:, OPENING], free[:, OPENING] * [1, 1, 0.25, 1, 1] - pressed, atol=1e-6)
    np.testing.assert_allclose(np.delete(shapes, OPENING, 1), np.delete(free, OPENING, 1), atol=1e-6)


def test_what_is_not_known_is_at_rest_or_left_to_the_visemes():
    torch.manual_seed(0)
    lip_motion = LipMotion(hidden_channels=8, channels=16, num_layers=1).eval()
    visemes = np.eye(15, dtype=np.float32)[[10, 10, 0, 0]]
    visemes[2:] = 0
    loudness = np.ones(4, np.float32)
    shapes = lip_motion.predict(Hearing(visemes, np.ones((4, 8), np.float32), loudness))
    assert shapes[:2].all() and not shapes[2:].any()
    other = lip_motion.predict(Hearing(visemes, np.ones((4, 32), np.float32), loudness))
    blind = lip_motion.predict(Hearing(visemes, np.zeros((4, 8), np.float32), np.zeros(4, np.float32)))
    assert np.array_equal(other, blind) and not np.allclose(other, shapes)


def test_curves_that_hardly_move_are_left_out():
    items = recordings(2, 3)
    for item in items:
        item.motion *= [1.0, 10.0, 0.0]
    curves = np.concatenate([item.motion for item in performer_curves(items)])
    np.testing.assert_allclose(curves.std(0), [1, 1], rtol=1e-5)


def test_long_recordings_are_cut_and_heard_again_through_noise():
    classifier = VisemeClassifier(VisemeClassifierConfig(**TINY)).eval()
    seconds = 2 * MAX_FRAMES // 25 - 4
    samples, _ = spoken(seconds)
    motion = np.arange(25.0 * seconds)[:, None]
    heard = list(hear(classifier, samples, motion, 2, samples[:16_000], np.random.default_rng(0)))
    assert [len(item.hidden) for item in heard] == [250, 250, 150, 150] and heard[2].motion[0] == 250
    assert np.array_equal(heard[0].motion, heard[1].motion) and not np.allclose(heard[0].hidden, heard[1].hidden)
    again = classifier.predict(samples[:160_000], 250)
    np.testing.assert_allclose(heard[0].visemes, again, atol=1e-3)
