"""Speech with viseme segments: GRID talkers, read utterances, synthesised voices and other languages, cached in one .npz file."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
from tqdm import tqdm

from ..media.audio import load_audio
from ..text_files import read_table_text
from .arrays import read_arrays
from .forced_alignment import GRID_PRONUNCIATIONS, force_align
from .sentences import EVALUATION, TRAINING
from .speech_synthesis import speak_espeak, speak_flite, with_pauses
from .viseme_labels import SAMPLE_RATE, Phone, Segment, Speech, viseme_segments

# GRID sentences are command, colour, preposition, letter, digit, adverb.
_GRID_PLAN = (
    "bin lay place set", "blue green red white", "at by in with", "ay b c d e f g h i j k l m n o p q r s t u v x y zed",
    "zero one two three four five six seven eight nine", "again now please soon",
)
_ESPEAK_ACCENTS = ("en-us", "gmw/en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
_ESPEAK_VARIANTS = (
    "", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8", "+f1", "+f2", "+f3", "+f4", "+f5", "+klatt", "+klatt2", "+klatt4",
    "+Alicia", "+Andrea", "+Annie", "+Denis", "+Gene", "+Lee", "+Marco", "+Mario", "+Michael", "+adam", "+anika", "+antonio",
    "+belinda", "+david", "+ed", "+edward", "+john", "+linda", "+max", "+paul", "+quincy", "+rob", "+shelby", "+steph", "+travis", "+zac",
)
_FLITE_VOICES = ("slt", "rms", "awb", "kal16")
# Words without meaning are made of these. `metrics.syllables` asks for the words and voices that are left out.
_SYLLABLE_CONSONANTS, _SYLLABLE_VOWELS = "p p p b b m m t d n k g f v s l r w".split(), "a a o u i e ee oo".split()
_SYLLABLE_VOICES, _WORDS_LEFT_OUT = ("rms", "awb", "kal16"), frozenset(("papa", "mama", "baba"))


class Utterance(NamedTuple):
    """samples: int16 [N] at 16 kHz.  source: `grid`, `read`, `voices`, `synthetic`, `foreign`, `syllables` or `unlabelled`."""

    name: str
    source: str
    samples: np.ndarray
    segments: list[Segment]


def _utterance(name: str, source: str, samples: np.ndarray, phones: list[Phone]) -> Utterance:
    return Utterance(name, source, (np.clip(samples, -1, 1) * 32767).astype(np.int16), viseme_segments(phones))


def grid_utterances(root: Path) -> Iterator[Utterance]:
    """Clips `<root>/<talker>/<clip>.mpg` with word times in `.align` (start end word, in 1/25,000 s), aligned at phone level."""
    for video in tqdm(sorted(Path(root).glob("*/*.mpg")), desc=f"align {root}"):
        words = [line.split() for line in read_table_text(video.with_suffix(".align")).splitlines()]
        words = [(int(start) / 25_000, int(end) / 25_000, word) for start, end, word in words if word not in ("sil", "sp")]
        samples = load_audio(video).samples
        # The given word times bound the search; the margin leaves room for a first closure.
        first = max(0, int((words[0][0] - 0.12) * SAMPLE_RATE))
        last = int((words[-1][1] + 0.12) * SAMPLE_RATE)
        try:
            phones = force_align(samples[first:last], " ".join(word for *_, word in words), GRID_PRONUNCIATIONS)
        except ValueError:
            continue  # a clip that cannot be aligned teaches nothing
        offset = first / SAMPLE_RATE
        phones = [phone._replace(start=phone.start + offset, end=phone.end + offset) for phone in phones]
        yield _utterance(f"{video.parent.name}_{video.stem}", "grid", samples, phones)


def read_utterances(root: Path, source: str = "read") -> Iterator[Utterance]:
    """Files `<root>/<id>.flac` with `metadata.csv` (id|text|...); those the aligner rejects are left out."""
    for line in tqdm(read_table_text(Path(root) / "metadata.csv").splitlines(), desc=f"align {root}"):
        name, text = line.split("|")[0], line.split("|")[-1]
        samples = load_audio(Path(root) / f"{name}.flac").samples
        try:
            yield _utterance(f"{Path(root).name}_{name}", source, samples, force_align(samples, text))
        except ValueError:
            continue  # numerals, foreign names, misreadings


def synthetic_utterances(
    count: int, transcripts: list[str], seed: int = 0, grid_share: float = 0.25, flite_share: float = 0.2
) -> Iterator[Utterance]:
    """Synthesised speech with exact phone times: GRID-style sentences, pieces of `transcripts` and shuffled words of them."""
    generator = random.Random(seed)
    vocabulary = sorted({word for text in transcripts for word in text.split()}) or ["hello"]
    for index in tqdm(range(count), desc="synthesise"):
        if generator.random() < grid_share or not transcripts:
            text = " ".join(generator.choice(words.split()) for words in _GRID_PLAN)
        elif generator.random() < 0.5:
            words = generator.choice(transcripts).split()
            start = generator.randrange(max(1, len(words) - 8))
            text = " ".join(words[start : start + 12])
        else:
            text = " ".join(generator.choices(vocabulary, k=8))
        if generator.random() < flite_share:
            speech = speak_flite(text, generator.choice(_FLITE_VOICES), round(generator.uniform(0.8, 1.3), 2))
        else:
            speech = _speak_somehow(text, generator.choice(_ESPEAK_ACCENTS), generator)
        yield _synthesised(f"synthetic_{index}", "synthetic", speech)


def foreign_utterances(count: int, transcripts: list[str], seed: int = 0) -> Iterator[Utterance]:
    """espeak-ng in other languages: the sentences of `sentences.TRAINING`, shuffled words of them, and English read as they would."""
    generator = random.Random(seed)
    english = sorted({word for text in transcripts for word in text.split()})
    for index in tqdm(range(count), desc="other languages"):
        voice = generator.choice([voice for voice in TRAINING if voice != "en-us"])
        sentences = TRAINING[voice]
        # Whatever is written in Latin letters has a pronunciation in every language that uses them, and so its sounds in new orders.
        reads_english = english and max(sentences[0]) < "\u0250"
        kind = generator.random()
        if kind < 0.3:
            text = generator.choice(sentences)
        elif kind < 0.65 and reads_english:
            text = " ".join(generator.choices(english, k=8))
        else:
            text = " ".join(generator.choices([word for sentence in sentences for word in sentence.split()], k=7))
        yield _synthesised(f"{voice}_{index}", "foreign", _speak_somehow(text, voice, generator))


def syllable_utterances(count: int, seed: int = 0) -> Iterator[Utterance]:
    """Words without meaning between pauses, five an utterance: closures that nothing but their release gives away."""
    generator, rng = random.Random(seed), np.random.default_rng(seed)
    accents = [accent for accent in _ESPEAK_ACCENTS if accent != "en-us"]
    for index in tqdm(range(count), desc="syllables"):
        in_flite, pace = generator.random() < 0.5, generator.uniform(0.75, 1.3)
        voice = generator.choice(_SYLLABLE_VOICES if in_flite else accents)
        words, pauses = [], [np.zeros(0)]
        for _ in range(5):
            word = _meaningless_word(generator)
            words.append(speak_flite(word, voice, round(pace, 2)) if in_flite else _speak_somehow(word, voice, generator))
            pauses.append(rng.normal(0, 10 ** generator.uniform(-5, -3.3), int(generator.uniform(0.05, 0.5) * SAMPLE_RATE)))
        speech = with_pauses(words, pauses)
        yield _utterance(f"syllables_{index}", "syllables", speech.samples, speech.phones)


def _meaningless_word(generator: random.Random) -> str:
    """One to three syllables of a consonant and a vowel; not one of those that are asked for."""
    while True:
        syllables = generator.choice((1, 2, 2, 2, 3))
        word = "".join(generator.choice(_SYLLABLE_CONSONANTS) + generator.choice(_SYLLABLE_VOWELS) for _ in range(syllables))
        if word not in _WORDS_LEFT_OUT:
            return word


def evaluation_utterances(voice: str) -> list[Utterance]:
    """`sentences.EVALUATION` of a language, by a man's and a woman's voice at two rates."""
    return [
        _synthesised(f"{voice}{variant}_{rate}_{index}", "foreign", speak_espeak(text, voice + variant, rate))
        for index, text in enumerate(EVALUATION[voice]) for variant in ("", "+f2") for rate in (140, 190)
    ]


def _speak_somehow(text: str, voice: str, generator: random.Random) -> Speech:
    """espeak-ng at any everyday rate and pitch, in any of its timbres."""
    voice += generator.choice(_ESPEAK_VARIANTS)
    return speak_espeak(text, voice, generator.randrange(100, 300), generator.randrange(10, 99), generator.randrange(20, 90))


def _synthesised(name: str, source: str, speech: Speech) -> Utterance:
    samples = soxr.resample(speech.samples, speech.sample_rate, SAMPLE_RATE).astype(np.float32)
    return _utterance(name, source, samples, speech.phones)


def save_utterances(path: Path, utterances: list[Utterance]) -> None:
    """One uncompressed .npz: samples laid end to end, segments as rows (start s, end s, viseme)."""
    np.savez(
        path,
        names=np.array([item.name for item in utterances]),
        sources=np.array([item.source for item in utterances]),
        samples=np.concatenate([item.samples for item in utterances]),
        lengths=np.array([len(item.samples) for item in utterances]),
        segments=np.array([segment for item in utterances for segment in item.segments], np.float32),
        counts=np.array([len(item.segments) for item in utterances]),
    )


def load_utterances(path: Path) -> list[Utterance]:
    """The utterances that `save_utterances` wrote."""
    data = read_arrays(path, "names", "sources", "samples", "lengths", "segments", "counts")
    samples = np.split(data["samples"], np.cumsum(data["lengths"])[:-1])
    segments = np.split(data["segments"], np.cumsum(data["counts"])[:-1])
    return [
        Utterance(str(name), str(source), wave, [Segment(float(start), float(end), int(viseme)) for start, end, viseme in rows])
        for name, source, wave, rows in zip(data["names"], data["sources"], samples, segments)
    ]
