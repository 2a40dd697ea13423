"""Phone labels lie where the sound closes: on a made-up sound, and for every source of speech that is installed here."""

import ctypes.util
import shutil

import numpy as np
import pytest
import soxr
from scipy import signal

from temposync_pipeline.data.closures import fit_closures
from temposync_pipeline.data.forced_alignment import force_align
from temposync_pipeline.data.speech_synthesis import speak_espeak, speak_flite
from temposync_pipeline.data.viseme_labels import SAMPLE_RATE, Phone, viseme_segments
from temposync_pipeline.models.visemes import VISEME_INDEX, arpabet_parts

needs_espeak = pytest.mark.skipif(not ctypes.util.find_library("espeak-ng"), reason="libespeak-ng is not installed")
needs_flite = pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed")

RATES = (120, 160, 220, 300)
# Each stop between vowels, initial and in the middle of words, before and after the stress.
TEXTS = {
    "p": "a pot, happy, upon a copper, repeat", "b": "a bot, cabbage, about a rubber, rebel",
    "m": "a moth, hammer, among a summer, remain, he may, a moment",
    "t": "a top, attack, return, retire, detail", "d": "a dot, adopt, today, redo, reduce", "k": "a cot, account, occur, recall, become",
    "g": "a gun, again, ago, regard, forget",
}
VOWELS = {"aa", "E", "ih", "oh", "ou", "RR"}


def vowel(seconds: float, hertz: float = 120) -> np.ndarray:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return 0.1 * sum(np.sin(2 * np.pi * harmonic * hertz * time) / harmonic**0.5 for harmonic in range(1, 40))


def sound_with_closure(hum: float, burst: float) -> np.ndarray:
    """Vowel 0 to 0.3 s, closure to 0.38 s with a hum of that amplitude, burst if any, vowel to 0.7 s; a little noise all over."""
    generator = np.random.default_rng(0)
    time = np.arange(int(0.08 * SAMPLE_RATE)) / SAMPLE_RATE
    closure = hum * np.sin(2 * np.pi * 120 * time)
    release = burst * generator.standard_normal(int(0.015 * SAMPLE_RATE) if burst else 0)
    samples = np.concatenate([vowel(0.3), closure, release, vowel(0.32 - len(release) / SAMPLE_RATE)])
    return (samples + 0.001 * generator.standard_normal(len(samples))).astype(np.float32)


def phones(*times_and_symbols) -> list[Phone]:
    return [Phone(start, end, symbol, arpabet_parts(symbol)) for start, end, symbol in times_and_symbols]


@pytest.mark.parametrize(("hum", "burst"), [(0.0, 0.05), (0.05, 0.05), (0.1, 0.0)])
@pytest.mark.parametrize("reported", [(0.3, 0.38), (0.34, 0.42), (0.27, 0.36), (0.353, 0.44)])
def test_a_stop_moves_to_its_closure_and_its_neighbours_with_it(hum, burst, reported):
    start, end = reported
    before, stop, after = fit_closures(
        phones((0, start, "AA"), (start, end, "B"), (end, 0.7, "AA")), sound_with_closure(hum, burst), SAMPLE_RATE)
    assert stop.start == pytest.approx(0.3, abs=0.008) and stop.end == pytest.approx(0.385, abs=0.012)
    assert (before.start, before.end, after.start, after.end) == (0, stop.start, stop.end, 0.7)


def test_a_stop_after_a_pause_gets_a_closure_of_typical_length():
    samples = sound_with_closure(0.0, 0.05)
    samples[: int(0.38 * SAMPLE_RATE)] = 0
    pause, stop, _ = fit_closures(phones((0, 0.37, "SIL"), (0.37, 0.42, "P"), (0.42, 0.7, "AA")), samples, SAMPLE_RATE, typical=0.05)
    assert stop.start == pytest.approx(0.33, abs=0.01) and pause.end == stop.start


def test_what_shows_no_closure_stays():
    reported = phones((0, 0.2, "AA"), (0.2, 0.3, "B"), (0.3, 0.6, "AA"))
    assert fit_closures(reported, vowel(0.6).astype(np.float32), SAMPLE_RATE) == reported
    fricative = phones((0, 0.34, "AA"), (0.34, 0.42, "S"), (0.42, 0.7, "AA"))
    assert fit_closures(fricative, sound_with_closure(0.0, 0.05), SAMPLE_RATE) == fricative


# --- every source against the sound: a rule of its own -----------------------------------------------------------------


def acoustic_closure(samples: np.ndarray, sample_rate: int, earliest: float, latest: float, voiced: bool) -> tuple[float, float]:
    """Seconds, to 1 ms, by a spectrogram's level from 0.5 to 3.5 kHz: 10 dB below the vowels, or to the burst of a voiceless stop."""
    width = int(0.008 * sample_rate)
    frequencies, times, spectrum = signal.stft(samples, sample_rate, "hann", width, width - sample_rate // 1000, nfft=1024)
    level = 10 * np.log10((np.abs(spectrum[(frequencies > 500) & (frequencies < 3500)]) ** 2).sum(0) + 1e-9)
    first, last = np.searchsorted(times, (earliest, latest))
    lowest = first + int(level[first : last + 1].argmin())
    falling, rising = level[first : lowest + 1], level[lowest : last + 1]
    loud = np.flatnonzero(falling > falling.max() - min(10, np.ptp(falling) / 2))
    risen = np.flatnonzero(rising > (rising.max() - min(10, np.ptp(rising) / 2) if voiced else rising.min() + 0.35 * np.ptp(rising)))
    return times[first + (loud[-1] if len(loud) else 0)], times[lowest + (risen[0] if len(risen) else 0)]


def errors(symbol: str, labelled: list[Phone], samples: np.ndarray, sample_rate: int) -> list[tuple[float, float]]:
    """By how much each such phone between vowels begins late and is centred late, in seconds."""
    found = []
    for before, stop, after in zip(labelled, labelled[1:], labelled[2:]):
        if stop.symbol.lower().replace("ɡ", "g") == symbol and {before.parts[-1:][0][0], after.parts[:1][0][0]} <= VOWELS:
            earliest, latest = max(before.start, before.end - 0.07), min(after.end, after.start + 0.08)
            start, end = acoustic_closure(samples, sample_rate, earliest, latest, voiced=symbol in "bm")
            found.append((stop.start - start, (stop.start + stop.end - start - end) / 2))
    return found


def espeak(text: str, rate: int) -> list[tuple[list[Phone], np.ndarray, int]]:
    spoken = [speak_espeak(text, voice, rate) for voice in ("en-us", "en-us+f3", "gmw/en+m3")]
    return [(speech.phones, speech.samples, speech.sample_rate) for speech in spoken]


def flite(text: str, rate: int) -> list[tuple[list[Phone], np.ndarray, int]]:
    spoken = [speak_flite(text, voice, 160 / rate) for voice in ("slt", "rms", "kal16")]
    return [(speech.phones, speech.samples, speech.sample_rate) for speech in spoken]


def aligner(text: str, rate: int) -> list[tuple[list[Phone], np.ndarray, int]]:
    found = []
    for _, samples, sample_rate in flite(text, rate)[:2]:
        samples = soxr.resample(samples, sample_rate, SAMPLE_RATE)
        try:
            found.append((force_align(samples, text), samples, SAMPLE_RATE))
        except ValueError:
            pass  # the aligner may refuse quick speech
    return found


@pytest.mark.parametrize(("source", "rate"), [
    *(pytest.param(espeak, rate, marks=needs_espeak) for rate in RATES),
    *(pytest.param(flite, rate, marks=needs_flite) for rate in RATES),
    *(pytest.param(aligner, rate, marks=needs_flite) for rate in (RATES[0], RATES[-1])),  # alignment is slow
])
def test_closures_are_labelled_where_they_are_heard(source, rate):
    if source is aligner:
        pytest.importorskip("pocketsphinx")
    for symbol, text in TEXTS.items():
        found = [error for speech in source(text, rate) for error in errors(symbol, *speech)]
        assert len(found) >= 4, symbol
        late_start, late_middle = np.median(found, axis=0)
        assert abs(late_start) <= 0.010, (symbol, late_start)
        assert abs(late_middle) <= 0.010 or symbol not in "pbm", (symbol, late_middle)  # where lips close, for as long as they do


@needs_espeak
def test_rates_whose_times_are_wrong_are_refused():
    with pytest.raises(ValueError, match="450"):
        speak_espeak("hello", words_per_minute=450)


@needs_espeak
def test_lips_are_labelled_shut_before_the_release_and_the_vowel_after_m_begins_in_time():
    speech = speak_espeak("a papa", "en-us", 120)
    shut = [item for item in viseme_segments(speech.phones) if item.viseme == VISEME_INDEX["PP"]]
    for item in shut:
        piece = speech.samples[int((item.start + 0.01) * speech.sample_rate) : int((item.end - 0.02) * speech.sample_rate)]
        assert np.abs(piece).max() < 0.01  # silent but for the burst at its end
    assert len(shut) == 2


@needs_flite
def test_flite_labels_end_with_the_sound():
    for voice in ("kal16", "slt"):
        speech = speak_flite("good night", voice)
        assert speech.phones[-1].end <= len(speech.samples) / speech.sample_rate + 1e-6
