"""Phone times of known text in real speech; pocketsphinx is needed only to make training labels and is looked up when called."""

import re
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..models.visemes import arpabet_parts
from .closures import fit_closures
from .viseme_labels import SAMPLE_RATE, Phone

# pocketsphinx analyses windows of 25.6 ms every 10 ms: frame i stands for the 10 ms around 10 i + 12.8 ms.
_ALIGN_HOP, _ALIGN_SHIFT = 0.010, 0.0078
# The phone pass needs three frames a phone, the word pass that bounds it does not: where it fails, another frame phase helps.
_ALIGN_SKIPS = (0, 40, 80, 120, 20, 60, 100, 140)
# Silence put before the speech, in seconds: without it an initial stop is lost to the margin.
_LEAD = 0.3
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
    """Phones of known `text` in real speech, by pocketsphinx' US-English model (10 ms), closures as they are heard (2 ms).

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
    pcm = np.concatenate([np.zeros(int(_LEAD * SAMPLE_RATE), "<i2"), pcm])
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
            start = entry.start * _ALIGN_HOP + _ALIGN_SHIFT + skipped / SAMPLE_RATE - _LEAD
            end = start + entry.duration * _ALIGN_HOP
            if end > 0:
                phones.append(Phone(max(0.0, start), end, symbol, parts, name))
    return fit_closures(phones, samples, SAMPLE_RATE)
