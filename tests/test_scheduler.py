import math

import pytest
import torch

from temposync_pipeline import InvalidInputError
from temposync_pipeline.schedulers.scheduling_temposync import TempoSyncScheduler


def exact_raw_output(scheduler: TempoSyncScheduler, sample: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The network's output for which f is the posterior mean of data ~ N(0, s²): f = s²/(s² + σ²)·z̃, with s = 0.5."""
    c_skip, c_out, _ = scheduler.boundary_coefficients(sigma)
    return (0.25 / (0.25 + sigma**2) - c_skip) * sample / c_out


def test_schedule_has_the_stated_ends_and_spacing():
    sigmas = TempoSyncScheduler(sigma_min=0.02, sigma_max=10.0, rho=7.0).sigma_schedule(5)
    assert sigmas[0] == pytest.approx(10.0) and sigmas[4] == pytest.approx(0.02) and sigmas[5] == 0
    middle = ((10 ** (1 / 7) + 0.02 ** (1 / 7)) / 2) ** 7
    assert sigmas[2] == pytest.approx(middle, rel=1e-5)


def test_boundary_condition_returns_the_sample_without_noise():
    scheduler, sample = TempoSyncScheduler(), torch.randn(2, 3, 4, 4)
    clean = scheduler.pred_original(torch.randn_like(sample), sample, torch.tensor(0.0))
    assert torch.equal(clean, sample)


def test_boundary_coefficients_match_their_formula():
    c_skip, c_out, c_in = TempoSyncScheduler(sigma_data=0.5).boundary_coefficients(torch.tensor(2.0))
    assert c_skip == pytest.approx(0.25 / 4.25)
    assert c_out == c_in == pytest.approx(1 / math.sqrt(4.25))


def test_ode_converges_to_the_closed_form_of_gaussian_data():
    """For data ~ N(0, s²) the probability-flow ODE maps z(σ_max) to z·s/√(s² + σ_max²)."""
    scheduler = TempoSyncScheduler(prediction="ode", sigma_min=1e-3)
    start = torch.randn(1, 4, 3, 3, dtype=torch.float64) * scheduler.init_noise_sigma
    errors = []
    for steps in (50, 400):
        scheduler.set_timesteps(steps)
        sample = start
        for i, timestep in enumerate(scheduler.timesteps):
            sample = scheduler.step(exact_raw_output(scheduler, sample, scheduler.sigmas[i].double()), timestep, sample).prev_sample
        errors.append((sample - start * 0.5 / math.sqrt(0.25 + 100)).abs().max().item())
    assert errors[1] == pytest.approx(errors[0] / 8, rel=0.1) and errors[1] < 1e-2  # first order: eight times the steps


def test_sde_ends_at_the_spread_of_gaussian_data_whatever_it_started_from():
    """Ancestral steps forget where they started: for data ~ N(0, s²) the samples have deviation s, and fresh noise decides which."""
    scheduler = TempoSyncScheduler(prediction="sde", sigma_min=1e-3)
    scheduler.set_timesteps(200)
    generator, start = torch.Generator().manual_seed(0), torch.randn(1, 4, 50, 50) * scheduler.init_noise_sigma
    sample = start
    for i, timestep in enumerate(scheduler.timesteps):
        raw = exact_raw_output(scheduler, sample, scheduler.sigmas[i])
        sample = scheduler.step(raw, timestep, sample, generator=generator).prev_sample
    assert sample.std() == pytest.approx(0.5, rel=0.05)
    assert abs(torch.corrcoef(torch.stack([sample.flatten(), start.flatten()]))[0, 1]) < 0.1


def test_consistency_steps_renoise_the_clean_estimate():
    scheduler = TempoSyncScheduler()
    scheduler.set_timesteps(3)
    clean = torch.randn(2, 2, 4, 4)
    sample = torch.randn(1, 2, 4, 4) * scheduler.init_noise_sigma
    for i, timestep in enumerate(scheduler.timesteps):
        noise = torch.randn(1, 2, 4, 4)
        c_skip, c_out, _ = scheduler.boundary_coefficients(scheduler.sigmas[i])
        output = scheduler.step((clean - c_skip * sample) / c_out, timestep, sample, noise=noise)
        sample = output.prev_sample
        assert torch.allclose(output.pred_original_sample, clean, atol=1e-4)
        assert torch.allclose(sample, clean + scheduler.sigmas[i + 1] * noise, atol=1e-3)
    assert torch.allclose(sample, clean, atol=1e-4)


def test_noise_drawn_by_the_scheduler_is_shared_by_all_frames_and_seeded():
    results = []
    for _ in range(2):
        scheduler = TempoSyncScheduler()
        scheduler.set_timesteps(2)
        sample = torch.ones(3, 2, 4, 4)
        step = scheduler.step(torch.zeros_like(sample), scheduler.timesteps[0], sample, generator=torch.Generator().manual_seed(5))
        results.append(step.prev_sample)
    assert torch.equal(results[0][0], results[0][2]) and torch.equal(*results) and results[0].std() > 0


def test_noise_scales_every_sample_by_its_own_level():
    original, noise, sigmas = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2), torch.tensor([0.5, 3.0])
    scheduler = TempoSyncScheduler()
    for noisy in (scheduler.corrupt(original, noise, sigmas), scheduler.add_noise(original, noise, scheduler.timestep(sigmas))):
        assert torch.allclose(noisy.amax((1, 2, 3)), sigmas, rtol=1e-5) and torch.equal(noisy, noisy[:, :, :1, :1].expand_as(noisy))


def test_steps_go_by_their_timestep_and_in_order():
    scheduler, sample = TempoSyncScheduler(), torch.randn(1, 2, 4, 4)
    with pytest.raises(InvalidInputError, match="call set_timesteps first"):
        scheduler.step(sample, torch.tensor(0.1), sample)
    scheduler.set_timesteps(4)
    start = scheduler.timesteps[2]  # as image-to-image would, from the middle
    assert torch.equal(scheduler.scale_model_input(sample, start), sample * scheduler.boundary_coefficients(scheduler.sigmas[2])[2])
    taken = scheduler.step(torch.zeros_like(sample), start, sample, noise=torch.zeros_like(sample))
    assert torch.equal(taken.pred_original_sample, scheduler.pred_original(torch.zeros_like(sample), sample, scheduler.sigmas[2]))
    for wrong, message in ((start, "step 3 of 4 out of order"), (scheduler.timesteps[0], "step 1 of 4 out of order"), (7, "not one of")):
        with pytest.raises(InvalidInputError, match=message):
            scheduler.step(sample, wrong, sample)
    scheduler.step(sample, float(scheduler.timesteps[3]), sample)
    scheduler.set_timesteps(4)
    scheduler.step(sample, scheduler.timesteps[0], sample)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_every_number_of_steps_starts_at_full_noise(steps):
    scheduler = TempoSyncScheduler()
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps == len(scheduler) and scheduler.sigmas[0] == pytest.approx(10.0)
    assert (scheduler.sigmas.diff() < 0).all() and scheduler.sigmas[-1] == 0


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="num_inference_steps"):
        TempoSyncScheduler().set_timesteps(0)
    with pytest.raises(ValueError, match="prediction"):
        TempoSyncScheduler(prediction="magic")


def test_config_round_trip(tmp_path):
    TempoSyncScheduler(sigma_max=5.0, prediction="ode").save_pretrained(tmp_path)
    loaded = TempoSyncScheduler.from_pretrained(tmp_path)
    assert loaded.config.sigma_max == 5.0 and loaded.config.prediction == "ode" and loaded.init_noise_sigma == 5.0
