"""Are the lips shut where p, b and m are spoken?  What an eye notices first, and a correlation hardly.

When they are spoken comes from forced alignment of a clip's sound with its words (`data.forced_alignment`), not from the classifier that
the generated lips follow.
"""

import re
from collections import defaultdict

import numpy as np

from ..data.forced_alignment import GRID_PRONUNCIATIONS, force_align
from ..data.manifest import Clip
from ..data.viseme_labels import Phone
from ..errors import InvalidInputError
from ..face.landmarks import CLOSED_OPENING
from ..media.video import FPS
from ..text_files import read_table_text

_CLOSED_BY_LIPS = {"P", "B", "M"}
_PAUSES = {"sil", "sp"}

Span = tuple[float, float]


def clip_words(clip: Clip) -> str | None:
    """What is said, by the clip's alignment or transcript; None where it has neither.  LRS3's transcripts say it after "Text:"."""
    if clip.alignment is not None:
        words = [line.split()[-1] for line in read_table_text(clip.alignment).splitlines() if line.strip()]
        return " ".join(word for word in words if word not in _PAUSES)
    if clip.transcript is not None:
        text = read_table_text(clip.transcript).strip()
        told = re.match(r"Text:(.*)", text)
        return told.group(1).strip() if told else text
    return None


def find_closures(clip: Clip, samples: np.ndarray) -> list[Span]:
    """Start and end, in seconds, of each p, b and m in a clip's sound [N] at 16 kHz; none for a clip without words.

    Raises InvalidInputError for words that the aligner does not know and for sound that does not match them.
    """
    words = clip_words(clip)
    if not words:
        return []
    try:
        return closures_of(force_align(samples, words, GRID_PRONUNCIATIONS if clip.alignment is not None else None))
    except ValueError as error:
        raise InvalidInputError(f"{clip.id}: no closures: {error}") from error


def closures_of(phones: list[Phone]) -> list[Span]:
    """Start and end of each p, b and m; of two in a row, which the lips close for only once, of both."""
    spans: list[Span] = []
    for phone in phones:
        if phone.symbol in _CLOSED_BY_LIPS:
            joined = spans and phone.start - spans[-1][1] < 1e-6
            spans[-1:] = [(spans[-1][0], phone.end)] if joined else [*spans[-1:], (phone.start, phone.end)]
    return spans


def shut_share(opening: np.ndarray, spans: list[Span]) -> dict[str, float]:
    """`closures`, how many of the spans lie within the video; `closures_shut`, the share of them in which the lips are shut at least once.

    Shut is an opening [T], in interocular distances at 25 frames a second, below `CLOSED_OPENING` in a frame that the span touches.
    Nothing where there are no such spans.
    """
    frames = [(int(start * FPS), int(np.ceil(end * FPS))) for start, end in spans]
    shut = [bool((opening[first:last] < CLOSED_OPENING).any()) for first, last in frames if first < len(opening)]
    return {"closures": len(shut), "closures_shut": float(np.mean(shut))} if shut else {}


def closures_by_talker(records: list[dict]) -> dict[str, dict[str, dict[str, int]]]:
    """{row: {talker or "all": {"closures": how many, "shut": of these}}} of records with keys "talker" and "rows"."""
    counts: dict = defaultdict(lambda: defaultdict(lambda: {"closures": 0, "shut": 0}))
    for record in records:
        for row, figures in record["rows"].items():
            for group in ("all", record.get("talker")) if "closures" in figures else ():
                counts[row][group]["closures"] += figures["closures"]
                counts[row][group]["shut"] += round(figures["closures"] * figures["closures_shut"])
    return {row: dict(groups) for row, groups in counts.items()}
