"""What a denoiser makes of true frames, for those who learn to decode it."""

import numpy as np
import pytest

from temposync_pipeline.data.denoised_latents import ENCODED, MUCH_NOISE, NUM_WAYS, VOICE_ALONE, Voice, as_int8
from temposync_pipeline.data.manifest import Clip
from temposync_pipeline.media.video import VideoWriter
from temposync_pipeline.models.conditioning import encode_crops, latent_window

from .tiny_components import whole_pipeline

FRAMES = np.array([3, 4, 9])


@pytest.fixture(scope="module")
def pipe():
    pipe = whole_pipeline()
    pipe.vae.register_to_config(latents_std=[0.02] * 32)  # untrained, its latents are small
    return pipe


@pytest.fixture
def voice(pipe, make_speech, tmp_path) -> Voice:
    with VideoWriter(tmp_path / "clip.mp4", audio_path=make_speech("speech.wav")) as writer:
        for _ in range(25):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    return Voice(pipe, Clip("talker_clip", "talker", tmp_path / "clip.mp4", "train"))


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1 + len(FRAMES), 256, 256, 3)).astype(np.uint8)


def test_the_first_way_is_the_encoders_and_much_noise_keeps_nearer_to_it_than_the_voice_alone(pipe, voice, crops):
    still, latents = voice.latents(crops[0], crops[1:], FRAMES, np.random.default_rng(0))
    assert latents.shape == (3, NUM_WAYS, 32, 10, 12) and latents.dtype == still.dtype == np.int8
    encoded = as_int8(latent_window(encode_crops(pipe.vae, crops).float()))
    # The frames' are stored as they differ from the reference's.
    assert np.array_equal(still, encoded[0]) and np.abs(latents[:, ENCODED].astype(int) - encoded[1:]).max() <= 1
    again = voice.latents(crops[0], crops[1:], FRAMES, np.random.default_rng(0))[1]
    assert np.array_equal(latents, again)
    off = [np.abs(latents[:, way].astype(int) - latents[:, ENCODED]).mean() for way in (MUCH_NOISE, VOICE_ALONE)]
    assert 0 < off[0] < off[1]


def test_lips_that_are_known_are_told_to_the_denoiser_instead_of_those_that_are_heard(voice, crops):
    heard = voice.speech.lips[FRAMES]
    ways = [voice.latents(crops[0], crops[1:], FRAMES, np.random.default_rng(0), lips)[1] for lips in (None, heard, heard + 3)]
    assert np.array_equal(ways[0], ways[1])
    assert np.array_equal(ways[0][:, ENCODED], ways[2][:, ENCODED]) and not np.array_equal(ways[0][:, VOICE_ALONE], ways[2][:, VOICE_ALONE])
