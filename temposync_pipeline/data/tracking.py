"""Landmark files for clips and photographs, found by the FaceAligner: what `data.clips` and `data.speaking_portraits` read."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InvalidInputError
from ..face.landmarks import NUM_LANDMARKS
from ..media.image import load_image
from ..media.video import FPS, stream_video
from ..models.face_aligner import FaceAligner
from .manifest import Clip


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """An .npz that is complete if it exists."""
    staged = path.with_name(f".{path.name}")
    np.savez(staged, **arrays)
    staged.replace(path)


def track_clip(clip: Clip, aligner: FaceAligner, folder: Path) -> Clip:
    """The clip with its landmark file `folder`/<id>.npz, made unless it is there; float32 [T, 131, 2] at 25 frames a second.

    A clip that has landmarks already keeps them.  Frames without a face are NaN.  Raises InvalidInputError for an unreadable video.
    """
    if clip.landmarks is not None:
        return clip
    path = folder / f"{clip.id}.npz"
    if not path.exists():
        frames, _ = stream_video(clip.video, fps=FPS)
        points = [np.full((NUM_LANDMARKS, 2), np.nan, np.float32) if face is None else face.landmarks
                  for face in aligner.follow(frames)]
        if not points:
            raise InvalidInputError(f"{clip.video.name}: no frame could be decoded")
        save_arrays(path, landmarks=np.stack(points))
    return replace(clip, landmarks=path)


def find_portraits(pictures: list[Path], aligner: FaceAligner, path: Path) -> None:
    """Write `names` [N] and `landmarks` [N, 131, 2] of the largest face in each picture, as `load_portraits` reads them; NaN where there is
    none or the picture cannot be read."""
    if path.exists():
        return
    landmarks = np.full((len(pictures), NUM_LANDMARKS, 2), np.nan, np.float32)
    for points, picture in zip(landmarks, pictures):
        with suppress(InvalidInputError, OSError):
            for face in aligner.detect(load_image(picture), max_faces=1):
                points[:] = face.landmarks
    save_arrays(path, names=np.array([picture.name for picture in pictures]), landmarks=landmarks)


def face_spans(landmarks: np.ndarray, longest: int = 250, shortest: int = 12) -> list[slice]:
    """Stretches of consecutive frames with a face in landmarks [T, 131, 2], cut to `longest` frames; shorter ones than `shortest` are left
    out."""
    seen = np.isfinite(landmarks).all((1, 2))
    edges = np.flatnonzero(np.diff(np.r_[False, seen, False]))
    spans = [slice(start, min(start + longest, end)) for first, end in zip(edges[::2], edges[1::2]) for start in range(first, end, longest)]
    return [span for span in spans if span.stop - span.start >= shortest]
