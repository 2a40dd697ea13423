"""How talkers' lips move: tracks of `face.lip_shape` for clips with landmarks."""

import numpy as np

from ..face.crop import align_matrix, smooth_matrices, transform_points
from ..face.lip_shape import TYPICAL_MOTION, lip_shape, rest_shape
from .clips import load_landmarks
from .manifest import Clip


def crop_landmarks(clip: Clip) -> np.ndarray:
    """A clip's landmarks in crop pixels, [T, 131, 2], without decoding it."""
    landmarks = load_landmarks(clip.landmarks)
    matrices = smooth_matrices(np.stack([align_matrix(points) for points in landmarks]))
    return np.stack([transform_points(matrix, points) for matrix, points in zip(matrices, landmarks)])


def talker_rests(tracks: dict[str, tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{talker: shape at rest [131, 2]}, each measured over all of the talker's clips; `tracks` is {clip id: (talker, landmarks)}."""
    by_talker: dict[str, list[np.ndarray]] = {}
    for talker, landmarks in tracks.values():
        by_talker.setdefault(talker, []).append(landmarks)
    return {talker: rest_shape(np.concatenate(landmarks)) for talker, landmarks in by_talker.items()}


def lip_tracks(clips: list[Clip]) -> dict[str, np.ndarray]:
    """{clip id: lip shapes over time, float32 [T, 6], in units of `face.lip_shape.TYPICAL_MOTION`} of clips with a face in every frame."""
    tracks = {clip.id: (clip.talker, crop_landmarks(clip)) for clip in clips}
    tracks = {name: track for name, track in tracks.items() if np.isfinite(track[1]).all()}
    rests = talker_rests(tracks)
    return {name: lip_shape(landmarks, rests[talker]) / TYPICAL_MOTION for name, (talker, landmarks) in tracks.items()}
