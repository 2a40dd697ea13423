"""Asynchronous flow matching in closed form: a model that knows the answer lands on it, and clips meet."""

import pytest
import torch

from temposync_pipeline.models.transformer_talking_head import TalkingHeadOutput
from temposync_pipeline.pipelines.read_sampling import Guidance, clip_count, denoise_clips
from temposync_pipeline.schedulers.scheduling_async_flow_match import AsyncFlowMatchScheduler, waves


def test_levels_fall_from_one_to_zero_and_are_shifted():
    levels = AsyncFlowMatchScheduler(shift=3.0).levels(4)
    even = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    assert torch.allclose(levels, 3 * even / (1 + 2 * even))
    assert torch.equal(AsyncFlowMatchScheduler(shift=1.0).levels(4), even)


def test_noise_is_added_frame_by_frame():
    scheduler, clean, noise = AsyncFlowMatchScheduler(), torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    noisy = scheduler.add_noise(clean, noise, torch.tensor([[0.0, 1.0], [0.25, 0.5]]))
    assert torch.equal(noisy[0, :, 0], clean[0, :, 0]) and torch.allclose(noisy[0, :, 1], noise[0, :, 1])
    assert torch.allclose(noisy[1, :, 0], 0.75 * clean[1, :, 0] + 0.25 * noise[1, :, 0], atol=1e-6)


def test_the_true_velocity_leads_from_any_level_to_any_other():
    scheduler, clean, noise = AsyncFlowMatchScheduler(), torch.randn(1, 3, 3, 4, 4), torch.randn(1, 3, 3, 4, 4)
    now, following = torch.tensor([[0.3, 0.9, 0.9]]), torch.tensor([[0.3, 0.4, 0.0]])
    out = scheduler.step(noise - clean, now, scheduler.add_noise(clean, noise, now), following)
    assert torch.allclose(out.prev_sample, scheduler.add_noise(clean, noise, following), atol=1e-5)
    assert torch.allclose(out.pred_original_sample, clean, atol=1e-5)
    previous, original = scheduler.step(noise - clean, now, scheduler.add_noise(clean, noise, now), following, return_dict=False)
    assert torch.equal(previous, out.prev_sample) and torch.equal(original, out.pred_original_sample)


def test_levels_out_of_order_are_refused():
    scheduler, sample = AsyncFlowMatchScheduler(), torch.zeros(1, 3, 2, 4, 4)
    with pytest.raises(ValueError, match="above"):
        scheduler.step(sample, torch.tensor([[0.2, 0.2]]), sample, torch.tensor([[0.2, 0.3]]))
    with pytest.raises(ValueError, match="levels must be"):
        scheduler.step(sample, torch.tensor([0.2]), sample, torch.tensor([0.1]))


def test_the_motion_frame_is_one_level_ahead():
    scheduler = AsyncFlowMatchScheduler(shift=1.0)
    now, following = scheduler.clip_levels(scheduler.levels(4), torch.tensor([0, 1]), torch.tensor([2, 1]), 3)
    assert torch.allclose(now, torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.75, 0.75]]))
    assert torch.allclose(following, torch.tensor([[0.25, 0.25, 0.25], [0.5, 0.5, 0.5]]))


def test_every_step_waits_for_the_clip_before_and_all_are_taken():
    done = set()
    for wave in waves(5, 3):
        assert len(wave) <= 3
        for clip, step in wave:
            assert (step == 0 or (clip, step - 1) in done) and (clip == 0 or (clip - 1, step) in done)
        done |= set(wave)
    assert done == {(clip, step) for clip in range(5) for step in range(3)}


class Oracle:
    """Knows each moment's latents: they are what is heard there."""

    def __call__(self, sample, timestep, reference, speech, given_reference, given_speech):
        clean = speech[:, :, 0, 0][:, None, :, None, None].expand_as(sample)
        level = timestep[:, None, :, None, None].clamp(min=1e-6)
        return TalkingHeadOutput(sample=torch.where(level > 1e-5, (sample - clean) / level, torch.zeros_like(sample)))


@pytest.mark.parametrize("together", [True, False])
def test_clips_join_to_the_whole_of_what_was_said(together):
    codes = torch.arange(9.0)[None, :, None, None].expand(1, 9, 2, 3)
    assert clip_count(9, 3) == 4 and clip_count(1, 3) == 1
    parts = list(denoise_clips(Oracle(), AsyncFlowMatchScheduler(), torch.zeros(1, 2, 4, 4), codes, lambda: torch.randn(1, 2, 3, 2, 2),
                               4, 3, together=together))
    assert [part.shape[2] for part in parts] == [3, 2, 2, 2]
    assert torch.allclose(torch.cat(parts, 2)[0, 0, :, 0, 0], torch.arange(9.0), atol=1e-4)


def test_guidance_in_closed_form_and_only_what_it_needs():
    asked = []

    def velocity(portrait, speech):
        asked.append((portrait, speech))
        return torch.tensor({(True, True): 5.0, (True, False): 2.0, (False, False): 1.0}[portrait, speech])

    assert Guidance()(velocity) == 5 and asked == [(True, True)]
    assert Guidance(3.0)(velocity) == 1 + 3 * (5 - 1)
    assert Guidance(2.0, 6.0)(velocity) == 1 + 2 * (2 - 1) + 6 * (5 - 2)
    assert Guidance(1.0, 6.0)(velocity) == 2 + 6 * (5 - 2)
