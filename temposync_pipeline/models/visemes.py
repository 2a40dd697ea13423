"""The 15 visemes and the maps that bring ARPAbet and IPA phonemes to them.

A phoneme becomes one or two `(viseme, share)` parts that follow each other in time; the shares sum to 1.
Diphthongs spend 60 % of their time in the first shape and 40 % in the second.
The classes are those of the Oculus/MPEG-4 viseme sets.
"""

import unicodedata

VISEMES = ("sil", "PP", "FF", "TH", "DD", "kk", "CH", "SS", "nn", "RR", "aa", "E", "ih", "oh", "ou")
VISEME_INDEX = {name: index for index, name in enumerate(VISEMES)}
NUM_VISEMES = len(VISEMES)

Parts = tuple[tuple[str, float], ...]

_ARPABET = {
    "sil": "SIL SP PAU SSIL", "PP": "P B M", "FF": "F V", "TH": "TH DH", "DD": "T D DX", "kk": "K G NG",
    "CH": "CH JH SH ZH", "SS": "S Z", "nn": "N L EN EL", "RR": "R ER AXR", "aa": "AA AE AH", "E": "EH AX",
    "ih": "IH IY Y IX", "oh": "AO", "ou": "UH UW W",
}
_ARPABET_DIPHTHONGS = {"AY": ("aa", "ih"), "AW": ("aa", "ou"), "EY": ("E", "ih"), "OW": ("oh", "ou"), "OY": ("oh", "ih")}

# /h/ has no lip shape of its own: it borrows that of the vowel to come.
ASPIRATES = frozenset({"HH", "HV", "h", "ɦ"})

ARPABET_VISEMES: dict[str, Parts] = {
    **{phone: ((viseme, 1.0),) for viseme, phones in _ARPABET.items() for phone in phones.split()},
    **{phone: ((first, 0.6), (second, 0.4)) for phone, (first, second) in _ARPABET_DIPHTHONGS.items()},
}

# One symbol at a time, without length, stress or diacritics; sounds foreign to English go to the nearest lip shape.
_IPA = {
    "PP": "p b m ɓ ʙ", "FF": "f v ɱ ʋ ⱱ", "TH": "θ ð", "DD": "t d ʈ ɖ ɾ ɗ ʔ", "kk": "k ɡ g ŋ x ɣ q ɢ χ ʁ ħ ʕ ɠ ɴ c ɟ",
    "CH": "ʃ ʒ ɕ ʑ ʂ ʐ ʝ", "SS": "s z", "nn": "n l ɲ ɳ ɫ ɭ ʎ ɬ ɮ ʟ", "RR": "ɹ r ɻ ʀ ɽ ɜ ɝ ɚ",
    "aa": "a ɑ æ ʌ ä", "E": "e ɛ ə ɐ ɘ ɞ", "ih": "i ɪ ɨ j ᵻ ɯ", "oh": "ɔ o ɒ ɤ ø œ", "ou": "u ʊ w ʍ ʉ y ʏ ɥ ɵ ɸ β",
}
_IPA_VISEMES = {symbol: viseme for viseme, symbols in _IPA.items() for symbol in symbols.split()}
# Affricates are one shape, not a stop and a fricative.
_AFFRICATES = {"tʃ": "CH", "dʒ": "CH", "tɕ": "CH", "dʑ": "CH", "tʂ": "CH", "dʐ": "CH", "ts": "SS", "dz": "SS"}


def arpabet_parts(phone: str) -> Parts:
    """Viseme parts of an ARPAbet phone; case and stress digits are ignored.  Aspirates give no parts.

    Raises KeyError for a symbol that is not ARPAbet.
    """
    phone = phone.upper().rstrip("012")
    return () if phone in ASPIRATES else ARPABET_VISEMES[phone]


def ipa_parts(phone: str) -> Parts:
    """Viseme parts of an IPA phone such as `aɪ`, `tʃ`, `ɑːɹ` or `n̩`; empty for aspirates and unknown symbols.

    A phone of two shapes is split 60/40, one of more shapes evenly.
    """
    letters = "".join(symbol for symbol in unicodedata.normalize("NFD", phone) if unicodedata.category(symbol) != "Mn")
    letters = letters.replace("əʊ", "oʊ")  # the British "go" opens like the American one
    visemes: list[str] = []
    position = 0
    while position < len(letters):
        pair = letters[position : position + 2]
        viseme = _AFFRICATES.get(pair)
        position += 2 if viseme else 1
        viseme = viseme or _IPA_VISEMES.get(pair[0])
        if viseme and (not visemes or visemes[-1] != viseme):
            visemes.append(viseme)
    if len(visemes) == 2:
        return ((visemes[0], 0.6), (visemes[1], 0.4))
    return tuple((viseme, 1 / len(visemes)) for viseme in visemes)
