"""What the stage `lips` learns from: recordings as the viseme classifier hears them, and how the lips moved.

    python -m temposync_pipeline.training.lip_corpus --data DATA --labels LABELS --motion MOTION --visemes temposync-tiny --output LIPS

DATA holds talkers' clips, LABELS their landmarks (examples/label_faces.py).  MOTION, where given, holds a folder for each performer whose
lips somebody else has measured: sound (`<name>.flac`) beside curves at 25 frames a second (`<name>.npz` with `motion` [T, D] and `names`
[D]), in units of their own.  Every recording is heard `--takes` times, but for the first through other rooms, lines and noises.
Writes LIPS/talkers_{train,val}.npz and LIPS/<performer>.npz (`load_recordings`).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoints import BUNDLED, checkpoint_folder
from ..data.arrays import read_arrays
from ..data.clips import frames_with_sound, load_sound
from ..data.lip_tracks import lip_tracks
from ..data.manifest import Clip, build_manifest
from ..data.speech_augmentation import augment
from ..data.tracking import save_arrays
from ..media.audio import SAMPLE_RATE, load_audio
from ..media.video import FPS
from ..metrics.offset import correct_clips
from ..models.viseme_classifier import VisemeClassifier
from .denoising import load_component

# Longer recordings are cut, so that a batch draws from all of a long one.
MAX_FRAMES = 250


@dataclass
class Recording:
    """One take of one recording of T frames: `Hearing`'s fields, and `motion` [T, D]."""

    hidden: np.ndarray
    loudness: np.ndarray
    visemes: np.ndarray
    motion: np.ndarray


def hear(classifier: VisemeClassifier, samples: np.ndarray, motion: np.ndarray, takes: int, babble: np.ndarray,
         generator: np.random.Generator) -> Iterator[Recording]:
    """The recording as it is, then `takes` - 1 times through `augment`; samples [N] at 16 kHz from the motion's first frame on."""
    for start in range(0, len(motion), MAX_FRAMES):
        curves = motion[start:start + MAX_FRAMES]
        piece = samples[int(start / FPS * SAMPLE_RATE):][:int(len(curves) / FPS * SAMPLE_RATE)]
        for take in range(takes):
            heard = augment(piece, np.resize(babble, len(piece)), generator) if take else piece
            hearing = classifier.hear(heard, len(curves), FPS)
            yield Recording(hearing.hidden.astype(np.float16), hearing.loudness, hearing.visemes.astype(np.float16), curves)


def talker_motion(clip: Clip, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A clip's sound [N] and its lips' motion [T, 6], both without what the other lacks where late or early sound was moved."""
    samples = load_sound(clip)
    heard = frames_with_sound(clip, len(motion), len(samples))
    return samples[heard.start * SAMPLE_RATE // FPS:], motion[heard]


def save_recordings(recordings: list[Recording], path: Path) -> None:
    """One .npz: the recordings one after the other, and `lengths` of each."""
    arrays = {field.name: np.concatenate([getattr(item, field.name) for item in recordings]) for field in fields(Recording)}
    save_arrays(path, **arrays, lengths=np.array([len(item.motion) for item in recordings]))


def load_recordings(path: Path) -> list[Recording]:
    file = read_arrays(path, "lengths", *(field.name for field in fields(Recording)))
    ends = np.cumsum(file["lengths"])[:-1]
    parts = [np.split(file[field.name].astype(np.float32), ends) for field in fields(Recording)]
    return [Recording(*values) for values in zip(*parts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "labels", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--motion", type=Path)
    parser.add_argument("--visemes", default="temposync-tiny", help="checkpoint, or folder, of the classifier that listens")
    parser.add_argument("--takes", type=int, default=4)
    parser.add_argument("--without", action="append", default=[], metavar="ID", help="leave a recording out")
    arguments = parser.parse_args()
    folder = arguments.visemes if Path(arguments.visemes).is_dir() else checkpoint_folder(arguments.visemes, ("viseme_classifier",))
    classifier = load_component(VisemeClassifier, str(folder), "viseme_classifier", torch.device("cpu"))
    generator = np.random.default_rng(0)
    arguments.output.mkdir(parents=True, exist_ok=True)
    clips = [clip for clip in build_manifest(arguments.data, landmarks=arguments.labels)
             if clip.landmarks is not None and clip.id not in arguments.without]
    tracks = lip_tracks(clips)
    clips = correct_clips([clip for clip in clips if clip.id in tracks], BUNDLED[0], print)
    babble = np.concatenate([load_sound(clip) for clip in clips[:8]])
    for split in ("val", "train"):
        takes = arguments.takes if split == "train" else 1
        recordings = [recording for clip in tqdm(clips, desc=f"talkers, {split}") if clip.split == split
                      for recording in hear(classifier, *talker_motion(clip, tracks[clip.id]), takes, babble, generator)]
        if recordings:
            save_recordings(recordings, arguments.output / f"talkers_{split}.npz")
    for performer in sorted(path for path in arguments.motion.iterdir() if path.is_dir()) if arguments.motion else []:
        recordings = []
        for path in tqdm(sorted(performer.glob("*.npz")), desc=performer.name):
            if path.stem not in arguments.without:
                samples, motion = load_audio(path.with_suffix(".flac")).samples, read_arrays(path, "motion")["motion"].astype(np.float32)
                recordings += hear(classifier, samples, motion, arguments.takes, babble, generator)
        save_recordings(recordings, arguments.output / f"{performer.name}.npz")


if __name__ == "__main__":
    main()
