"""Phones in time, and the visemes made of them.

Every source of speech (`forced_alignment`, `speech_synthesis`) yields `Phone`s in seconds from the start of the waveform; `viseme_segments`
turns them into visemes and `coverage` into soft labels on any frame grid.
"""

from typing import NamedTuple

import numpy as np

from ..models.visemes import NUM_VISEMES, VISEME_INDEX, Parts

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
