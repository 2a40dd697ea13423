import csv

import numpy as np
import pytest
import torch

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.models.conditioning import viseme_windows
from temposync_pipeline.models.identity_encoder import IdentityEncoder
from temposync_pipeline.models.sync_expert import SyncExpert
from temposync_pipeline.schedulers.scheduling_temposync import TempoSyncScheduler
from temposync_pipeline.training import student, teacher
from temposync_pipeline.training.adversarial import LatentDiscriminator, adversarial_terms
from temposync_pipeline.training.denoising import (
    conditions,
    identity_term,
    load_component,
    mix_in_rollouts,
    perturb_visemes,
    replace_references,
)
from temposync_pipeline.training.distillation import (
    discretization_at,
    equal_change_sigmas,
    estimate_changes,
    neighbouring_sigmas,
    teacher_ode_step,
)
from temposync_pipeline.training.latent_cache import LatentCache, LatentCacheWriter
from temposync_pipeline.training.sequence_terms import SequenceTerms, draw_sequence

from .tiny_components import picture, tiny_denoiser, tiny_vae

FRAMES = 30
TINY = {"block_out_channels": (32, 32), "layers_per_block": (1, 1), "mid_layers": 1, "embedding_channels": 32, "batch_size": 8,
        "mixed_precision": "no", "max_minutes": 5.0, "warmup_steps": 1, "sources": {"talkers": 1.0}, "validation_sources": {"talkers": 1.0},
        "learning_rate": 3e-3, "validation_count": 8}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A cache of one talker's clip with sound, and the frozen networks the stages ask for."""
    folder = tmp_path_factory.mktemp("latents")
    writer = LatentCacheWriter(tiny_vae())
    crops = np.stack([np.roll(picture(), 20 * t, axis=1) for t in range(FRAMES)])
    writer.add(crops, viseme_windows(np.eye(15, dtype=np.float32)[np.arange(FRAMES) % 15], 11))
    writer.write(folder / "talkers.safetensors")
    IdentityEncoder().save_pretrained(folder / "identity_encoder")
    tiny_vae().save_pretrained(folder / "vae")
    SyncExpert().save_pretrained(folder / "sync_expert")
    return folder


def test_neighbouring_sigmas_bracket():
    grid = TempoSyncScheduler().sigma_schedule(10)[:-1]
    above, below = neighbouring_sigmas(torch.tensor([0.02, 0.5, 3.3, 10.0]), grid)
    assert (above >= torch.tensor([0.02, 0.5, 3.3, 10.0])).all() and (below < above).all()
    index = torch.searchsorted(-grid, -above)
    assert torch.equal(grid[index + 1], below)


def test_teacher_ode_step_stays_on_the_ray_to_the_clean_estimate():
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    above, below = torch.tensor([8.0, 2.0]), torch.tensor([4.0, 0.5])
    moved = teacher_ode_step(clean + above[:, None, None, None] * noise, clean, above, below)
    assert torch.allclose(moved, clean + below[:, None, None, None] * noise, atol=1e-5)


def test_discretization_doubles_in_equal_shares_of_the_run():
    assert [discretization_at(progress, 9, 36) for progress in (0, 0.32, 0.34, 0.65, 0.67, 1.0)] == [9, 9, 18, 18, 36, 36]
    assert discretization_at(0.5, 10, 10) == 10 and discretization_at(0.99, 9, 30) == 18 and discretization_at(1.0, 9, 40) == 36
    with pytest.raises(ValueError, match="discretization"):
        discretization_at(0.5, 1, 10)


def test_few_steps_share_the_change_equally():
    grid = torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0])
    assert equal_change_sigmas(grid, torch.ones(4), 4) == pytest.approx([16, 8, 4, 2])
    assert equal_change_sigmas(grid, torch.ones(4), 1) == [16]
    assert equal_change_sigmas(grid, torch.tensor([0.0, 0.0, 1.0, 0.0]), 2) == pytest.approx([4, 4 / 2**0.5], rel=1e-3)


def test_changes_are_measured_between_neighbouring_noise_levels():
    """With f(z̃, σ) = σ·1 every change is the difference of the levels, whatever the sample."""
    grid, clean = torch.tensor([4.0, 3.0, 1.0]), torch.randn(5, 2, 3, 3)
    changes = estimate_changes(lambda noisy, sigmas: sigmas[:, None, None, None].expand_as(noisy), clean, torch.randn_like(clean), grid,
                               torch.rand(1, 1, 3, 3))
    assert changes.tolist() == pytest.approx([1, 2])


def test_the_scheduler_takes_placed_levels_and_keeps_the_formula_for_others(tmp_path):
    TempoSyncScheduler(few_step_sigmas={"2": [10.0, 1.5]}).save_pretrained(tmp_path)
    scheduler = TempoSyncScheduler.from_pretrained(tmp_path)
    scheduler.set_timesteps(2)
    assert scheduler.sigmas.tolist() == [10.0, 1.5, 0.0]
    scheduler.set_timesteps(3)
    assert torch.equal(scheduler.sigmas[:-1], scheduler.sigma_schedule(4)[:3])


def test_replaced_references_keep_the_mouths_residual(runs):
    batch = LatentCache(runs, {"talkers": 1.0}).draw(8)
    same, nobody = replace_references(batch, 0.0)
    assert not nobody.any() and torch.equal(same.reference, batch.reference)
    changed, everybody = replace_references(batch, 1.0)
    assert everybody.all() and torch.allclose(changed.residual, batch.residual, atol=1e-5)
    assert torch.equal(changed.visemes, batch.visemes)
    sources = [torch.nonzero((batch.reference_full == full).flatten(1).all(1)).flatten().tolist() for full in changed.reference_full]
    assert all(found for found in sources)


def test_perturbed_visemes_stay_probabilities_and_mostly_the_same():
    visemes = torch.eye(15)[torch.arange(40) % 15][:, None].expand(-1, 11, -1).clone()
    visemes[3] = 0
    assert torch.allclose(perturb_visemes(visemes, 0.0), visemes, atol=0.02)
    perturbed = perturb_visemes(visemes, 0.7)
    assert not perturbed[3].any() and not torch.equal(perturbed, visemes)
    others = torch.arange(40) != 3
    assert torch.allclose(perturbed[others].sum(-1), torch.ones(39, 11), atol=1e-5)
    assert (perturbed.argmax(-1) == visemes.argmax(-1))[others].float().mean() > 0.98


def test_rollouts_hold_what_the_denoiser_says_and_nothing_of_the_data(runs):
    batch, scheduler, denoiser = LatentCache(runs, {"talkers": 1.0}).draw(8), TempoSyncScheduler(), tiny_denoiser()
    clean, given = batch.residual, conditions(batch, load_component(IdentityEncoder, str(runs), "identity_encoder", "cpu"))
    assert mix_in_rollouts(clean, denoiser, scheduler, given, 0.0) is clean

    def rolled(data: torch.Tensor, share: float, frames: int = 1) -> torch.Tensor:
        torch.manual_seed(0)
        return mix_in_rollouts(data, denoiser, scheduler, given, share, frames)

    assert torch.equal(rolled(clean, 1.0), rolled(clean + 1, 1.0)) and not torch.allclose(rolled(clean, 1.0), clean)
    some = (rolled(clean, 0.5) == clean).flatten(1).all(1)
    assert some.any() and not some.all()
    first, second = (rolled(clean, 0.5, 2) == clean).flatten(1).all(1).unflatten(0, (-1, 2)).T
    assert torch.equal(first, second) and first.any() and not first.all()


def test_identity_term_is_zero_for_the_reference_itself(runs):
    encoder = load_component(IdentityEncoder, str(runs), "identity_encoder", "cpu")
    batch = LatentCache(runs, {"talkers": 1.0}).draw(4)
    given = conditions(batch, encoder)
    assert identity_term(torch.zeros_like(batch.target), batch, given, encoder, 0.7).item() == pytest.approx(0, abs=1e-5)
    assert identity_term(torch.randn_like(batch.target), batch, given, encoder, 0.7) > 1e-4


def test_a_missing_component_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match="nowhere.*identity_encoder"):
        load_component(IdentityEncoder, str(tmp_path / "nowhere"), "identity_encoder", "cpu")


def test_a_sequence_is_consecutive_with_one_reference(runs):
    cache = LatentCache(runs, {"talkers": 1.0})
    latents = cache.sources["talkers"]["latents"]
    cache.sources["talkers"]["mel"] = torch.arange(FRAMES).half()[:, None, None].expand(-1, 4, 80)
    for _ in range(5):
        batch, mel = draw_sequence(cache, 6, with_sound=True)
        start = int(mel[0, 0, 0])
        assert mel[:, 0, 0].tolist() == list(range(start, start + 6))
        assert torch.equal(batch.target, latents[start:start + 6, :, 6:16, 2:14].float())
        assert (batch.reference == batch.reference[0]).all() and (batch.context == batch.context[0]).all()
    with pytest.raises(ValueError, match="31 consecutive"):
        draw_sequence(cache, FRAMES + 1)
    del cache.sources["talkers"]["mel"]
    with pytest.raises(ValueError, match="with sound"):
        draw_sequence(cache, 6, with_sound=True)


def test_adversary_and_student_each_get_their_own_gradient():
    torch.manual_seed(0)
    discriminator = LatentDiscriminator(channels=(8, 8, 8))
    generated, real, reference = torch.randn(4, 32, 10, 12, requires_grad=True), torch.randn(4, 32, 10, 12), torch.randn(4, 32, 10, 12)
    student, own = adversarial_terms(discriminator, generated, real, reference, torch.rand(4, 11, 15))
    student.backward(retain_graph=True)
    assert generated.grad.abs().sum() > 0 and all(parameter.grad is None for parameter in discriminator.parameters())
    before = generated.grad.clone()
    own.backward()
    assert torch.equal(generated.grad, before) and all(parameter.grad is not None for parameter in discriminator.parameters())


def test_the_adversary_learns_what_is_real():
    torch.manual_seed(0)
    discriminator = LatentDiscriminator(channels=(8, 8, 8))
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    reference, visemes = torch.zeros(8, 32, 10, 12), torch.zeros(8, 11, 15)
    for _ in range(60):
        generated, real = 0.1 * torch.randn_like(reference), 1 + 0.1 * torch.randn_like(reference)
        student, own = adversarial_terms(discriminator, generated, real, reference, visemes)
        optimizer.zero_grad()
        own.backward()
        optimizer.step()
    assert student > 0.85  # ln 2 = 0.69 where it cannot tell


def last_row(folder) -> dict[str, float]:
    with open(folder / "log.csv", newline="") as file:
        return {name: float(value) for name, value in list(csv.DictReader(file))[-1].items()}


def test_teacher_learns_and_student_follows(runs, tmp_path):
    frozen = {"data": str(runs), "identity_encoder": str(runs), "vae": str(runs)}
    teacher.train(teacher.Config(output=str(tmp_path / "teacher"), max_steps=60, validation_steps=(2,), temporal_weight=0.0,
                                 **frozen, **TINY))
    # An untrained network's raw output is zero: its loss is the variance of the target, about 1.
    assert last_row(tmp_path / "teacher")["loss"] < 0.93
    student.train(student.Config(output=str(tmp_path / "student"), teacher=str(tmp_path / "teacher"), max_steps=60, temporal_weight=0.0,
                                 adapt_steps=(2, 4), **frozen, **TINY))
    row = last_row(tmp_path / "student")
    assert row["distillation"] + row["data"] < 0.93
    assert row["consistency"] > 0 and row["identity"] > 0 and {"talkers_ev1", "talkers_ev4", "talkers_std2"} <= row.keys()
    scheduler = TempoSyncScheduler.from_pretrained(tmp_path / "student" / "scheduler")
    assert set(scheduler.config.few_step_sigmas) == {"2", "4"}
    assert sorted(scheduler.config.few_step_sigmas["4"], reverse=True) == scheduler.config.few_step_sigmas["4"]


@pytest.mark.parametrize("rollout", [0.0, 1.0])
def test_velocity_is_what_a_still_video_changes(runs, rollout):
    """Frames of a video that stands still share their noise: nothing changes."""
    config = student.Config(data=str(runs), temporal_weight=0.0, velocity_weight=1.0, rollout=rollout, viseme_noise=0.0, lip_noise=0.0)
    cache = LatentCache(runs, {"talkers": 1.0})
    encoder = load_component(IdentityEncoder, str(runs), "identity_encoder", torch.device("cpu"))
    terms = SequenceTerms(config, cache, TempoSyncScheduler(prediction="consistency"), encoder, 1.0, torch.device("cpu"))
    denoiser = tiny_denoiser()
    moving = terms(denoiser)["velocity"].item()
    for name in ("latents", "context", "visemes"):
        cache.sources["talkers"][name][:] = cache.sources["talkers"][name][:1].clone()
    assert moving > 1e-4 and terms(denoiser)["velocity"].item() < 1e-9


def test_terms_over_frames_reach_the_student(runs, tmp_path):
    """Three steps with every term, and without a teacher; the cached clip gets a sound."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "cache"
    folder.mkdir()
    save_file(load_file(runs / "talkers.safetensors") | {"mel": torch.randn(FRAMES, 4, 80).half()}, folder / "talkers.safetensors")
    student.train(student.Config(
        output=str(tmp_path / "student"), teacher="", max_steps=3, sequence_every=1, sync_weight=1.0, adversarial_weight=0.1, rollout=0.5,
        velocity_weight=1.0, data=str(folder), identity_encoder=str(runs), vae=str(runs), sync_expert=str(runs), validation_steps=(1,),
        **TINY))
    row = last_row(tmp_path / "student")
    assert row["temporal"] > 0 and row["sync"] > 0 and row["velocity"] > 0 and row["adversarial"] > 0 and row["discriminator"] > 0
    assert "distillation" not in row and "consistency" not in row
