"""Which clips, photographs and pairs an evaluation looks at."""

from itertools import zip_longest
from pathlib import Path

import numpy as np

from ..data.manifest import Clip, build_manifest, portrait_split, read_manifest
from ..errors import InvalidInputError
from ..files import called
from ..media.image import PICTURE_SUFFIXES
from .lips import pearson

MAX_REAL_R = 0.2
VOICES_A_FILM = 2


def read_clips(manifest: Path, landmarks: Path | None = None) -> list[Clip]:
    """The validation clips of a manifest or folder, each talker in turn; all of its clips where it marks none as validation."""
    clips = read_manifest(manifest) if landmarks is None else build_manifest(manifest, landmarks)
    return spread_over_talkers([clip for clip in clips if clip.split == "val"] or clips)


def spread_over_talkers(clips: list[Clip]) -> list[Clip]:
    """The clips taken from each talker in turn, so that the first few show many people."""
    by_talker: dict[str, list[Clip]] = {}
    for clip in clips:
        by_talker.setdefault(clip.talker, []).append(clip)
    return [clip for turn in zip_longest(*by_talker.values()) for clip in turn if clip is not None]


def read_portraits(folder: Path | None, held_out_only: bool) -> list[Path]:
    """The pictures of a folder, in the order of their names."""
    if folder is None or not Path(folder).is_dir():
        raise InvalidInputError("the protocol 'portraits' needs a folder of portraits")
    files = sorted(file for file in Path(folder).iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
    files = [file for file in files if not held_out_only or portrait_split(file.name) == "val"]
    if not files:
        raise InvalidInputError(f"{called(folder)}: no portraits ({', '.join(PICTURE_SUFFIXES)}) in this folder")
    return files


def other_voice(clips: list[Clip], index: int) -> Clip:
    """The clip whose sound is the wrong one for `clips[index]`: the next clip of another talker, else the next one."""
    return other_voices(clips, index, 1)[0]


def other_voices(clips: list[Clip], index: int, count: int) -> list[Clip]:
    """The next `count` clips of other talkers than `clips[index]`'s, else the next ones; itself if it is alone."""
    others = clips[index + 1:] + clips[:index] or clips
    return ([clip for clip in others if clip.talker != clips[index].talker] or others)[:count]


def dubbed_pairs(clips: list[Clip]) -> list[tuple[Clip, Clip]]:
    """Pairs (film, driver): the first voice of each film, then the second.

    They are not chosen by how their real lips correlate, as `uncorrelated_pairs` are: where those do so little by chance, any other lips
    for the same two sentences, of a portrait too that never saw the film, correlate a little more, and a dub could not pass for real.
    """
    voices = [other_voices(clips, index, VOICES_A_FILM) for index in range(len(clips))]
    return [(clip, of_clip[turn]) for turn in range(VOICES_A_FILM) for clip, of_clip in zip(clips, voices) if turn < len(of_clip)]


def uncorrelated_pairs(clips: list[Clip], openings: list[np.ndarray], strangers: bool = True) -> list[tuple[Clip, Clip]]:
    """Pairs (portrait, driver) of different talkers, or if not `strangers` of different clips, whose real lips correlate by less than
    `MAX_REAL_R`, at most one a driver.

    Sentences that share their plan correlate by themselves: only such pairs tell whose lips are followed.  Of the portraits that
    qualify for a voice, the one used least so far is taken.  `openings` holds the real lip opening [T] of each clip.
    """
    used, pairs = [0] * len(clips), []
    for driver, heard in zip(clips, openings, strict=True):
        candidates = []
        for i, (clip, opening) in enumerate(zip(clips, openings, strict=True)):
            length = min(len(opening), len(heard))
            apart = clip.talker != driver.talker if strangers else clip is not driver
            if apart and abs(pearson(opening[:length], heard[:length])) < MAX_REAL_R:
                candidates.append(i)
        if candidates:
            chosen = min(candidates, key=used.__getitem__)
            used[chosen] += 1
            pairs.append((clips[chosen], driver))
    return pairs
