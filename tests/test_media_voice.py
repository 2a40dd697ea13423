"""What is voice in a recording: found among music and noise, freed of rumble, brought to one loudness, looked for in the right channel."""

from pathlib import Path

import numpy as np
import pytest

from temposync_pipeline.media import voice_activity
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.channels import channel_weights
from temposync_pipeline.media.loudness import hear_voice, high_pass, normalize_loudness
from temposync_pipeline.media.voice_activity import FRAME, SAMPLE_RATE, voiced_frames

SPEECH = sorted((Path(__file__).parent.parent / "examples" / "media").glob("speech_*.wav"))


def speech(index: int = 0) -> np.ndarray:
    return load_audio(SPEECH[index]).samples


def seconds(length: float) -> np.ndarray:
    return np.arange(int(length * SAMPLE_RATE)) / SAMPLE_RATE


def note(hertz: float, length: float, decay: float = 1.0, partials: int = 5) -> np.ndarray:
    time = seconds(length)
    tones = sum(np.sin(2 * np.pi * k * hertz * time) / k for k in range(1, partials + 1))
    return tones * np.exp(-time / decay) * np.minimum(1, time / 0.01) * np.minimum(1, (length - time) / 0.01)


def tune(step: float, decay: float, partials: int, chord: tuple[float, ...] = (1,)) -> np.ndarray:
    """Six seconds of notes."""
    pitches = 220 * 2 ** (np.array([0, 4, 7, 12, 7, 4, 2, 5, 9, 14, 9, 5]) / 12)
    played = np.resize(pitches, int(6 / step))
    return np.concatenate([sum(note(ratio * pitch, step, decay, partials) for ratio in chord) for pitch in played])


def rings() -> np.ndarray:
    time = seconds(6)
    return (np.sin(2 * np.pi * 440 * time) + np.sin(2 * np.pi * 480 * time)) * (time % 3 < 1.5)


def warble() -> np.ndarray:
    time = seconds(6)
    return np.sin(2 * np.pi * np.where(time * 20 % 1 < 0.5, 800, 1000) * time) * (time % 2 < 1.2)


def drums() -> np.ndarray:
    rng, beat = np.random.default_rng(0), seconds(0.25)
    kick, snare = np.sin(2 * np.pi * 60 * beat) * np.exp(-beat / 0.08), rng.standard_normal(len(beat)) * np.exp(-beat / 0.05)
    hat = np.diff(rng.standard_normal(len(beat)), prepend=0) * np.exp(-beat / 0.02)
    return np.concatenate([(kick, hat, snare, hat)[index % 4] for index in range(24)])


def birds() -> np.ndarray:
    time = seconds(0.5)
    chirp = np.sin(2 * np.pi * np.cumsum(3500 + 800 * np.sin(2 * np.pi * 9 * time)) / SAMPLE_RATE) * (time < 0.3)
    return np.tile(chirp, 12)


def hiss() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(6 * SAMPLE_RATE)


OTHERS = {
    "notes": lambda: tune(0.25, 9, 4), "slow notes": lambda: tune(0.5, 9, 8), "chords": lambda: tune(0.5, 9, 3, (1, 1.25, 1.5)),
    "piano": lambda: tune(0.3, 0.25, 8), "bells": lambda: tune(0.4, 0.3, 2, (1, 2.76, 5.4)), "rings": rings, "warble": warble,
    "drums": drums, "birds": birds, "hiss": hiss,
}


def loud(sound: np.ndarray) -> np.ndarray:
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_a_voice_is_silence(kind):
    assert not hear_voice(loud(OTHERS[kind]())).any()


@pytest.mark.parametrize("gain", [1, 0.03])
@pytest.mark.parametrize("index", range(len(SPEECH)))
def test_speech_is_heard_from_its_first_syllable_to_its_last(index, gain):
    level = np.abs(np.resize(speech(index), (len(speech(index)) // FRAME, FRAME))).max(1)
    spoken = level > 0.05 * level.max()
    assert voiced_frames(high_pass(gain * speech(index)))[:len(spoken)][spoken].all()


@pytest.mark.parametrize("kind", OTHERS)
def test_quieter_speech_after_other_sounds_is_heard_at_once(kind):
    before, after = loud(OTHERS[kind]()), 0.3 * speech()
    heard = hear_voice(np.concatenate([before, after]))
    assert np.mean(heard[:len(before) - SAMPLE_RATE // 2] != 0) < 0.05
    alone = normalize_loudness(speech())
    assert np.corrcoef(heard[len(before):], alone)[0, 1] > 0.98
    assert np.std(heard[len(before):]) == pytest.approx(np.std(alone), rel=0.2)


@pytest.mark.parametrize("length", [0.3, 0.4, 0.6])
def test_a_single_syllable_is_heard(length):
    size, found = int(length * SAMPLE_RATE), []
    for index in range(len(SPEECH)):
        samples = speech(index)
        crops = [samples[start:start + size] for start in range(SAMPLE_RATE // 2, len(samples) - size, SAMPLE_RATE // 5)]
        found += [voiced_frames(high_pass(crop)).mean() for crop in crops if np.std(crop) > 0.7 * samples.std()]
    assert len(found) > 20 and np.mean(found) > 0.98


def gusts(length: int) -> np.ndarray:
    """Noise below 55 Hz."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(length))
    spectrum[int(55 * length / SAMPLE_RATE):] = 0
    wind = np.fft.irfft(spectrum, length)
    return wind / wind.std() / np.sqrt(2)


DISTURBANCES = {
    "rumble": lambda time: np.sin(2 * np.pi * 15 * time), "50 Hz": lambda time: np.sin(2 * np.pi * 50 * time),
    "8 Hz": lambda time: np.sin(2 * np.pi * 8 * time), "drift": lambda time: time / time[-1], "offset": lambda time: np.ones(len(time)),
    "thump": lambda time: 10 * np.exp(-time / 0.1) * np.cos(2 * np.pi * 12 * time),
    "wind": lambda time: gusts(len(time)),
}


@pytest.mark.parametrize("kind", DISTURBANCES)
def test_what_lies_below_the_voice_changes_nothing(kind):
    voice = 0.3 * speech()
    disturbance = DISTURBANCES[kind](np.arange(len(voice)) / SAMPLE_RATE)
    disturbed = voice + disturbance * voice.std() * 10 ** (10 / 20) * np.sqrt(2)
    inner = slice(SAMPLE_RATE // 10, -SAMPLE_RATE // 10)  # at its ends a recording breaks off
    heard, alone = hear_voice(disturbed)[inner], hear_voice(voice)[inner]
    assert np.corrcoef(heard, alone)[0, 1] > 0.99
    assert np.std(heard) == pytest.approx(np.std(alone), rel=0.05)


def test_the_filter_moves_nothing_in_time_and_works_in_pieces_like_as_a_whole():
    voice = speech()
    assert np.argmax(np.correlate(high_pass(voice)[8000:40_000], voice[8000 + 100:40_000 - 100], "valid")) == 100
    noise = np.random.default_rng(0).standard_normal(60_000).astype(np.float32)
    np.testing.assert_allclose(high_pass(noise)[20_000:30_000], high_pass(noise[15_000:35_000])[5_000:15_000], atol=1e-5)


def test_a_quiet_passage_is_brought_to_the_level_of_a_loud_one():
    voice = speech()
    heard = hear_voice(np.concatenate([voice, 0.05 * voice]))
    middle = slice(3 * SAMPLE_RATE, len(voice))  # the gain takes its time
    loud_part, quiet_part = heard[:len(voice)][:-3 * SAMPLE_RATE], heard[len(voice):][middle]
    assert np.std(quiet_part) == pytest.approx(np.std(loud_part), rel=0.35)
    assert np.std(heard[len(voice):]) / np.std(heard[:len(voice)]) > 0.5


def test_loudness_depends_on_what_is_near_only():
    voice = speech()
    before = np.concatenate([voice, voice, voice])
    changed = np.concatenate([0.05 * voice, voice, voice])
    np.testing.assert_allclose(normalize_loudness(before)[-SAMPLE_RATE:], normalize_loudness(changed)[-SAMPLE_RATE:], rtol=0.02, atol=1e-3)


def test_faint_noise_is_not_blown_up():
    noise = 1e-4 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE)
    assert np.std(normalize_loudness(noise)) < 0.2
    assert not hear_voice(np.zeros(SAMPLE_RATE)).any() and len(hear_voice(np.zeros(0))) == 0


def weights(*channels: np.ndarray) -> list[float]:
    return channel_weights([(np.stack(channels).astype(np.float32), SAMPLE_RATE)]).round(3).tolist()


def test_the_channels_that_carry_voice_are_chosen():
    voice = speech()
    noise = np.resize(hiss(), len(voice)) * voice.std()
    music = np.resize(tune(0.25, 9, 4), len(voice)) * voice.std()
    assert weights(voice, voice) == weights(voice, 0.5 * voice) == [0.5, 0.5]
    assert weights(voice, -voice) in ([1, 0], [0, 1])
    assert weights(0.5 * voice, -voice) == [0, 1]
    assert weights(0.1 * voice, noise) == [1, 0] and weights(3 * noise, 0.3 * voice) == [0, 1]
    assert weights(0.3 * voice, music) == [1, 0]
    assert weights(0 * voice, voice) == [0, 1]
    assert weights(noise, music, 0.1 * voice, noise[::-1], 0 * voice, music) == [0, 0, 1, 0, 0, 0]
    assert sum(weights(noise, noise[::-1])) == 1


def test_some_samples_that_are_not_yet_one_at_the_classifiers_rate_have_channels():
    assert channel_weights([(np.ones((2, 2), np.float32), 96_000)]).tolist() == [0.5, 0.5]
    assert channel_weights([(np.ones((1, 0), np.float32), SAMPLE_RATE)]).tolist() == [1]


def test_channels_that_cancel_one_another_for_a_while():
    voice = speech()
    for share in (0.3, 0.5, 0.7):
        sign = np.where(np.arange(len(voice)) < share * len(voice), 1, -1)
        assert weights(voice, 0.9 * sign * voice) == [1, 0]
        noise = np.resize(hiss(), len(voice)) * voice.std()
        assert weights(voice, noise, 0.9 * sign * voice) == [1, 0, 0]


def test_two_talkers_on_two_channels_are_both_heard():
    one, other = speech(0), speech(1)
    assert weights(np.pad(one, (0, len(other))), np.pad(other, (len(one), 0))) == [0.5, 0.5]


def test_the_voice_is_found_in_files_of_several_channels():
    voice = speech()
    np.testing.assert_allclose(np.abs(load_audio((np.stack([voice, -voice]), SAMPLE_RATE)).samples), np.abs(voice), atol=1e-6)
    noise = np.resize(hiss(), len(voice)) * voice.std()
    np.testing.assert_allclose(load_audio((np.stack([0.1 * voice, 0.3 * noise]), SAMPLE_RATE)).samples, 0.1 * voice, atol=1e-6)


def test_notes_that_break_off_are_no_voice():
    """A tune that ends amid a note, a pause, then quieter speech: silence until its first syllable."""
    music = tune(0.33, 0.4, 4)[:5 * SAMPLE_RATE - 1000]
    heard = hear_voice(np.concatenate([4 * music * speech().std() / music.std(), np.zeros(SAMPLE_RATE // 2), speech()]))
    assert not heard[:len(music)].any() and heard[len(music) + SAMPLE_RATE // 2:].any()


def test_products_in_parts_are_products_small_enough_for_one_thread():
    parts = []

    class Rows(np.ndarray):
        def __matmul__(self, other):
            parts.append(len(self) * other.size)
            return np.asarray(self) @ other

    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((160, 32)).astype(np.float32)
    for count in (0, 1, 51, 52, 400):
        rows = generator.standard_normal((count, 160)).astype(np.float32)
        product = voice_activity._product(rows.view(Rows), matrix)
        assert product.shape == (count, 32) and np.allclose(product, rows @ matrix, atol=1e-4)
    assert len(parts) == 1 + 1 + 1 + 2 + 8 and max(parts) <= 2**18
