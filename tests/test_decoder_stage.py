"""The stage `decoder` and its pairs, on drawn faces."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from temposync_pipeline.data.denoised_latents import ENCODED, LATENT_LEVELS, MUCH_NOISE, NUM_WAYS, VOICE_ALONE
from temposync_pipeline.data.motion_pairs import LEFT, TOP, MotionPairs, PairWriter, amid_speech, as_filmed, held_out_person, true_motion
from temposync_pipeline.data.retarget import retarget
from temposync_pipeline.data.speaking_portraits import Portrait
from temposync_pipeline.face.landmarks import lip_opening
from temposync_pipeline.face.lip_shape import rest_shape
from temposync_pipeline.models.autoencoder_temposync import AutoencoderTempoSync
from temposync_pipeline.training import decoder
from temposync_pipeline.training.checkpointing import load_checkpoint

from .test_retarget import TEETH, TONGUE, draw, face
from .tiny_components import tiny_vae

GAPS = np.array([0, 2, 8, 16, 8, 0], np.float32)


@pytest.fixture(scope="module")
def spoken() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A drawn photograph with its landmarks, and the frames and their landmarks when it speaks."""
    driver = np.stack([face(gap, 56 - 0.3 * gap, 215 + gap / 2) for gap in GAPS])
    shape = face(0, 60)
    photograph = draw(shape, TEETH)
    frames, shapes = retarget(photograph, shape, driver, np.stack([draw(points, TONGUE) for points in driver]), rest_shape(driver))
    return photograph, shape, frames, shapes


def normalised_vae() -> AutoencoderTempoSync:
    """Untrained, its latents are small."""
    vae = tiny_vae()
    vae.register_to_config(latents_std=[0.02] * 32)
    return vae


@pytest.fixture(scope="module")
def folder(spoken, tmp_path_factory):
    photograph, shape, frames, shapes = spoken
    folder = tmp_path_factory.mktemp("pairs")
    writer = PairWriter(normalised_vae())
    truth = [true_motion(shape, points) for points in shapes]
    writer.add(photograph, frames, 0, truth)
    writer.add(frames[0], frames[::2], 1)
    # As if a denoiser had made latents of its own of the same voice.
    still, ways = writer.references[0][1], np.stack([frame[1] for frame in writer.frames[:len(frames)]])
    ways[:, VOICE_ALONE] = still + 0.6 * (ways[:, ENCODED].astype(float) - still)
    writer.add(photograph, frames, 0, truth, (still, ways))
    writer.add(photograph, frames[-1:], 2)
    for split in ("train", "val"):
        writer.pairs().save(folder / split)
    return folder


def test_the_true_motion_makes_the_frame_out_of_the_photograph(spoken):
    photograph, shape, frames, shapes = spoken
    for frame, points in zip(frames, shapes):
        flow, hidden = true_motion(shape, points)
        places = cv2.resize(flow, (192, 160)) + np.stack(np.meshgrid(np.arange(LEFT, LEFT + 192), np.arange(TOP, TOP + 160)), -1)
        moved = cv2.remap(photograph, places.astype(np.float32), None, cv2.INTER_LINEAR)
        difference = cv2.absdiff(moved, frame[TOP:TOP + 160, LEFT:LEFT + 192]).max(-1)
        shown = cv2.dilate(hidden, np.ones((5, 5), np.uint8)) == 0
        assert np.percentile(difference[shown], 99) < 14
    assert (true_motion(shape, shapes[3])[1] > 128).sum() > 200 > (true_motion(shape, shapes[0])[1] > 128).sum()


def test_pairs_survive_the_disk(folder):
    pairs = MotionPairs.load(folder / "train")
    assert pairs.references.shape == (4, 160, 192, 3) and pairs.frames.shape == (16, 160, 192, 3)
    assert pairs.owners.tolist() == [0] * 6 + [1] * 3 + [2] * 6 + [3] and pairs.kinds.tolist() == [0] * 6 + [1] * 3 + [0] * 6 + [2]
    assert not pairs.flow[6:9].any() and pairs.flow[:6].any() and pairs.latents.shape == (16, NUM_WAYS, 32, 10, 12)
    # Where no denoiser was asked, the encoder's stand in all places.
    assert (pairs.latents[:9] == pairs.latents[:9, :1]).all() and (pairs.latents[9:15, VOICE_ALONE] != pairs.latents[9:15, ENCODED]).any()


def test_real_pairs_come_only_in_ways_that_keep_to_the_true_frame_and_only_the_encoders_are_changed(folder):
    pairs = MotionPairs.load(folder / "train")
    pairs.latents = np.array(pairs.latents)
    pairs.latents[:] = np.arange(NUM_WAYS)[:, None, None, None]  # which way
    sampler, photographs = (decoder.PairSampler(pairs, decoder.Config(batch_size=64, ways=(0.5, 0, 0, 0.5), kinds=kinds))
                            for kinds in ({0: 0.5, 1: 0.5}, {2: 1.0}))
    assert photographs.draw().is_encoded.all()
    batch = sampler.draw()
    ways = (LATENT_LEVELS * batch.latents[:, 0, 0, 0]).round().int()
    assert set(ways[batch.is_known].tolist()) == {ENCODED, VOICE_ALONE} and set(ways[~batch.is_known].tolist()) == {ENCODED, MUCH_NOISE}
    changed = (decoder.as_generated(batch, sampler.config) != batch.latents).flatten(1).any(1)
    assert torch.equal(changed, batch.is_encoded) and torch.equal(batch.is_encoded, ways == ENCODED)


def test_a_photograph_amid_speech_has_its_mouth_open(spoken):
    photograph, shape, *_ = spoken
    driver = np.stack([face(gap, 56 - 0.3 * gap, 215 + gap / 2) for gap in GAPS])
    source = SimpleNamespace(landmarks=driver, crops=np.stack([draw(points, TONGUE) for points in driver]))
    drivers = SimpleNamespace(draw=lambda rng: (SimpleNamespace(talker="t"), source), rests={"t": rest_shape(driver)})
    closed = Portrait("p.jpg", photograph, shape)
    opened = amid_speech(closed, drivers, np.random.default_rng(0))
    assert lip_opening(opened.landmarks) > lip_opening(shape) + 0.03 and (opened.crop != photograph).any()
    source.landmarks, source.crops = driver[:1], source.crops[:1]  # who never opens it
    assert amid_speech(closed, drivers, np.random.default_rng(0)) is closed


def test_photographs_are_made_darker_and_softer_as_films_are():
    rng, picture = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    filmed = [as_filmed(picture, rng) for _ in range(8)]
    assert all(crop.shape == picture.shape and crop.dtype == np.uint8 and crop.std() < picture.std() for crop in filmed)
    assert min(crop.mean() for crop in filmed) < 0.7 * picture.mean()


def test_composing_with_the_truth_is_the_frame(folder):
    pairs = MotionPairs.load(folder / "train")
    batch = decoder.make_batch(pairs, np.array([0]), np.arange(3, 4), np.array([ENCODED]))
    flow = decoder.full_flow(batch.flow, torch.ones(1, 1, 160, 192))
    composed = decoder.compose(batch.references, batch.frames, flow, 1 - batch.hidden)
    assert (composed - batch.frames).abs().mean() < 0.01 < (batch.references - batch.frames).abs().mean()


def test_colours_agree_where_the_flow_is_theirs_and_what_is_hidden_does_not_count():
    vae, mask = tiny_vae(), torch.zeros(1, 1, 160, 192)
    mask[..., 48:112, 64:128] = 1
    reference = torch.randn(1, 32, 10, 12, generator=torch.Generator().manual_seed(0))
    latents = reference.roll(1, -1)  # a cell to the right
    flow = torch.zeros(1, 2, 160, 192, requires_grad=True)
    shown = torch.zeros(1, 1, 160, 192, requires_grad=True)
    apart, together = (decoder.agreement(vae, latents, reference, flow + torch.tensor([x, 0.0])[:, None, None], shown, mask)
                       for x in (0, -16))
    assert together < 1e-4 < 0.1 * apart
    apart.backward()
    assert flow.grad.abs().sum() > 0 and shown.grad is None
    half = torch.zeros(1, 1, 160, 192)
    half[..., :96] = 1
    moved = torch.where(half.bool(), 0.0, -16.0) * torch.tensor([1.0, 0.0])[:, None, None]
    assert decoder.agreement(vae, latents, reference, moved, half, mask) < 1e-4 < 0.1 * decoder.agreement(
        vae, latents, reference, moved, 1 - half, mask)


def test_the_stage_learns_the_motion_keeps_the_colours_and_resumes(folder, tmp_path):
    normalised_vae().save_pretrained(tmp_path / "init")
    settings = {"data": str(folder), "output": str(tmp_path / "run"), "init": str(tmp_path / "init"), "batch_size": 4,
                "frames_per_reference": 2, "motion_channels": (32, 16, 8), "motion_blocks": (1, 0, 0), "mixed_precision": "no",
                "warmup_steps": 1, "learning_rate": 1e-2, "ema_decay": 0.5, "max_minutes": 5.0, "tensorboard": False}
    first = decoder.train(decoder.Config(max_steps=1, **settings))
    later = decoder.train(decoder.Config(max_steps=40, resume=True, **settings))
    assert load_checkpoint(tmp_path / "run" / "checkpoint")["step"] == 40
    for way in ("", "_of_voice"):
        assert later["flow_error" + way] < 0.9 * first["flow_error" + way]
        assert abs(later["flow_size" + way] - 1) < abs(first["flow_size" + way] - 1)
    trained, before = AutoencoderTempoSync.from_pretrained(tmp_path / "run" / "vae"), tiny_vae()
    assert trained.knows_motion
    assert all(torch.equal(trained.state_dict()[name], weight) for name, weight in before.state_dict().items())


def test_people_are_held_out_by_their_number():
    assert held_out_person("001_neutral.jpg") == held_out_person("001_smiling.jpg")
    held_out = [held_out_person(f"{number:03d}_neutral.jpg") for number in range(1, 200)]
    assert 0.1 < np.mean(held_out) < 0.3
