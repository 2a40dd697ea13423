"""Phonemes to visemes, soft frame labels, and the sources of phone times that are installed here."""

import ctypes.util
import shutil

import numpy as np
import pytest

from temposync_pipeline.data.forced_alignment import force_align
from temposync_pipeline.data.speech_augmentation import augment, coloured_noise, impulse_response, music, whispered
from temposync_pipeline.data.speech_synthesis import speak_espeak, speak_flite
from temposync_pipeline.data.viseme_corpus import Utterance, load_utterances, save_utterances, syllable_utterances
from temposync_pipeline.data.viseme_crops import CropSampler, band_levels, played_at
from temposync_pipeline.data.viseme_labels import Phone, Segment, coverage, viseme_segments
from temposync_pipeline.models.visemes import ARPABET_VISEMES, VISEME_INDEX, VISEMES, arpabet_parts, ipa_parts

SIL, PP, SS, AA, IH, OU = (VISEME_INDEX[name] for name in ("sil", "PP", "SS", "aa", "ih", "ou"))


def phone(start: float, end: float, symbol: str) -> Phone:
    return Phone(start, end, symbol, arpabet_parts(symbol))


def test_every_arpabet_phone_has_visemes_whose_shares_sum_to_one():
    cmudict = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH SIL".split()
    assert {part[0] for symbol in cmudict for part in arpabet_parts(symbol)} == set(VISEMES)
    for parts in ARPABET_VISEMES.values():
        assert sum(share for _, share in parts) == pytest.approx(1)


def test_arpabet_stress_and_case_are_ignored_and_unknown_symbols_raise():
    assert arpabet_parts("ay1") == (("aa", 0.6), ("ih", 0.4))
    with pytest.raises(KeyError):
        arpabet_parts("QX")


@pytest.mark.parametrize(
    ("ipa", "names"),
    [("aɪ", "aa ih"), ("tʃ", "CH"), ("ɑːɹ", "aa RR"), ("n̩", "nn"), ("əʊ", "oh ou"), ("uː", "ou"), ("p", "PP"), ("h", ""), ("ˈ", "")],
)
def test_ipa_phones(ipa, names):
    assert " ".join(name for name, _ in ipa_parts(ipa)) == names


def test_ipa_and_arpabet_agree():
    pairs = {"B": "b", "F": "f", "DH": "ð", "T": "t", "NG": "ŋ", "JH": "dʒ", "Z": "z", "L": "l", "R": "ɹ", "ER": "ɜː", "AE": "æ", "EH": "ɛ",
             "IY": "iː", "AO": "ɔː", "UW": "uː", "W": "w", "AW": "aʊ", "EY": "eɪ", "OW": "oʊ", "OY": "ɔɪ"}
    for arpabet, ipa in pairs.items():
        assert ipa_parts(ipa) == arpabet_parts(arpabet)


def test_diphthongs_split_60_40_and_h_takes_the_following_vowel():
    segments = viseme_segments([phone(0, 0.1, "HH"), phone(0.1, 0.3, "AY"), phone(0.3, 0.4, "HH")])
    assert [segment.viseme for segment in segments] == [AA, AA, IH, SIL]
    assert [segment.end for segment in segments] == pytest.approx([0.1, 0.22, 0.3, 0.4])


def test_coverage_is_the_share_of_each_frame():
    labels = coverage([Segment(0.02, 0.05, PP), Segment(0.05, 0.12, AA)], num_frames=4, frame_seconds=0.04)
    expected = np.zeros((4, 15))
    expected[0, [SIL, PP]] = 0.5, 0.5
    expected[1, [PP, AA]] = 0.25, 0.75
    expected[2, AA] = expected[3, SIL] = 1
    np.testing.assert_allclose(labels, expected, atol=1e-6)
    shifted = coverage([Segment(0.02, 0.05, PP), Segment(0.05, 0.12, AA)], 1, 0.02, offset=0.04)
    assert shifted[0, PP] == pytest.approx(0.5) and shifted[0, AA] == pytest.approx(0.5)


def test_corpus_survives_its_file(tmp_path):
    items = [
        Utterance("a", "grid", np.arange(5, dtype=np.int16), [Segment(0.0, 0.5, 3)]),
        Utterance("b", "read", np.arange(3, dtype=np.int16), [Segment(0.0, 0.25, 0), Segment(0.25, 1.0, 7)]),
    ]
    save_utterances(tmp_path / "corpus.npz", items)
    for before, after in zip(items, load_utterances(tmp_path / "corpus.npz"), strict=True):
        assert (after.name, after.source, after.segments) == (before.name, before.source, before.segments)
        np.testing.assert_array_equal(after.samples, before.samples)


def test_crops_keep_sound_and_label_together():
    """A tone labelled aa amid silence: whatever the crop, speed, room and noise, label aa is where the energy is."""
    samples = np.zeros(48_000, np.float32)
    samples[16_000:32_000] = 0.5 * np.sin(0.3 * np.arange(16_000))
    item = Utterance("tone", "grid", (samples * 32767).astype(np.int16), [Segment(1.0, 2.0, AA)])
    frames = 99
    sampler = CropSampler([item], {"grid": 1.0}, 32_000, frames, 0.0, 0.02, np.random.default_rng(0))
    waves, labels, levels = sampler.batch(12)
    energy = waves[:, : frames * 320].reshape(12, frames, 320).square().mean(-1).sqrt().numpy()
    voiced = labels[..., AA].numpy()
    assert waves.shape == (12, 32_000) and labels.shape == (12, frames, 15) and levels.shape == (12, frames, 12)
    assert voiced.max() == 1
    correlations = [np.corrcoef(e, v)[0, 1] for e, v in zip(energy, voiced, strict=True) if v.std() > 0.2]
    assert len(correlations) > 5 and np.median(correlations) > 0.8


def test_noise_crops_are_labelled_silent():
    _, labels, levels = CropSampler([], {"noise": 1.0}, 16_000, 49, 0.0, 0.02, np.random.default_rng(0)).batch(8)
    assert (labels[..., SIL] == 1).all() and levels.max() == pytest.approx(-4)


def test_band_levels_tell_when_and_in_which_band_it_is_loud():
    samples = np.zeros(16_000, np.float32)
    for start, hertz in ((4_000, 250), (10_000, 3_000)):
        samples[start : start + 3_200] = 0.3 * np.sin(2 * np.pi * hertz * np.arange(3_200) / 16_000)
    levels = band_levels(samples, 49, 0.0, 0.02)
    assert levels[14:21].mean(0).argmax() < levels[33:40].mean(0).argmax()
    assert levels[14:21].max(1).min() > 0 > -3 > levels[:10].max()


def test_a_child_s_voice_is_the_same_speech_faster_and_higher():
    tone = (10_000 * np.sin(2 * np.pi * 400 * np.arange(16_000) / 16_000)).astype(np.int16)
    child = played_at(tone, 1.3)
    assert len(child) == int(16_000 / 1.3)
    assert np.abs(np.fft.rfft(child[:8_000])).argmax() * 2 == pytest.approx(520, abs=3)


def test_whispering_removes_the_pitch_and_keeps_loudness_and_its_course():
    time = np.arange(16_000) / 16_000
    voice = sum(np.sin(2 * np.pi * 125 * harmonic * time) for harmonic in range(1, 30)) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time))
    whisper = whispered(voice.astype(np.float32), np.random.default_rng(0))

    def periodicity(sound: np.ndarray) -> float:
        return float(np.corrcoef(sound[:-128], sound[128:])[0, 1])

    def course(sound: np.ndarray) -> np.ndarray:
        return np.sqrt((sound[: 40 * 400].reshape(40, 400) ** 2).mean(1))

    assert periodicity(voice) > 0.9 > 0.3 > periodicity(whisper)
    assert np.corrcoef(course(voice), course(whisper))[0, 1] > 0.8
    assert whisper.shape == voice.shape and whisper.std() == pytest.approx(voice.std(), rel=0.01)


def test_music_is_tonal_and_of_unit_level():
    generator = np.random.default_rng(0)
    pieces = [music(32_000, generator) for _ in range(12)]
    spectra = [np.abs(np.fft.rfft(piece)) ** 2 for piece in pieces]
    assert all(np.sort(spectrum)[-160:].sum() > 0.3 * spectrum.sum() for spectrum in spectra)  # a hundredth of the bins holds most of it
    assert 0.3 < np.mean([piece.std() for piece in pieces]) < 2


def test_augmentation_keeps_length_and_timing():
    generator = np.random.default_rng(0)
    click = np.zeros(16_000, np.float32)
    click[8_000] = 1
    for _ in range(20):
        changed = augment(click, coloured_noise(16_000, 1.0, generator), generator)
        assert changed.shape == click.shape and np.isfinite(changed).all()
    room = impulse_response(0.4, 2.0, generator)
    assert np.argmax(np.abs(room)) == 0 and np.linalg.norm(room) == pytest.approx(1)


@pytest.mark.skipif(not ctypes.util.find_library("espeak-ng"), reason="libespeak-ng is not installed")
def test_espeak_reports_phone_times():
    speech = speak_espeak("sue pass", "en-us+f3", words_per_minute=120)
    visemes = [segment.viseme for segment in viseme_segments(speech.phones) if segment.viseme != SIL]
    assert visemes == [SS, OU, PP, AA, SS]
    assert speech.phones[-1].end == pytest.approx(len(speech.samples) / speech.sample_rate)
    loudness = {name: [] for name in ("vowel", "closure")}
    for item in speech.phones:
        piece = speech.samples[int(item.start * speech.sample_rate) : int(item.end * speech.sample_rate)]
        loudness["vowel" if item.parts[0][0] in ("aa", "ou") else "closure"].append(float(np.sqrt((piece**2).mean())))
    assert min(loudness["vowel"]) > max(loudness["closure"])
    with pytest.raises(ValueError, match="no voice"):
        speak_espeak("a", "no-such-voice")


@pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed")
def test_flite_reports_phone_times():
    speech = speak_flite("sue pass", "slt")
    assert [segment.viseme for segment in viseme_segments(speech.phones)] == [SIL, SS, OU, PP, AA, SS, SIL]
    assert speech.phones[-1].end == pytest.approx(len(speech.samples) / speech.sample_rate, abs=0.05)


@pytest.mark.skipif(not (shutil.which("flite") and ctypes.util.find_library("espeak-ng")), reason="flite or espeak-ng is not installed")
def test_words_without_meaning_stand_between_pauses_that_are_labelled_so():
    for item in syllable_utterances(3, seed=4):
        seconds, pauses = len(item.samples) / 16_000, [segment for segment in item.segments if segment.viseme == SIL]
        assert item.segments[-1].viseme == SIL and item.segments[-1].end == pytest.approx(seconds, abs=0.01)
        assert all(before.end < after.start + 0.002 for before, after in zip(item.segments, item.segments[1:]))
        assert len(pauses) >= 5 and any(segment.viseme != SIL for segment in item.segments)
        level = np.square(item.samples.astype(np.float64) / 32768)
        quiet = np.concatenate([level[int(start * 16_000) : int(end * 16_000)] for start, end, _ in pauses])
        assert quiet.mean() < 0.1 * level.mean()


@pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed")
def test_forced_alignment_finds_the_synthesiser_s_own_times():
    pytest.importorskip("pocketsphinx")
    text = "place white by four again"
    speech = speak_flite(text, "slt")
    aligned = [item for item in force_align(speech.samples, text) if item.symbol != "SIL"]
    true = [item for item in speech.phones if item.symbol != "pau"]
    assert [item.symbol for item in aligned] == [item.symbol.upper() for item in true]
    assert np.median([abs(a.start - b.start) for a, b in zip(aligned, true, strict=True)]) < 0.02


def test_forced_alignment_names_unknown_words():
    pytest.importorskip("pocketsphinx")
    with pytest.raises(ValueError, match="xyzzyq"):
        force_align(np.zeros(16_000, np.float32), "say xyzzyq")
