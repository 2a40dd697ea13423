"""AsymTalker with tiny random networks: its scheduler in closed form, the portrait's latents, chunks without end, the shared contract."""

import itertools

import numpy as np
import pytest
import torch

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.models.autoencoder_temporal import AutoencoderTemporal
from temposync_pipeline.models.transformer_talking_head import TalkingHeadTransformer
from temposync_pipeline.pipelines.asymtalker_sampling import denoise_chunk, kernel_video_frames, next_kernel, speak_in_chunks
from temposync_pipeline.pipelines.auto import load_pipeline
from temposync_pipeline.pipelines.latent_video import LatentVideo
from temposync_pipeline.pipelines.pipeline_asymtalker import AsymTalkerPipeline
from temposync_pipeline.schedulers.scheduling_chunked_flow_match import ChunkedFlowMatchScheduler

from .tiny_components import picture, spoken, tiny_asymtalker_pipeline

pytestmark = pytest.mark.makes_videos

PHOTO = picture(300, 260)
SPEECH = spoken(0.8)


@pytest.fixture(scope="module")
def pipeline() -> AsymTalkerPipeline:
    return tiny_asymtalker_pipeline()


def run(pipeline, **changes):
    arguments = {"image": PHOTO, "audio": SPEECH, "num_inference_steps": 2, "output_type": "np",
                 "generator": torch.Generator().manual_seed(7)} | changes
    return pipeline(**arguments)


def as_bytes(frames: np.ndarray) -> np.ndarray:
    return np.rint(255 * frames).astype(np.uint8)


def test_levels_are_those_of_the_paper():
    scheduler = ChunkedFlowMatchScheduler(shift=5.0)
    assert scheduler.levels(4).tolist() == pytest.approx([1, 0.9375, 0.8333333, 0.625, 0])
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == pytest.approx([1, 0.8333333])


def test_a_step_estimates_what_is_clean_and_takes_noise_anew():
    scheduler = ChunkedFlowMatchScheduler(kernel_frames=2)
    clean, old, new = (torch.randn(3, 4, 5, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    now, then = (scheduler.frame_levels(torch.tensor(levels), 5) for levels in ([0.9, 0.5, 0.2], [0.4, 0.3, 0.0]))
    assert (now[:, :2] == 0).all() and now[0, 2:].tolist() == pytest.approx([0.9] * 3)
    sample = scheduler.add_noise(clean, old, now)
    assert torch.equal(sample[:, :, :2], clean[:, :, :2])
    out = scheduler.step(old - clean, now, sample, then, new)
    assert torch.allclose(out.pred_original_sample, clean, atol=1e-6)
    assert torch.allclose(out.prev_sample[0, :, 2:], 0.6 * clean[0, :, 2:] + 0.4 * new[0, :, 2:], atol=1e-6)
    assert torch.equal(out.prev_sample[:, :, :2], sample[:, :, :2]) and torch.allclose(out.prev_sample[2], clean[2], atol=1e-6)
    assert torch.equal(scheduler.step(old - clean, now, sample, then, new, return_dict=False)[0], out.prev_sample)
    with pytest.raises(ValueError, match="above its own"):
        scheduler.step(old, then, sample, now, new)
    with pytest.raises(ValueError, match="levels must be"):
        scheduler.step(old, now[:1], sample, then[:1], new)


def test_the_true_velocity_leads_to_the_data_in_one_step_and_in_many():
    """For data that are one point the velocity is (z(t) - z) / t; the kernel stays to the bit."""
    scheduler, point = ChunkedFlowMatchScheduler(kernel_frames=2), torch.randn(1, 4, 5, 2, 2)

    class Exact(torch.nn.Module):
        def forward(self, sample, timestep, reference, speech, *given):
            level = timestep[:, None, :, None, None]
            return type("Output", (), {"sample": torch.where(level > 0, (sample - point) / level.clamp(min=1e-6), torch.zeros(()))})

    kernel = torch.randn(1, 4, 2, 2, 2)
    for steps in (1, 2, 4):
        made, whole = denoise_chunk(Exact(), scheduler, kernel, torch.zeros(1, 4, 5, 2, 2), torch.zeros(1, 5, 1, 1),
                                    lambda: torch.randn(1, 4, 3, 2, 2), scheduler.levels(steps))
        assert whole and torch.equal(made[:, :, :2], kernel) and torch.allclose(made[:, :, 2:], point[:, :, 2:], atol=1e-4)


@pytest.fixture(scope="module")
def temporal() -> AutoencoderTemporal:
    torch.manual_seed(1)
    model = AutoencoderTemporal(channels=4, latent_channels=6, frame_channels=8, width=8).eval()
    for part in (model.encoder.mix.previous, model.decoder.mix.previous):
        torch.nn.init.normal_(part.weight, std=0.3)
    return model


@torch.inference_mode()
def test_a_still_portrait_is_not_one_frames_latent_repeated_and_says_who_it_is(temporal):
    portraits = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    coded = temporal.encode_portrait(portraits, 25)
    assert coded.shape == (4, 6, 4, 8, 8) and torch.allclose(coded.std((1, 2, 3, 4)), torch.ones(4), atol=1e-4)
    single = temporal.encode_portrait(portraits, 1)
    assert (coded - single.expand_as(coded)).std() > 0.05
    assert temporal.encode(portraits[:, :, None].expand(-1, -1, 25, -1, -1), portraits).latent.abs().max() < 1e-5  # a residual says nothing
    again = temporal.encode_portrait(portraits + 0.3 * torch.randn_like(portraits), 25)
    likeness = torch.nn.functional.normalize(coded.flatten(1), dim=1) @ torch.nn.functional.normalize(again.flatten(1), dim=1).T
    assert likeness.argmax(1).tolist() == [0, 1, 2, 3] and likeness.diag().min() > likeness.fill_diagonal_(-1).max()


@torch.inference_mode()
def test_the_transformer_hears_each_frame_its_own_code_and_sees_the_portrait():
    torch.manual_seed(2)
    model = TalkingHeadTransformer(latent_channels=6, channels=16, num_layers=1, num_heads=2, speech_channels=4, portrait_channels=6)
    for layer in (model.leave, model.blocks[0].heard):
        torch.nn.init.normal_(layer.weight, std=0.5)
    sample, portrait, speech, levels = torch.randn(2, 6, 3, 8, 8), torch.randn(2, 6, 3, 8, 8), torch.randn(2, 3, 2, 4), torch.rand(2, 3)
    out = model(sample, levels, portrait, speech).sample
    assert out.shape == sample.shape and not torch.equal(out, model(sample, levels, portrait.flip(0), speech).sample)
    other = speech.clone()
    other[:, 1] += 1
    changed = (model(sample, levels, portrait, other).sample - out).abs().amax((0, 1, 3, 4))
    assert changed[0] == changed[2] == 0 and changed[1] > 0  # in one layer, what one frame hears reaches no other
    unseen = torch.zeros(2, dtype=torch.bool)
    assert torch.equal(model(sample, levels, portrait, speech, given_reference=unseen).sample,
                       model(sample, levels, torch.zeros_like(portrait), speech).sample)


@torch.inference_mode()
def test_a_kernel_is_the_end_of_the_video_so_far_coded_as_a_beginning(temporal):
    reference, frames = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 41, 16, 16)
    assert kernel_video_frames(3) == 17
    kernel = next_kernel(temporal, frames, reference, 3)
    assert torch.equal(kernel, temporal.encode(frames[:, :, 24:], reference).latent)
    changed = frames.clone()
    changed[:, :, :24] += 1
    assert torch.equal(next_kernel(temporal, changed, reference, 3), kernel)


def test_chunks_leave_one_by_one_without_end_and_depend_on_what_was_before(pipeline):
    asked = 0

    def codes():
        nonlocal asked
        while True:
            asked += 1
            yield torch.zeros(1, 3, 2, 4)

    reference = torch.randn(1, 32, 16, 16, generator=torch.Generator().manual_seed(0))

    def chunks(first: float, recode: bool = True):
        generator = torch.Generator().manual_seed(1)
        noises = iter(lambda: torch.randn(1, 8, 1, 8, 8, generator=generator), None)
        held = itertools.chain([first * next(noises), torch.zeros(1, 8, 1, 8, 8)], noises)
        return speak_in_chunks(pipeline.transformer, pipeline.scheduler, pipeline.temporal_vae, reference, codes(), lambda: next(held), 2,
                               recode)

    endless = chunks(1.0)
    first = next(endless)
    assert asked == 1 and first.shape == (8, 32, 16, 16)
    second = next(endless)
    assert asked == 2
    assert not torch.equal(list(itertools.islice(chunks(2.0), 2))[1], second)
    assert not torch.equal(list(itertools.islice(chunks(1.0, recode=False), 2))[1], second)


def test_the_face_moves_by_seed_and_streams_are_the_same_frames(pipeline):
    frames = run(pipeline).frames
    assert frames.shape == (20, *PHOTO.shape) and pipeline.joints(20).tolist() == [8, 16]
    changed = (as_bytes(frames) != PHOTO).any((0, 3))
    assert changed[:100].any() and not changed[-30:].any()
    assert np.array_equal(run(pipeline).frames, frames)
    assert not np.array_equal(run(pipeline, generator=torch.Generator().manual_seed(8)).frames, frames)
    streamed = list(pipeline.stream(PHOTO, SPEECH, 2, torch.Generator().manual_seed(7), chunk_size=8))
    assert [len(piece) for piece in streamed] == [8, 8, 4]
    assert np.array_equal(np.concatenate(streamed), as_bytes(run(pipeline, chunk_size=8).frames))
    assert np.array_equal(as_bytes(run(pipeline, mouth_amplitude=0.0).frames), np.broadcast_to(PHOTO, frames.shape))
    assert not np.array_equal(run(pipeline, recode=False).frames, frames)


def test_a_longer_recording_begins_like_a_shorter_one(pipeline):
    """Causal: what is said later changes nothing that is shown before its chunk."""
    speech = pipeline._hear_samples(spoken(2.0)[0], 50)
    codes = [code for code in pipeline._codes(speech)]
    assert len(codes) == 7 and all(code.shape == (1, 3, 2, 4) for code in codes)
    shorter = [code for code in pipeline._codes(speech[:24])]
    assert len(shorter) == 3 and all(torch.equal(*pair) for pair in zip(shorter, codes))


def test_callbacks_latents_and_interruption(pipeline):
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append((step, timestep.shape, tensors["latents"].shape))
        pipe._interrupt = len(seen) == 4
        return {}

    frames = run(pipeline, callback_on_step_end=look).frames
    assert seen == [(step, (1, 3), (1, 8, 3, 8, 8)) for step in (0, 1, 0, 1)] and len(frames) == 16
    noise = torch.randn(1, 8, 1, 8, 8)
    assert np.array_equal(run(pipeline, latents=noise).frames, run(pipeline, latents=noise, generator=None).frames)
    with pytest.raises(InvalidInputError, match="latents"):
        run(pipeline, latents=noise[:, :, :0])


def test_saved_loaded_and_used_by_the_command(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    again = load_pipeline(tmp_path / "model")
    assert isinstance(again, AsymTalkerPipeline) and again.config.chunk_frames == 3 and again.scheduler.config.kernel_frames == 2
    again.set_progress_bar_config(disable=True)
    again.face_aligner.detect = pipeline.face_aligner.detect
    assert np.array_equal(run(again).frames, run(pipeline).frames)
    output = run(pipeline, output_type="latent")
    output.save_latents(tmp_path / "video.safetensors")
    video = LatentVideo.load(tmp_path / "video.safetensors")
    assert np.array_equal(np.concatenate(list(pipeline.decode_latents(video))), as_bytes(run(pipeline).frames))


def test_a_chunk_must_add_something():
    parts = tiny_asymtalker_pipeline().components
    with pytest.raises(InvalidInputError, match="not more than the kernel's 2"):
        AsymTalkerPipeline(**parts, chunk_frames=2)
