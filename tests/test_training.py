from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from temposync_pipeline.data.manifest import Clip
from temposync_pipeline.models.conditioning import latent_window, viseme_windows
from temposync_pipeline.models.identity_encoder import IdentityEncoder
from temposync_pipeline.schedulers.scheduling_temposync import TempoSyncScheduler
from temposync_pipeline.training import autoencoder, teacher
from temposync_pipeline.training.checkpointing import load_checkpoint
from temposync_pipeline.training.denoising import Conditions, denoising_loss, evaluate_denoiser, raw_target
from temposync_pipeline.training.latent_cache import LatentCache, LatentCacheWriter, frame_mel, latent_mouth_weight
from temposync_pipeline.training.latents import balanced_repeats
from temposync_pipeline.training.losses import charbonnier, gradient_difference, pseudo_huber, weighted_mse
from temposync_pipeline.training.settings import build_config, read_settings

from .tiny_components import picture, tiny_denoiser, tiny_vae

TINY = {"block_out_channels": (32, 32), "layers_per_block": (1, 1), "mid_layers": 1, "embedding_channels": 32, "batch_size": 8,
        "mixed_precision": "no", "max_minutes": 5.0, "warmup_steps": 1, "sources": {"talkers": 1.0}, "validation_sources": {"talkers": 1.0}}


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    """One talker's clip and one speaking portrait, of flat pictures whose brightness is the frame's viseme."""
    folder = tmp_path_factory.mktemp("latents")
    visemes = np.eye(15, dtype=np.float32)[np.arange(12) % 15]
    crops = np.stack([np.roll(picture(), 20 * t, axis=1) for t in range(12)])
    for name, references in (("talkers", None), ("portraits", picture()[None])):
        writer = LatentCacheWriter(tiny_vae())
        writer.add(crops, viseme_windows(visemes, 11), references)
        writer.write(folder / f"{name}.safetensors")
    IdentityEncoder().save_pretrained(folder / "identity_encoder")
    tiny_vae().save_pretrained(folder / "vae")
    return folder


def test_viseme_windows_repeat_the_ends():
    windows = viseme_windows(np.arange(4)[:, None].repeat(15, 1), 5)
    assert windows.shape == (4, 5, 15)
    assert windows[:, :, 0].tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]


def test_mouth_weight_covers_lips_and_leaves_the_cheeks():
    weight = latent_mouth_weight(floor=0.2, lips=3.0)
    assert weight.shape == (1, 1, 10, 12) and weight[0, 0, 0, 0] == pytest.approx(0.2)
    assert weight[0, 0, 4, 5] == 3  # the lips: crop row 168, column 120
    assert weight[0, 0, 7, 5] == 1  # the chin: crop row 216


def test_cache_draws_matching_targets_references_and_contexts(cache_folder):
    batch = LatentCache(cache_folder, {"portraits": 1.0}, still_context=1.0).draw(6)
    assert batch.target.shape == batch.reference.shape == batch.context.shape == (6, 32, 10, 12)
    assert torch.equal(latent_window(batch.reference_full), batch.reference)
    # A speaking portrait has one photograph: every reference and every context is the same.
    assert torch.equal(batch.reference[0], batch.reference[5]) and torch.equal(batch.context[0], batch.context[5])
    assert not torch.equal(batch.target[0], batch.reference[0])
    talker = LatentCache(cache_folder, {"talkers": 1.0}, still_context=0.0).draw(6)
    # Without a still context the context is the target's own: outside the painted mouth they agree.
    assert torch.allclose(talker.target[:, :, 0, 0], talker.context[:, :, 0, 0], atol=1e-2)


def test_cache_keeps_what_is_heard_during_each_frame(tmp_path):
    """A tone in the second half of the recording is in the mel columns of the second half of the frames."""
    writer, crops = LatentCacheWriter(tiny_vae()), np.stack([picture()] * 6)
    samples = np.sin(np.arange(6 * 640) * 0.8).astype(np.float32) * (np.arange(6 * 640) >= 3 * 640)
    mel = frame_mel(samples, 6)
    assert mel.shape == (6, 4, 80) and mel[3:].amax() > mel[:2].amax() + 5
    assert frame_mel(samples[:3000], 6)[5].amax() == mel[0].amin()  # beyond the end: silence
    writer.add(crops, viseme_windows(np.eye(15, dtype=np.float32)[:6], 11), mel=mel)
    writer.write(tmp_path / "talkers.safetensors")
    assert torch.equal(LatentCache(tmp_path, {"talkers": 1.0}).sources["talkers"]["mel"], mel.half())


def test_zeroed_visemes_only_stand_for_silence(cache_folder):
    cache = LatentCache(cache_folder, {"talkers": 1.0}, zero_silence=1.0)
    cache.sources["talkers"]["visemes"][:6] = torch.nn.functional.one_hot(torch.tensor(0), 15).half()
    visemes = cache.draw(200).visemes
    assert set(visemes.sum((1, 2)).tolist()) == {0.0, 11.0}


def test_closed_mouths_at_rest_are_their_own_references(tmp_path):
    crops = np.stack([np.roll(picture(), 20 * t, axis=1) for t in range(6)])
    writer = LatentCacheWriter(tiny_vae())
    writer.add(crops, viseme_windows(np.eye(15, dtype=np.float32)[[10] * 6], 11), opening=np.float32([0.1, 0.0, 0.2, 0.1, 0.2, 0.1]))
    writer.write(tmp_path / "talkers.safetensors")
    batch = LatentCache(tmp_path, {"talkers": 1.0}, rest=1.0, zero_silence=0.0).draw(8)
    assert not batch.residual.any() and torch.equal(batch.reference, batch.reference[:1].expand_as(batch.reference))
    assert (batch.visemes[..., 0] == 1).all() and batch.visemes.sum() == 8 * 11
    assert LatentCache(tmp_path, {"talkers": 1.0}, rest=0.0, closing=0.0).draw(8).visemes[..., 10].all()


def test_in_silence_any_reference_closes(tmp_path):
    """Two people; each one's closed frame is the answer to silence for all references of the same person, and of nobody else."""
    writer = LatentCacheWriter(tiny_vae())
    for shift in (0, 50):
        crops = np.stack([np.roll(picture(), 20 * t, axis=1) for t in range(6)]) + np.uint8(shift)
        writer.add(crops, viseme_windows(np.eye(15, dtype=np.float32)[[10] * 6], 11), opening=np.float32([0.1, 0.2, 0.0, 0.1, 0.2, 0.1]))
    writer.write(tmp_path / "talkers.safetensors")
    cache = LatentCache(tmp_path, {"talkers": 1.0}, rest=0.0, closing=1.0, zero_silence=0.0)
    batch = cache.draw(60)
    frames = latent_window(cache.sources["talkers"]["latents"].float())

    def numbers(windows: torch.Tensor) -> np.ndarray:
        return (windows[:, None] - frames).abs().amax((2, 3, 4)).argmin(1).numpy()

    targets, references = numbers(batch.target), numbers(batch.reference)
    assert set(targets) == {2, 8} and set(references) == set(range(12))
    assert ((references >= 6) == (targets == 8)).all()
    assert (batch.visemes[..., 0] == 1).all()


def test_a_sequence_that_repeats_is_drawn_more_often(tmp_path):
    writer, windows = LatentCacheWriter(tiny_vae()), viseme_windows(np.eye(15, dtype=np.float32)[[0] * 6], 11)
    for shade, repeats in ((40, 1), (200, 9)):
        writer.add(np.full((6, 256, 256, 3), shade, np.uint8), windows, repeats=repeats)
    writer.write(tmp_path / "talkers.safetensors")
    cache = LatentCache(tmp_path, {"talkers": 1.0})
    drawn = cache.draw(400).target
    share = (drawn - latent_window(cache.sources["talkers"]["latents"][6]).float()).abs().amax((1, 2, 3)).eq(0).float().mean()
    assert 0.8 < share < 0.98


def test_talkers_with_few_clips_count_by_the_root_of_their_number():
    numbers = {"a": 16, "b": 4, "c": 1}
    clips = [Clip(f"{talker}{i}", talker, Path(f"{talker}{i}.mpg"), "train") for talker in numbers for i in range(numbers[talker])]
    assert balanced_repeats(clips) == {"a": 1, "b": 2, "c": 4}


def test_raw_target_inverts_the_clean_estimate():
    scheduler, clean = TempoSyncScheduler(), torch.randn(3, 2, 4, 4)
    sigmas = torch.tensor([0.1, 1.0, 8.0])
    noisy = scheduler.corrupt(clean, torch.randn_like(clean), sigmas)
    assert torch.allclose(scheduler.pred_original(raw_target(clean, noisy, sigmas, scheduler), noisy, sigmas), clean, atol=1e-4)


def test_the_raw_loss_is_the_weighted_noise_loss():
    """Equation 5: (σ² + σ_d²)·‖ε - ε_θ‖² = σ_d²·‖F - F*‖²."""
    scheduler, clean, noise, raw = TempoSyncScheduler(), *torch.randn(3, 2, 3, 4, 4)
    sigmas = torch.tensor([0.3, 2.0])
    noisy = scheduler.corrupt(clean, noise, sigmas)
    estimate = scheduler.pred_original(raw, noisy, sigmas)
    spread = sigmas[:, None, None, None]
    noise_error = (noise - (noisy - estimate) / spread).square() * (spread**2 + scheduler.config.sigma_data**2)
    loss = denoising_loss(raw, clean, noisy, sigmas, torch.ones(1), scheduler)
    assert loss.item() == pytest.approx(noise_error.mean().item(), rel=1e-3)


def test_losses_match_their_formulas():
    zero, one = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert charbonnier(one, zero, 1e-3).item() == pytest.approx(1, abs=1e-5)
    assert gradient_difference(one, zero) == 0
    ramp = torch.arange(4.0).expand(1, 3, 4, 4)
    assert gradient_difference(ramp, zero).item() == pytest.approx(1)
    weight = torch.tensor([1.0, 0, 0, 0]).expand(1, 1, 4, 4)
    assert weighted_mse(ramp + 1, zero, weight).item() == pytest.approx(1)
    assert pseudo_huber(one, zero, torch.ones(1), c=0.5).item() == pytest.approx(1.25**0.5 - 0.5)


def test_training_resumes_where_it_stopped(cache_folder, tmp_path):
    settings = TINY | {"data": str(cache_folder), "output": str(tmp_path / "run"), "validation_steps": (1,), "validation_count": 2,
                       "identity_encoder": str(cache_folder), "temporal_weight": 0.0}
    teacher.train(teacher.Config(max_steps=3, **settings))
    teacher.train(teacher.Config(max_steps=5, resume=True, **settings))
    assert load_checkpoint(tmp_path / "run" / "checkpoint")["step"] == 5


def test_autoencoder_stage_improves_and_records_its_latents(tmp_path):
    crops = np.stack([np.roll(picture(), 16 * t, axis=0) for t in range(6)])
    for split in ("train", "val"):
        np.save(tmp_path / f"portraits_{split}.npy", crops)
        np.save(tmp_path / f"talkers_{split}.npy", crops)
    tiny_vae().save_pretrained(tmp_path / "init")
    config = autoencoder.Config(data=str(tmp_path), output=str(tmp_path / "run"), init=str(tmp_path / "init"), max_steps=2, batch_size=2,
                                mixed_precision="no", sources={"portraits": 0.5, "talkers": 0.5}, warmup_steps=1, window=64)
    figures = autoencoder.train(config)
    loaded = autoencoder.AutoencoderTempoSync.from_pretrained(tmp_path / "run" / "vae")
    assert len(loaded.config.latents_mean) == 32 and all(value > 0 for value in loaded.config.latents_std)
    assert figures["psnr"] > 0


def test_evaluate_denoiser_applies_the_boundary_condition():
    denoiser, scheduler = tiny_denoiser(), TempoSyncScheduler()
    noisy = torch.randn(1, 32, 10, 12)
    given = Conditions(noisy, noisy, torch.zeros(1, 11, 15), torch.zeros(1, 128))
    with torch.no_grad():
        _, clean = evaluate_denoiser(denoiser, scheduler, noisy, torch.tensor([1e-4]), given)
    assert torch.allclose(clean, noisy, atol=1e-2)


@pytest.mark.parametrize("path", sorted((Path(__file__).parent.parent / "examples" / "train").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_settings_fit_their_stages(path):
    stage = path.read_text().split("temposync train ")[1].split()[0]
    module = import_module(f"temposync_pipeline.training.{stage}")
    assert build_config(module.Config, read_settings(path, []))
