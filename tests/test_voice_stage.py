"""The stage `voice`: mixtures say when somebody speaks, and what is trained is what listening computes."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.io import wavfile

from temposync_pipeline.data.viseme_corpus import Utterance, save_utterances
from temposync_pipeline.data.viseme_labels import SAMPLE_RATE, Segment
from temposync_pipeline.data.voice_mixtures import MixtureMaker, played_at, varied, wavering
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.media import voice_activity
from temposync_pipeline.training import voice
from temposync_pipeline.training.stages import initial_weights


def spoken(seed: int) -> Utterance:
    """Two seconds: half a second of nothing, a second of a buzz whose pitch and colour wander, half a second of nothing."""
    rng, time = np.random.default_rng(seed), np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(rng.uniform(100, 200) * (1 + 0.2 * np.sin(2 * np.pi * 3 * time))) / SAMPLE_RATE
    buzz = sum(np.sin(k * phase) / k * (1 + np.sin(2 * np.pi * (4 + k) * time)) for k in range(1, 20))
    samples = np.where((time >= 0.5) & (time < 1.5), 4000 * buzz, 0) + rng.normal(0, 3, len(time))
    return Utterance(f"clip_{seed}", "read", samples.astype(np.int16), [Segment(0.0, 0.5, 0), Segment(0.5, 1.5, 10), Segment(1.5, 2.0, 0)])


def hum(hertz: float) -> np.ndarray:
    return np.int16(8000 * np.sin(2 * np.pi * hertz * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE))


def test_mixtures_say_when_somebody_speaks():
    maker = MixtureMaker([spoken(0)], [hum(440)], seconds=6.0)
    drawn = [maker.draw(np.random.default_rng(seed)) for seed in range(60)]
    assert all(len(mixture.samples) == 6 * SAMPLE_RATE and mixture.spoken.shape == (300,) for mixture in drawn)
    shares = np.array([mixture.spoken.mean() for mixture in drawn])
    assert 0.1 < (shares == 0).mean() < 0.4 and 0.1 < shares[shares > 0].mean() < 0.6
    alone = MixtureMaker([spoken(0)], [], seconds=6.0, mute_share=0.0)
    for seed in range(10):
        mixture = alone.draw(np.random.default_rng(seed))
        level = np.abs(mixture.samples).reshape(300, -1).mean(1)
        sure = np.isin(mixture.spoken, (0, 1)) & np.isin(np.roll(mixture.spoken, 5), (0, 1))
        assert level[sure & (mixture.spoken == 1)].mean() > 3 * level[sure & (mixture.spoken == 0)].mean()


def test_other_sounds_are_heard_at_other_pitches_and_on_other_lines():
    sound = hum(440).astype(np.float32)[:SAMPLE_RATE * 3]
    drawn = [varied(sound, SAMPLE_RATE * 2, np.random.default_rng(seed)) for seed in range(30)]
    assert all(heard.shape == (SAMPLE_RATE * 2,) and heard.dtype == np.float32 for heard in drawn)
    peaks = np.array([np.abs(np.fft.rfft(heard)).argmax() / 2 for heard in drawn])
    assert peaks.min() < 380 and peaks.max() > 520 and (np.abs(peaks - 440) < 1).sum() > 5
    assert np.all((peaks > 440 / 1.41) & (peaks < 440 * 1.41))


def test_a_pitch_that_wavers_stays_near_its_own():
    for seed in range(10):
        speed = wavering(SAMPLE_RATE * 2, np.random.default_rng(seed))
        assert speed.shape == (SAMPLE_RATE * 2,) and np.abs(speed - 1).max() < 0.071 and np.ptp(speed) > 0.005
        heard = played_at(hum(440), speed, SAMPLE_RATE * 2)
        turns = np.flatnonzero(np.diff(np.sign(heard)) > 0)[::22]  # every 22 periods
        assert np.allclose(22 * SAMPLE_RATE / np.diff(turns) / 440, np.add.reduceat(speed, turns)[:-1] / np.diff(turns), rtol=0.01)


def test_a_voice_is_also_heard_as_a_childs():
    maker = MixtureMaker([Utterance("hum", "read", hum(1000), [Segment(0.0, 3.0, 10)])], [], seconds=6.0, mute_share=0.0)
    peaks = []
    for seed in range(40):
        mixture = maker.draw(np.random.default_rng(seed))
        said = mixture.samples.reshape(300, -1)[mixture.spoken == 1].ravel()
        peaks.append(np.abs(np.fft.rfft(said)).argmax() * SAMPLE_RATE / len(said))
    assert min(peaks) < 950 and max(peaks) > 1100 and np.mean(np.abs(np.array(peaks) - 1000) < 20) > 0.5


def test_the_network_is_the_one_that_listens(tmp_path):
    torch.manual_seed(0)
    model = voice.VoiceNetwork(channels=16)
    voice.save(model, tmp_path)
    weights = {name: value.astype(np.float32) for name, value in load_file(tmp_path / "voice_activity.safetensors").items()}
    features = voice_activity.features(spoken(1).samples / np.float32(32768))
    assert features.shape == (100, voice.FEATURES)
    with torch.inference_mode():
        expected = model(torch.from_numpy(features)[None])[0].numpy()
    assert np.allclose(voice_activity._network(features, weights), expected, atol=2e-3)


def test_it_learns_to_tell_a_voice_from_notes(tmp_path):
    for name, seeds in (("train", range(6)), ("validation", range(6, 8))):
        save_utterances(tmp_path / f"{name}.npz", [spoken(seed) for seed in seeds])
    (tmp_path / "other").mkdir()
    for hertz in range(200, 1400, 100):
        wavfile.write(tmp_path / "other" / f"{hertz}.wav", SAMPLE_RATE, hum(hertz))
    config = voice.Config(data=str(tmp_path), other=str(tmp_path / "other"), output=str(tmp_path / "run"), max_steps=60, mixtures=40,
                          validation_mixtures=10, ema_decay=0.9, warmup_steps=5, learning_rate=1e-2, tensorboard=False)
    figures = voice.train(config)
    assert figures["found"] > 0.8 and figures["mistaken"] < 0.2
    bundled = load_file(voice_activity.__file__.replace(".py", ".safetensors"))
    trained = load_file(tmp_path / "run" / "voice_activity.safetensors")
    assert {name: value.shape for name, value in trained.items()} == {name: value.shape for name, value in bundled.items()}


def test_a_larger_network_goes_on_from_a_smaller_one(tmp_path):
    torch.manual_seed(0)
    small, large = voice.VoiceNetwork(channels=8), voice.VoiceNetwork(channels=12)
    voice.save(small, tmp_path)
    voice.go_on_from(tmp_path / "voice_activity.safetensors", large)
    given = torch.randn(2, 50, voice.FEATURES)
    with torch.inference_mode():
        assert torch.allclose(large(given), small(given), atol=2e-3)
    with pytest.raises(InvalidInputError, match="fit into a network of this size"):
        voice.go_on_from(tmp_path / "voice_activity.safetensors", voice.VoiceNetwork(channels=6))
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(InvalidInputError, match="fit into a network of this size"):
        voice.go_on_from(tmp_path / "text.safetensors", large)
    with pytest.raises(InvalidInputError, match="there is no file"):
        voice.go_on_from(tmp_path / "elsewhere.safetensors", large)


def test_what_it_cannot_do_without(tmp_path):
    with pytest.raises(InvalidInputError, match="--set other=FOLDER"):
        voice.train(voice.Config(output=str(tmp_path), tensorboard=False))
    with pytest.raises(InvalidInputError, match="takes no --init"):
        initial_weights("voice", "temposync-tiny")
