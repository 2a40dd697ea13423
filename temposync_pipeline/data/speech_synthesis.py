"""Speech whose phone times are known: espeak-ng and flite, needed only to make training labels and looked up when called."""

import ctypes
import ctypes.util
import subprocess
import tempfile
import wave
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import soxr

from ..models.visemes import arpabet_parts, ipa_parts
from .closures import fit_closures
from .viseme_labels import SAMPLE_RATE, Phone, Speech


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
_ESPEAK_FASTEST = 450
# espeak-ng's event of these is the release; seconds of the closure before it, by words a minute.
_ESPEAK_RELEASED = ("p", "t", "k", "c", "q", "ʈ", "tʃ", "ts", "tɕ", "tʂ")
_ESPEAK_RATES, _ESPEAK_CLOSURES = (120, 160, 220, 300), (0.053, 0.042, 0.032, 0.025)
# The vowel after these is reported late, by this share of their duration and at most by so many seconds.
_ESPEAK_LATE_AFTER, _ESPEAK_LATE_SHARE, _ESPEAK_LATEST = frozenset("mnlŋɲɫɭʎ"), 0.4, 0.03


@lru_cache(maxsize=1)
def _espeak() -> tuple[ctypes.CDLL, int]:
    library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
    sample_rate = library.espeak_Initialize(_ESPEAK_SYNCHRONOUS, 0, None, _ESPEAK_IPA_PHONEME_EVENTS)
    if sample_rate <= 0:
        raise RuntimeError("espeak-ng did not start")
    return library, sample_rate


def speak_espeak(text: str, voice: str = "en-us", words_per_minute: int = 160, pitch: int = 50, pitch_range: int = 50) -> Speech:
    """Speech of espeak-ng with the phoneme times its library reports; needs its shared library.

    voice: a voice, or voice+variant such as `en-us+f3`.  words_per_minute: 80 to 449; from 450 on its times are wrong.
    pitch and pitch_range: 0 to 100.  Raises ValueError for an unknown voice and for a rate that is too fast.
    """
    if words_per_minute >= _ESPEAK_FASTEST:
        raise ValueError(f"{words_per_minute} words a minute: espeak-ng's times are wrong from {_ESPEAK_FASTEST} on")
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
    closure = float(np.interp(words_per_minute, _ESPEAK_RATES, _ESPEAK_CLOSURES))
    return Speech(samples, sample_rate, fit_closures(_events_to_phones(phones, closure), samples, sample_rate, closure))


def _events_to_phones(phones: list[Phone], closure: float) -> list[Phone]:
    """espeak-ng's events moved to where phones usually begin, for those whose closure `fit_closures` doesn't find in the sound."""
    starts = [phone.start for phone in phones]
    for index, (before, phone) in enumerate(zip(phones, phones[1:]), 1):
        duration = phone.start - before.start
        if phone.symbol.startswith(_ESPEAK_RELEASED):
            starts[index] = phone.start - min(closure, 0.7 * duration)
        elif before.symbol[:1] in _ESPEAK_LATE_AFTER:
            starts[index] = phone.start - min(_ESPEAK_LATEST, _ESPEAK_LATE_SHARE * duration)
    ends = starts[1:] + [phone.end for phone in phones[-1:]]
    return [phone._replace(start=start, end=end) for phone, start, end in zip(phones, starts, ends)]


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
        end = min(float(end), len(samples) / sample_rate)  # kal's final pause is said to end after the sound
        phones.append(Phone(start, end, symbol, arpabet_parts(symbol)))
        start = end
    return Speech(samples, sample_rate, fit_closures(phones, samples, sample_rate))


def with_pauses(words: Sequence[Speech], pauses: Sequence[np.ndarray]) -> Speech:
    """Words one after the other, at 16 kHz, each after its own of the `pauses` (float [N] at 16 kHz); one pause more ends them."""
    sounds, phones, length = [], [], 0
    for word, pause in zip([*words, None], pauses, strict=True):
        if len(pause):
            phones.append(Phone(length / SAMPLE_RATE, (length + len(pause)) / SAMPLE_RATE, "", (("sil", 1.0),)))
        length += len(pause)
        sounds.append(pause)
        if word is not None:
            start = length / SAMPLE_RATE
            phones += [phone._replace(start=start + phone.start, end=start + phone.end) for phone in word.phones]
            sounds.append(soxr.resample(word.samples, word.sample_rate, SAMPLE_RATE))
            length += len(sounds[-1])
    return Speech(np.concatenate(sounds).astype(np.float32), SAMPLE_RATE, phones)
