"""A recording is heard no further than frames ask for, and what is heard is the same."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from temposync_pipeline import TempoSyncPipeline
from temposync_pipeline.face.lip_shape import NUM_LIP_SHAPE
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.models.lip_motion import LipMotion

from .tiny_components import picture, ready, spoken, tiny_denoiser, tiny_pipeline

pytestmark = pytest.mark.makes_videos

SECONDS = 20


@pytest.fixture(scope="module")
def pipeline() -> TempoSyncPipeline:
    torch.manual_seed(0)
    lip_motion = LipMotion(32, channels=16, num_layers=2, kernel_size=3).eval()
    components = tiny_pipeline().components | {"lip_motion": lip_motion, "denoiser": tiny_denoiser(lip_shape_values=NUM_LIP_SHAPE)}
    pipeline = TempoSyncPipeline(**components, viseme_smoothing=1.0, lip_sharpening=0.5)
    return ready(pipeline)


@pytest.fixture
def recording():
    return load_audio(spoken(SECONDS))


@pytest.fixture
def heard(pipeline, monkeypatch):
    """How many pieces the classifier has heard."""
    pieces, listen = [], pipeline.viseme_classifier.listen

    def counting(*arguments):
        for piece in listen(*arguments):
            pieces.append(piece)
            yield piece

    monkeypatch.setattr(pipeline.viseme_classifier, "listen", counting)
    return pieces


def test_what_is_heard_on_demand_is_what_is_heard_at_once(pipeline, recording, heard):
    whole = pipeline._hear(recording)
    heard.clear()
    speech = pipeline._begin_to_hear(recording)
    assert len(speech) == len(whole) == 25 * SECONDS and not heard and pipeline.speech_reach == 3
    assert list(speech.begin()) == [None] and len(heard) == 1
    voice = iter(speech.voice)
    for start in range(0, 25 * SECONDS, 30):
        near, expected = speech.around(range(start, start + 30), 9), whole.around(range(start, start + 30), 9)
        for track in ("visemes", "lips", "loudness"):
            np.testing.assert_allclose(getattr(near, track), getattr(expected, track), atol=1e-5)
        loud = whole[start:start + 30].voice
        np.testing.assert_allclose([next(voice) for _ in loud], loud, atol=1e-5)
        assert len(heard) == (1 if start < 30 else 2 if start < 210 else 3 if start < 420 else 4)
    assert next(voice, None) is None


def test_several_threads_may_ask(pipeline, recording):
    speech, whole = pipeline._begin_to_hear(recording), pipeline._hear(recording)
    with ThreadPoolExecutor(4) as pool:
        for near, start in zip(pool.map(lambda start: speech.around(range(start, start + 10), 0), range(0, 500, 10)), range(0, 500, 10)):
            np.testing.assert_allclose(near.lips, whole.lips[start:start + 10], atol=1e-5)


def test_the_first_frames_of_a_stream_wait_for_the_first_seconds(pipeline, heard):
    stream = pipeline.stream(picture(64, 64), spoken(SECONDS), 1, torch.Generator().manual_seed(0))
    assert len(next(stream)) == 8 and len(heard) == 1
    assert sum(map(len, stream)) == 25 * SECONDS - 8 and len(heard) == 4


@pytest.mark.parametrize("seconds", [1, SECONDS])
def test_a_recording_without_speech_says_so_once_in_the_callers_thread(pipeline, tmp_path, caplog, seconds):
    silence = (np.random.default_rng(0).normal(0, 1e-3, 16_000 * seconds).astype(np.float32), 16_000)
    with caplog.at_level(logging.WARNING, "temposync_pipeline"):
        pipeline.generate_to_file(picture(64, 64), silence, tmp_path / "silent.mp4", 1, progress=False)
    assert [record.threadName for record in caplog.records if "no speech was heard" in record.message] == ["MainThread"]
