"""A clip as the networks see and hear it: aligned face crops, the landmarks in them, the sound of the same moments."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from ..errors import InvalidInputError
from ..face.crop import align_matrix, crop_face, smooth_matrices, transform_points
from ..face.landmarks import MESH_INDICES, NUM_LANDMARKS
from ..limits import MAX_FRAMES
from ..media.audio import SAMPLE_RATE
from ..media.video import FPS, load_soundtrack, read_video
from ..models.face_aligner import FaceAligner
from .arrays import read_arrays
from .manifest import Clip


@dataclass
class ClipCrops:
    """`crops` uint8 [T, 256, 256, 3], `landmarks` float32 [T, 131, 2] in crop pixels, `matrices` float32 [T, 2, 3] from picture to crop."""

    crops: np.ndarray
    landmarks: np.ndarray
    matrices: np.ndarray


def load_landmarks(path: str | PathLike) -> np.ndarray:
    """Array `landmarks` of an .npz: our 131 points or the 478 of the face mesh, float32 [T, 131, 2] in picture pixels.

    Raises InvalidInputError for any other shape, for a file that is damaged or none of numpy's, and OSError.
    """
    path = Path(path)
    points = read_arrays(path, "landmarks", rows=MAX_FRAMES)["landmarks"]
    if points.ndim == 3 and points.shape[1] == 478 and points.shape[2] in (2, 3):
        points = points[:, MESH_INDICES]
    if points.dtype.kind not in "fiu":
        raise InvalidInputError(f"{path.name}: no readable .npz with landmarks")
    if points.ndim != 3 or points.shape[1] != NUM_LANDMARKS or points.shape[2] not in (2, 3):
        raise InvalidInputError(f"{path.name}: landmarks of shape {list(points.shape)}, not [T, 131 or 478, 2 or 3]")
    return points[..., :2].astype(np.float32)


def load_clip(
    clip: Clip, frames: np.ndarray | None = None, landmarks: np.ndarray | None = None, aligner: FaceAligner | None = None
) -> ClipCrops:
    """Decode, at 25 frames a second, and align a clip.

    `frames` uint8 [T, H, W, 3] saves decoding what the caller has decoded.  Landmarks in picture pixels are, in this order: `landmarks`
    [T, 131, 2], the clip's own file, those that `aligner` tracks.  Alignments are smoothed over time, so that the crop doesn't tremble.

    Raises InvalidInputError where there are no landmarks, where their number is not that of the frames, or where a frame has no face.
    """
    if frames is None:
        frames, _ = read_video(clip.video, fps=FPS)
    if landmarks is None:
        if clip.landmarks is not None:
            landmarks = load_landmarks(clip.landmarks)
        elif aligner is not None:
            landmarks = aligner.track(frames)
        else:
            raise InvalidInputError(f"{clip.id}: no landmarks, and no face aligner to find them")
    if len(landmarks) != len(frames):
        raise InvalidInputError(f"{clip.id}: {len(landmarks)} frames of landmarks for {len(frames)} of video")
    if not np.isfinite(landmarks).all():
        raise InvalidInputError(f"{clip.id}: a frame without a face")
    matrices = smooth_matrices(np.stack([align_matrix(points) for points in landmarks]))
    crops = np.stack([crop_face(frame, matrix) for frame, matrix in zip(frames, matrices)])
    points = np.stack([transform_points(matrix, frame_points) for matrix, frame_points in zip(matrices, landmarks)])
    return ClipCrops(crops, points.astype(np.float32), matrices)


def load_sound(clip: Clip) -> np.ndarray:
    """A clip's sound on its pictures' clock, float32 [N] at 16 kHz, moved by what the clip says it is late (`Clip.offset`).

    Raises InvalidInputError where nothing would be left of it.
    """
    samples = load_soundtrack(clip.video).samples
    late = round((clip.offset or 0) * SAMPLE_RATE)
    if abs(late) >= len(samples):
        raise InvalidInputError(f"{clip.id}: an offset of {clip.offset:g} s, but {len(samples) / SAMPLE_RATE:g} s of sound")
    return samples[late:] if late >= 0 else np.pad(samples, (-late, 0))


def frames_with_sound(clip: Clip, num_frames: int, num_samples: int) -> slice:
    """Those of a clip's frames for which `load_sound` has `num_samples` samples: sound that was moved leaves some lips unheard."""
    if not clip.offset:
        return slice(0, num_frames)
    first = int(np.ceil(max(0.0, -clip.offset) * FPS))
    return slice(min(first, num_frames), min(num_frames, num_samples * FPS // SAMPLE_RATE))
