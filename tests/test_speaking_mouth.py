"""What the denoiser computes, and how often."""

import numpy as np
import pytest
import torch

from temposync_pipeline import TempoSyncPipeline
from temposync_pipeline.pipelines.sampling import Sampling
from temposync_pipeline.pipelines.speech import Speech

from .tiny_components import picture, tiny_pipeline

pytestmark = pytest.mark.makes_videos

STEPS = 3


def speech(frames: int, seed: int) -> Speech:
    visemes = np.random.default_rng(seed).random((frames, 15)).astype(np.float32)
    return Speech(visemes / visemes.sum(1, keepdims=True))


@pytest.fixture(scope="module")
def pipeline() -> TempoSyncPipeline:
    pipeline = TempoSyncPipeline(**tiny_pipeline().components, latent_smoothing=1.5)
    pipeline.use_bfloat16 = False  # which rounds a frame alone in another way than one among others
    return pipeline


@pytest.fixture
def mouth(pipeline):
    """Makes mouths that know of no speech yet."""
    with torch.inference_mode():
        portrait = pipeline.prepare_portrait(picture(200, 300))
        noise = pipeline.prepare_latents(STEPS, torch.Generator().manual_seed(7))
        return lambda: pipeline._mouth(portrait, noise, pipeline._sampling(STEPS, 16))


@pytest.fixture
def asked(pipeline):
    """Of how many frames the denoiser was asked, at each of its calls."""
    counts = []
    hook = pipeline.denoiser.register_forward_pre_hook(lambda network, positional: counts.append(len(positional[0])))
    yield counts
    hook.remove()


@torch.inference_mode()
def test_neighbours_that_two_chunks_share_are_denoised_once(mouth, asked):
    speaking, said = mouth(), speech(64, 0)
    assert asked == STEPS * [1]  # in silence, one frame is as good as many
    asked.clear()
    chunks = [speaking(said, range(start, start + 16)) for start in range(0, 64, 16)]
    # The first step is that of silence. Of frames -4 to 20 every second; then of 20 to 36, and so on.
    assert asked == [12, 16] + 3 * [8, 16]
    assert torch.allclose(torch.cat(chunks), mouth()(said, range(64)), atol=1e-4)


@torch.inference_mode()
def test_frames_may_be_asked_for_one_by_one_again_and_out_of_order(mouth, asked):
    speaking, said = mouth(), speech(32, 0)
    whole = mouth()(said, range(32))
    single = [range(index, index + 1) for index in range(8)]
    for frames in (*single, range(6, 20), range(10, 14), range(10, 14), range(0, 9), range(30, 32)):
        assert torch.allclose(speaking(said, frames), whole[frames.start:frames.stop], atol=1e-4)
    asked.clear()
    speaking(said, range(30, 32))
    assert asked == [2]  # only the last step is new


@torch.inference_mode()
def test_what_another_speech_says_is_not_mixed_in(mouth):
    speaking, one, other = mouth(), speech(32, 0), speech(32, 1)
    speaking(one, range(16))
    assert torch.equal(speaking(other, range(16, 32)), mouth()(other, range(16, 32)))


def test_the_first_frames_come_early_where_that_changes_no_picture():
    sampling = Sampling(None, 4, None, 16, "mouth")
    assert list(sampling.chunks(40)) == [range(8), range(8, 24), range(24, 40)] and list(sampling.chunks(5)) == [range(5)]
    sampling.chunk_size = 12
    assert list(sampling.chunks(20)) == [range(12), range(12, 20)]
    sampling.chunk_size, sampling.callback = 16, print
    assert list(sampling.chunks(20)) == [range(16), range(16, 20)]
