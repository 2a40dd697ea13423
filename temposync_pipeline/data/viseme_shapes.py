"""What mouths do for each viseme: measured on real talkers, relative to their own rest."""

import numpy as np

from ..face.landmarks import GROUPS, interocular_distance
from ..models.visemes import NUM_VISEMES

_LIPS = np.r_[GROUPS["outer_lips"], GROUPS["inner_lips"]]


def mean_viseme_shapes(
    landmarks: list[np.ndarray], labels: list[np.ndarray], rests: list[np.ndarray]
) -> tuple[np.ndarray, list[tuple[int, int] | None]]:
    """Mean displacement from rest per viseme, and a frame that shows it clearly.

    For every clip: `landmarks` [T, 131, 2] in crop pixels, `labels` integers [T] into `VISEMES`, `rests` [131, 2] the talker's closed
    face.  Returns displacements float32 [15, 131, 2] in interocular distances (NaN for a viseme that never occurs) and per viseme
    (clip, frame) of a clear frame, or None: the one whose lips are nearest to the mean carried half as far again from all visemes'
    mean, among those with the same viseme before and after them where there are any, as shapes are clearest in the middle of a sound.
    """
    moved = [(points - rest) / interocular_distance(rest) for points, rest in zip(landmarks, rests)]
    means = np.full((NUM_VISEMES, *rests[0].shape), np.nan, np.float32)
    clear: list[tuple[int, int] | None] = []
    overall = np.concatenate(moved)[:, _LIPS].mean(0)
    for viseme in range(NUM_VISEMES):
        places = [(clip, frame) for clip, sequence in enumerate(labels) for frame in np.flatnonzero(sequence == viseme).tolist()]
        inner = [(clip, frame) for clip, frame in places
                 if 0 < frame < len(labels[clip]) - 1 and labels[clip][frame - 1] == viseme == labels[clip][frame + 1]]
        places = inner or places
        if not places:
            clear.append(None)
            continue
        shapes = np.stack([moved[clip][frame] for clip, frame in places])
        means[viseme] = shapes.mean(0)
        caricature = means[viseme, _LIPS] + 0.5 * (means[viseme, _LIPS] - overall)
        clear.append(places[int(np.square(shapes[:, _LIPS] - caricature).sum((1, 2)).argmin())])
    return means, clear
