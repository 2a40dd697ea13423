"""Where viseme labels come from: forced alignment of real speech, and speech synthesisers that report their phones.

Every source yields `Phone`s (seconds from the start of the waveform); `viseme_segments` turns them into visemes and
`coverage` into soft labels on any frame grid.  pocketsphinx, espeak-ng and flite are needed only to make training
labels and are looked up when called.
"""

import ctypes
import ctypes.util
import re
import subprocess
import tempfile
import wave
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..models.visemes import NUM_VISEMES, VISEME_INDEX, Parts, arpabet_parts, ipa_parts

SAMPLE_RATE = 16_000


class Phone(NamedTuple):
    """A phone, its time in seconds and the viseme parts that fill it one after the other (none: an aspirate)."""

    start: float
    end: float
    symbol: str
    parts: Parts
    word: str = ""


class Segment(NamedTuple):
    """A stretch of one viseme, in seconds."""

    start: float
    end: float
    viseme: int


class Speech(NamedTuple):
    """A waveform (float32, mono) with the phones it was made from."""

    samples: np.ndarray
    sample_rate: int
    phones: list[Phone]


def viseme_segments(phones: list[Phone]) -> list[Segment]:
    """Visemes in time order.  A phone without parts takes the first shape of the next one that has some."""
    segments = []
    following: Parts = (("sil", 1.0),)
    for phone in reversed(phones):
        parts = phone.parts or following[:1]
        end = phone.end
        total = sum(share for _, share in parts)
        for viseme, share in reversed(parts):
            start = end - share / total * (phone.end - phone.start)
            segments.append(Segment(start, end, VISEME_INDEX[viseme]))
            end = start
        following = parts
    return segments[::-1]


def coverage(segments: list[Segment], num_frames: int, frame_seconds: float, offset: float = 0.0) -> np.ndarray:
    """Share of each frame's time spent in each viseme: float32 [num_frames, 15], rows sum to 1.

    Frame i covers [offset + i * frame_seconds, offset + (i + 1) * frame_seconds); time that no segment covers is silence.
    """
    labels = np.zeros((num_frames, NUM_VISEMES))
    edges = offset + frame_seconds * np.arange(num_frames + 1)
    for start, end, viseme in segments:
        labels[:, viseme] += np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None)
    labels /= frame_seconds
    labels[:, 0] += np.clip(1 - labels.sum(1), 0, None)
    return (labels / labels.sum(1, keepdims=True)).astype(np.float32)


# --- forced alignment ------------------------------------------------------------------------------------------------

# pocketsphinx analyses windows of 25.6 ms every 10 ms: frame i stands for the 10 ms around 10 i + 12.8 ms.
_ALIGN_HOP, _ALIGN_SHIFT = 0.010, 0.0078
# The phone pass needs three frames a phone, the word pass that bounds it does not: where it fails, another frame phase helps.
_ALIGN_SKIPS = (0, 40, 80, 120, 20, 60, 100, 140)
_VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
_WEAK_WORDS = frozenset({"a", "the"})

# How GRID's British talkers say the letters and words that the US dictionary says otherwise.
GRID_PRONUNCIATIONS = {
    "a": ["EY"], "z": ["Z EH D"], "r": ["AA R", "AA"], "o": ["OW"], "four": ["F AO", "F AO R"], "h": ["EY CH"],
    "e": ["IY"], "i": ["AY"], "at": ["AE T"], "with": ["W IH DH", "W IH TH"], "again": ["AH G EH N", "AH G EY N"],
}


@lru_cache(maxsize=2)
def _aligner(pronunciations: tuple[tuple[str, tuple[str, ...]], ...]):
    from pocketsphinx import Decoder, get_model_path

    source = Path(get_model_path("en-us/cmudict-en-us.dict")).read_text(encoding="utf-8").splitlines()
    replaced = {word for word, _ in pronunciations}
    lines = [line for line in source if line.split(" ", 1)[0].split("(")[0] not in replaced]
    for word, variants in pronunciations:
        lines += [f"{word}{f'({i})' if i > 1 else ''} {phones}" for i, phones in enumerate(variants, 1)]
    with tempfile.NamedTemporaryFile("w", suffix=".dict", encoding="utf-8") as dictionary:
        dictionary.write("\n".join(lines) + "\n")
        dictionary.flush()
        return Decoder(lm=None, dict=dictionary.name, loglevel="FATAL", cmn="batch")


def _align(decoder, words: list[str], pcm: bytes):
    """pocketsphinx' alignment of one utterance, or None where its word pass or phone pass found no path."""

    def decode() -> None:
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()

    try:
        decoder.set_align_text(" ".join(words))
        decode()
        if decoder.hyp() is None:
            return None
        decoder.set_alignment()
        decode()
        return decoder.get_alignment()
    except RuntimeError:
        return None


def force_align(samples: np.ndarray, text: str, pronunciations: dict[str, list[str]] | None = None) -> list[Phone]:
    """Phones of known `text` in real speech, by pocketsphinx' US-English model (10 ms resolution).

    samples: float32 [N] in [-1, 1] at 16 kHz.  pronunciations: ARPAbet variants that replace the dictionary's, by word.
    The dictionary has no stress, so it writes both the vowel of "cut" and schwa as AH: one in a word of several vowels is
    taken for schwa, which it mostly is.

    Raises ValueError for words outside the dictionary and for speech that does not match the text.
    """
    decoder = _aligner(tuple((word, tuple(variants)) for word, variants in (pronunciations or {}).items()))
    words = re.findall(r"[a-z']+", text.lower().replace("’", "'").replace("-", " "))
    unknown = sorted({word for word in words if decoder.lookup_word(word) is None})
    if unknown or not words:
        raise ValueError(f"not in the pronunciation dictionary: {', '.join(unknown) or 'empty text'}")
    # Peak-normalised: the acoustic model's cepstral mean starts from typical speech levels.
    pcm = (samples / max(float(np.abs(samples).max()), 1e-4) * 20_000).astype("<i2")
    for skipped in _ALIGN_SKIPS:
        alignment = _align(decoder, words, pcm[skipped:].tobytes())
        if alignment is not None:
            break
    else:
        raise ValueError("the speech does not match the text")
    phones = []
    for word in alignment:
        entries = list(word)
        name = word.name.split("(")[0]
        weak = name in _WEAK_WORDS or sum(entry.name in _VOWELS for entry in entries) > 1
        for entry in entries:
            symbol = "AX" if entry.name == "AH" and weak else entry.name
            parts = (("sil", 1.0),) if symbol.startswith("+") else arpabet_parts(symbol)
            start = entry.start * _ALIGN_HOP + _ALIGN_SHIFT + skipped / SAMPLE_RATE
            phones.append(Phone(start, start + entry.duration * _ALIGN_HOP, symbol, parts, name))
    return phones


# --- speech synthesis ------------------------------------------------------------------------------------------------


class _EspeakEventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _EspeakEvent(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _EspeakEventId),
    ]


_EspeakCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent))
_ESPEAK_SYNCHRONOUS, _ESPEAK_IPA_PHONEME_EVENTS = 2, 0x1 | 0x2
_ESPEAK_RATE, _ESPEAK_PITCH, _ESPEAK_RANGE = 1, 3, 4
_ESPEAK_END_OF_LIST, _ESPEAK_PHONEME = 0, 7
_ESPEAK_UTF8 = 1


@lru_cache(maxsize=1)
def _espeak() -> tuple[ctypes.CDLL, int]:
    library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
    sample_rate = library.espeak_Initialize(_ESPEAK_SYNCHRONOUS, 0, None, _ESPEAK_IPA_PHONEME_EVENTS)
    if sample_rate <= 0:
        raise RuntimeError("espeak-ng did not start")
    return library, sample_rate


def speak_espeak(text: str, voice: str = "en-us", words_per_minute: int = 160, pitch: int = 50, pitch_range: int = 50) -> Speech:
    """Speech of espeak-ng with the phoneme times its library reports; needs its shared library.

    voice: a voice, or voice+variant such as `en-us+f3`.  pitch and pitch_range: 0 to 100.  Raises ValueError for an unknown voice.
    """
    library, sample_rate = _espeak()
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice!r}")
    for parameter, value in ((_ESPEAK_RATE, words_per_minute), (_ESPEAK_PITCH, pitch), (_ESPEAK_RANGE, pitch_range)):
        library.espeak_SetParameter(parameter, value, 0)
    chunks: list[np.ndarray] = []
    starts: list[tuple[float, str]] = []

    def receive(samples, count, events) -> int:
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _ESPEAK_END_OF_LIST:
            if events[index].type == _ESPEAK_PHONEME:
                starts.append((events[index].sample / sample_rate, events[index].id.string.decode(errors="ignore")))
            index += 1
        return 0

    callback = _EspeakCallback(receive)  # kept in a name: the library calls it until Synth returns
    library.espeak_SetSynthCallback(callback)
    encoded = text.encode() + b"\0"
    library.espeak_Synth(encoded, len(encoded), 0, 1, 0, _ESPEAK_UTF8, None, None)
    library.espeak_Synchronize()
    samples = np.concatenate(chunks).astype(np.float32) / 32768
    ends = [start for start, _ in starts[1:]] + [len(samples) / sample_rate]
    phones = [
        Phone(start, end, symbol, ipa_parts(symbol) if symbol else (("sil", 1.0),))
        for (start, symbol), end in zip(starts, ends)
        if end > start
    ]
    return Speech(samples, sample_rate, phones)


def speak_flite(text: str, voice: str = "slt", duration_stretch: float = 1.0) -> Speech:
    """Speech of flite (voices slt, rms, awb, kal16) with the segment end times it prints; needs the `flite` command."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["flite", "-voice", voice, "-psdur", "--setf", f"duration_stretch={duration_stretch}", "-t", text, "-o", file.name]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        with wave.open(file.name) as audio:
            sample_rate = audio.getframerate()
            samples = np.frombuffer(audio.readframes(audio.getnframes()), "<i2").astype(np.float32) / 32768
    phones, start = [], 0.0
    for entry in printed.split():
        symbol, end = entry.rsplit(":", 1)
        phones.append(Phone(start, float(end), symbol, arpabet_parts(symbol)))
        start = float(end)
    return Speech(samples, sample_rate, phones)
