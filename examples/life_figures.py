"""Blinks, brows and the head's motion of talkers, beside those that `face.life` generates: Markdown.

    python examples/life_figures.py --tracks TRACKS --audio examples/media/speech_*.wav --portrait examples/media/portrait_man.jpg

TRACKS holds landmark files of clips at 25 frames a second, `<talker>_<clip>.npz` (`landmarks` [T, 131 or 478, 2 or 3]); the generator
speaks AUDIO, over and over, for ten minutes, and in a video of PORTRAIT, whose head the face aligner reads as it read the talkers', for
five.  All are measured alike, the generator's also in pieces of 3 s, as long as GRID's clips: of a short clip's blinks only those intervals
are known that fit into it.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks
from tqdm import tqdm

from temposync_pipeline import TempoSyncPipeline
from temposync_pipeline.data.clips import load_landmarks
from temposync_pipeline.data.face_motion import face_motion
from temposync_pipeline.face.crop import transform_points
from temposync_pipeline.face.landmarks import RIGID, interocular_distance, lid_opening
from temposync_pipeline.face.life import LifeTracks
from temposync_pipeline.media.audio import SAMPLE_RATE, load_audio

FPS, MINUTES, VIDEO_MINUTES = 25, 10, 5
HEAD = ("right, IOD", "down, IOD", "tilt, rad", "growth", "turn right, IOD", "turn down, IOD")
# A blink closes eyes by at least this share of how far they are open, and is no part of the one before; the least rise of brows that
# counts, in IOD.
LEAST_DEPTH, LEAST_FRAMES, LEAST_RAISE = 0.12, 8, 0.006
SHOWN = (10, 50, 90)


@dataclass
class Measured:
    """Blinks and raises of the brows, all in seconds and interocular distances."""

    seconds: float = 0.0
    blinks: int = 0
    intervals: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    raises: list[float] = field(default_factory=list)
    raise_durations: list[float] = field(default_factory=list)
    brow_variances: list[float] = field(default_factory=list)
    head_variances: list[np.ndarray] = field(default_factory=list)

    def add(self, lids: np.ndarray, brows: np.ndarray, head: np.ndarray) -> None:
        """A stretch of frames: how far the lids are open [T], 1 = as usual, how far the brows are raised [T], what the head does [T, 6]."""
        lows = blinks_in(lids)
        self.seconds += len(lids) / FPS
        self.blinks += len(lows)
        self.intervals += list(np.diff(lows) / FPS)
        self.durations += [half_depth(lids, low) for low in lows if 6 <= low < len(lids) - 10]
        peaks, found = find_peaks(gaussian_filter1d(brows, 1.0), prominence=LEAST_RAISE, width=1)
        self.raises += list(found["prominences"])
        self.raise_durations += list(found["widths"] / FPS)
        self.brow_variances.append(float(brows.var()))
        self.head_variances.append(head.var(0))

    def add_pieces(self, *tracks: np.ndarray, length: int = 3 * FPS) -> None:
        """`add`, cut into pieces of `length` frames."""
        for start in range(0, len(tracks[0]) - length + 1, length):
            self.add(*(track[start:start + length] for track in tracks))


def blinks_in(lids: np.ndarray) -> list[int]:
    """The frames in which eyes are shut furthest, one a blink."""
    found: list[int] = []
    for frame in range(4, len(lids) - 1):
        is_low = lids[frame] <= min(lids[frame - 1], lids[frame + 1])
        if is_low and lids[frame - 4:frame].max() - lids[frame] > LEAST_DEPTH and frame - (found or [-99])[-1] >= LEAST_FRAMES:
            found.append(frame)
    return found


def half_depth(lids: np.ndarray, low: int) -> float:
    """For how long a blink is at least half as deep as at its lowest, in seconds."""
    depth = (lids[low - 6:low + 11] - lids[low]) / (lids[low - 4:low].max() - lids[low])
    return float((depth < 0.5).sum() / FPS)


def measured_tracks(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lids [T], brows [T] and head [T, 6] (`HEAD`) of a face with landmarks [T, 131, 2] in every frame."""
    rest, opening = np.median(landmarks, 0), lid_opening(landmarks).mean(1)
    motion = face_motion(landmarks, rest)
    centre, turned = rest[RIGID].mean(0), motion.similarity[:, :, 0]
    shift = np.stack([transform_points(matrix, centre) - centre for matrix in motion.similarity]) / interocular_distance(rest)
    pose = [shift, np.arctan2(turned[:, 1], turned[:, 0])[:, None], np.linalg.norm(turned, axis=1)[:, None] - 1, motion.turn]
    return opening / np.percentile(opening, 80), -motion.brows[..., 1].mean(1), np.concatenate(pose, 1)


def talkers_tracks(folder: Path) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Each talker's `measured_tracks`, clip by clip with a face in every frame."""
    for path in sorted(folder.glob("*_*.npz")):
        landmarks = load_landmarks(path).astype(np.float64)
        if np.isfinite(landmarks).all():
            yield path.stem.rsplit("_", 1)[0], measured_tracks(landmarks)


def generated_tracks(pipe: TempoSyncPipeline, samples: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lids [T], brows [T] and head [T, 6] of ten minutes, as they are drawn."""
    with torch.inference_mode():
        hearing = pipe.viseme_classifier.hear(samples, round(len(samples) / SAMPLE_RATE * FPS), FPS)
    voice = islice(cycle(pipe._to_speech(hearing).voice), MINUTES * 60 * FPS)
    life = list(LifeTracks(seed, FPS, 1.0, 1.0).frames(voice))
    return np.array([each.lids for each in life]), np.array([each.brows for each in life]), np.stack([each.head for each in life])


def tracks_in_video(pipe: TempoSyncPipeline, portrait: Path, samples: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`measured_tracks` of five minutes in which the portrait speaks."""
    voice = np.resize(samples, VIDEO_MINUTES * 60 * SAMPLE_RATE)
    chunks = pipe.stream(portrait, (voice, SAMPLE_RATE), generator=torch.Generator().manual_seed(seed), blink_rate=1.0, head_motion=1.0)
    frames = tqdm(chain.from_iterable(chunks), total=VIDEO_MINUTES * 60 * FPS, desc="video")
    with torch.inference_mode():
        return measured_tracks(np.stack([face.landmarks for face in pipe.face_aligner.follow(frames)]).astype(np.float64))


def likeness(track: np.ndarray) -> tuple[float, float]:
    """The largest autocorrelation of a track [T] with itself two seconds later or more, and the seconds at which it is."""
    track = track - track.mean()
    again = np.fft.irfft(np.abs(np.fft.rfft(track, 2 * len(track))) ** 2)[:len(track) // 2]
    at = 2 * FPS + int(np.abs(again[2 * FPS:] / again[0]).argmax())
    return float(again[at] / again[0]), at / FPS


def quantiles(values: list[float], digits: int = 2) -> str:
    return " · ".join(f"{value:.{digits}f}" for value in np.percentile(values, SHOWN)) if values else ""


def row(name: str, people: Sequence[Measured]) -> str:
    """Figures of several people, of whom each counts alike, but for the quantiles, which are of all blinks and all raises."""
    of_all = [list(chain.from_iterable(getattr(each, what) for each in people))
              for what in ("intervals", "durations", "raises", "raise_durations")]
    intervals, durations, raises, lengths = of_all
    a_second, raises_a_second, brows = np.mean([
        (each.blinks / each.seconds, len(each.raises) / each.seconds, np.mean(each.brow_variances)) for each in people], 0)
    return (f"| {name} | {sum(each.seconds for each in people):.0f} | {sum(each.blinks for each in people)} | {a_second:.2f} | "
            f"{quantiles(intervals)} | {quantiles(durations)} | {raises_a_second:.2f} | {quantiles(raises, 3)} | {quantiles(lengths)} | "
            f"{np.sqrt(brows):.4f} |")


def head_row(name: str, people: Sequence[Measured]) -> str:
    """Deviations of the head within a stretch, `HEAD`; each of the people counts alike."""
    deviations = np.sqrt(np.mean([np.mean(each.head_variances, 0) for each in people], 0))
    return f"| {name} | {' | '.join(f'{value:.4f}' for value in deviations)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--audio", type=Path, nargs="+", required=True)
    parser.add_argument("--portrait", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    talkers, pieces, whole, shown = defaultdict(Measured), Measured(), Measured(), Measured()
    for talker, tracks in talkers_tracks(arguments.tracks):
        talkers[talker].add(*tracks)
    if not talkers:
        parser.error(f"{arguments.tracks}: no landmark files <talker>_<clip>.npz with a face in every frame")
    pipe = TempoSyncPipeline.from_pretrained("temposync-tiny")
    pipe.set_progress_bar_config(disable=True)
    samples = np.concatenate([load_audio(recording).samples for recording in arguments.audio])
    lids, brows, head = generated_tracks(pipe, samples, arguments.seed)
    whole.add(lids, brows, head)
    pieces.add_pieces(lids, brows, head)
    shown.add_pieces(*tracks_in_video(pipe, arguments.portrait, samples, arguments.seed))
    low, median, high = (f"{value:.2f}" for value in np.percentile([each.blinks / each.seconds for each in talkers.values()], SHOWN))
    columns = ("", "seconds", "blinks", "a second", "interval, s", "duration at half depth, s", "raises of the brows a second",
               "height, IOD", "duration at half height, s", "deviation of the brows, IOD")
    print("# Life\n\nThree numbers are those that a tenth, half and nine tenths are below. "
          f"{len(talkers)} talkers, of whom each counts alike, blink {low}, {median} and {high} times a second.\n\n"
          f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    print(row("talkers", [*talkers.values()]), row("generated, cut likewise", [pieces]), row("generated, ten minutes", [whole]), sep="\n")
    print(f"\nDeviations of the head within 3 s:\n\n| | {' | '.join(HEAD)} |\n{'|---' * 7}|")
    print(head_row("talkers", [*talkers.values()]), head_row("in a video", [shown]), sep="\n")
    print("\nThe largest autocorrelation within ten minutes, two seconds apart or more, and at which distance (brows follow "
          "the voice, which comes again and again):\n\n| | r | s |\n|---|---|---|")
    for name, track in (("lids", lids), ("brows", brows), *(zip((f"head {name.partition(',')[0]}" for name in HEAD), head.T))):
        print(f"| {name} | {likeness(track)[0]:.2f} | {likeness(track)[1]:.1f} |")


if __name__ == "__main__":
    main()
