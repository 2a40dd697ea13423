"""The mouth shapes over time, drawn over the waveform as an SVG that follows the page's width and colours."""

from html import escape
from itertools import groupby

import numpy as np

from ..models.visemes import VISEMES

# One colour a way of shaping the mouth, readable on white and on black.
GROUPS = {
    "closed": ("#94a3b8", ("sil",)),
    "lips": ("#ef4444", ("PP", "FF")),
    "tongue": ("#8b5cf6", ("TH", "DD", "kk", "nn", "RR")),
    "teeth": ("#0ea5e9", ("CH", "SS")),
    "open": ("#f59e0b", ("aa", "E", "ih", "oh", "ou")),
}
COLOURS = {viseme: colour for colour, visemes in GROUPS.values() for viseme in visemes}
HEIGHT, LEGEND = 96, 22
# Points of the waveform's outline, and the share of the width that a label needs.
COLUMNS, LABEL_SHARE = 600, 0.022


def draw_timeline(probabilities: np.ndarray, samples: np.ndarray, fps: float) -> str:
    """An SVG picture as text.

    Args:
        probabilities: [T, 15], a row a video frame. samples: the waveform, float [N] in [-1, 1], over the same time. fps: frames a second.
    """
    total, bands, frame = len(probabilities), [], 0
    for viseme, run in groupby(probabilities.argmax(1).tolist()):
        count = len(list(run))
        bands.append(_band(VISEMES[viseme], frame, count, total, fps))
        frame += count
    return (
        f'<svg class="timeline" role="img" aria-label="Mouth shapes over time" xmlns="http://www.w3.org/2000/svg" width="100%" '
        f'height="{HEIGHT + LEGEND}" font-family="inherit" font-size="11" fill="currentColor">'
        f'{"".join(bands)}'
        f'<svg y="18" width="100%" height="{HEIGHT - 18}" viewBox="0 -1 {COLUMNS} 2" preserveAspectRatio="none">'
        f'<path d="{_outline(samples)}" fill="currentColor" fill-opacity="0.5"/></svg>'
        f'{_legend()}</svg>'
    )


def _band(viseme: str, first: int, count: int, total: int, fps: float) -> str:
    left, width = 100 * first / total, 100 * count / total
    title = escape(f"{viseme}  {first / fps:.2f}–{(first + count) / fps:.2f} s")
    text = ""
    if viseme != "sil" and count / total >= LABEL_SHARE:
        text = f'<text x="{left + width / 2:.2f}%" y="13" text-anchor="middle">{viseme}</text>'
    opacity = 0.12 if viseme == "sil" else 0.4
    return (f'<g><title>{title}</title><rect x="{left:.2f}%" width="{width:.2f}%" height="{HEIGHT}" '
            f'fill="{COLOURS[viseme]}" fill-opacity="{opacity}"/>{text}</g>')


def _outline(samples: np.ndarray) -> str:
    """A closed path around the waveform, [0, COLUMNS] by [-1, 1], scaled to its loudest moment."""
    columns = np.array_split(np.abs(samples), min(COLUMNS, len(samples)))
    peaks = np.array([column.max() for column in columns])
    peaks = 0.95 * peaks / max(float(peaks.max()), 1e-3)
    step = COLUMNS / len(peaks)
    upper = [f"{index * step:.0f} {-peak:.2f}" for index, peak in enumerate(peaks)]
    lower = [f"{index * step:.0f} {peak:.2f}" for index, peak in reversed(list(enumerate(peaks)))]
    return "M" + "L".join(upper + lower) + "Z"


def _legend() -> str:
    parts, left = [], 0.0
    for name, (colour, _) in GROUPS.items():
        if name != "closed":
            parts.append(f'<circle cx="{left + 1.2:.1f}%" cy="{HEIGHT + 13}" r="4" fill="{colour}"/>'
                         f'<text x="{left + 3:.1f}%" y="{HEIGHT + 17}">{name}</text>')
            left += 25
    return "".join(parts)
