import numpy as np
import pytest
import torch

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.sound_stream import SoundStream

from .tiny_components import picture, spoken, tiny_pipeline, tiny_read_pipeline

pytestmark = pytest.mark.makes_videos

PHOTO = picture(96, 80)
SPEECH, RATE = spoken(1.2)
FRAME = RATE // 25


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def session(pipeline, **options):
    return pipeline.session(PHOTO, generator=torch.Generator().manual_seed(7), **options)


def pushed(live, samples, size):
    """All frames of samples that come in pieces of a size."""
    frames = [frame for start in range(0, len(samples), size) for frame in live.push(samples[start:start + size], RATE)]
    return frames + live.flush()


def test_frames_are_those_of_the_stream_whatever_the_pieces(pipeline):
    stream = np.concatenate(list(pipeline.stream(
        PHOTO, (SPEECH, RATE), 2, torch.Generator().manual_seed(7), chunk_size=3, look_ahead=4)))
    assert len(stream) == 30 and (stream != stream[:1]).any()
    for size in (333, 7000):
        frames = pushed(session(pipeline, num_inference_steps=2, chunk_size=3, look_ahead=4), SPEECH, size)
        assert np.array_equal(np.stack([frame.picture for frame in frames]), stream)
        assert [frame.time for frame in frames] == pytest.approx([index / 25 for index in range(30)])


@pytest.mark.parametrize("look_ahead", [0, 3])
def test_a_frame_comes_with_the_sound_it_waits_for_and_not_before(pipeline, look_ahead):
    live = session(pipeline, look_ahead=look_ahead, chunk_size=2)
    assert live.push(SPEECH[:(2 + look_ahead) * FRAME - 1], RATE) == []
    assert [frame.time for frame in live.push(SPEECH[(2 + look_ahead) * FRAME - 1:][:1], RATE)] == [0, 0.04]


def test_what_is_said_later_changes_nothing_before(pipeline):
    changed = SPEECH.copy()
    changed[20 * FRAME:] = 0
    plain, other = (np.stack([frame.picture for frame in pushed(session(pipeline, look_ahead=2, chunk_size=2), sound, 640)])
                    for sound in (SPEECH, changed))
    assert np.array_equal(plain[:18], other[:18])
    assert not np.array_equal(plain[18:], other[18:])


def test_what_was_said_long_ago_is_forgotten(pipeline):
    live = session(pipeline)
    for _ in range(40):
        live.push(SPEECH[:8000], RATE)
        assert len(live._kept) < 3 * RATE


def test_a_session_ends_once(pipeline):
    live = session(pipeline)
    live.push(SPEECH[:3000], RATE)
    assert len(live.flush()) == 5
    assert live.flush() == []
    with pytest.raises(InvalidInputError, match="the live session has ended"):
        live.push(SPEECH, RATE)
    assert session(pipeline).flush() == []


@pytest.mark.parametrize("samples, rate, message", [
    (np.zeros((2, 2, 2)), RATE, "expected numbers"), (SPEECH, 100, "100 Hz, outside the limits"),
    (SPEECH, 8000, "changes from 16000 to 8000"), (SPEECH, "16000", "a sampling rate of type str"), (SPEECH, None, "of type NoneType"),
])
def test_what_is_no_sound_is_refused(pipeline, samples, rate, message):
    live = session(pipeline)
    live.push(SPEECH[:100], RATE)
    with pytest.raises(InvalidInputError, match=message):
        live.push(samples, rate)


@pytest.mark.parametrize("look_ahead", [-1, 51, 2.5, True])
def test_the_look_ahead_is_a_number_of_frames(pipeline, look_ahead):
    with pytest.raises(InvalidInputError, match="look_ahead must be 0 to 50 frames"):
        session(pipeline, look_ahead=look_ahead)


def test_a_method_that_needs_the_whole_recording_says_so():
    with pytest.raises(InvalidInputError, match="ReadPipeline listens to a whole recording"):
        tiny_read_pipeline().session(PHOTO, num_inference_steps=2)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_pieces_of_sound_become_what_the_recording_does(rate):
    samples, _ = spoken(0.5, rate)
    whole = load_audio((samples, rate)).samples
    stream = SoundStream()
    pieces = [stream.take(samples[start:start + 777], rate) for start in range(0, len(samples), 777)] + [stream.finish()]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_pieces_of_sound_may_be_integers_and_have_channels():
    left = (8000 * np.sin(np.arange(400))).astype(np.int16)
    stereo = np.stack([left, np.zeros_like(left)], 1)
    assert np.allclose(SoundStream().take(stereo, RATE), left / 65536, atol=1e-6)
