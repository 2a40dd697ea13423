"""What only a dubbed film can be measured by: whether its head stays where it was filmed, and all but the mouth is the film's own."""

import cv2
import numpy as np

from ..face.crop import align_matrix, mouth_mask, similarity, smooth_matrices, transform_points
from ..face.landmarks import RIGID
from .talking_face import reach_of

# Crop pixels by which the mouth region is widened: of a film the pipeline smooths the alignment in its own way.
MARGIN = 9


def head_error(dubbed: np.ndarray, film: np.ndarray) -> float:
    """How far the head is from where it is filmed, landmarks [T, 131, 2] each: root mean square, over the points of the upper face that do
    not move against each other and all frames, of the displacement by the similarity between the two; pixels of the film, 0 = in place."""
    moved = [transform_points(similarity(real[RIGID], made[RIGID]), real[RIGID]) - real[RIGID]
             for made, real in zip(dubbed, film, strict=True)]
    return float(np.sqrt(np.square(moved).sum(-1).mean()))


def change_in_film(dubbed: np.ndarray, film: np.ndarray, landmarks: np.ndarray) -> float:
    """Largest difference to the film outside the mouth region, over frames uint8 [T, H, W, 3] with the film's landmarks [T, 131, 2];
    levels, 0 = all else is untouched."""
    largest = 0
    for made, real, matrix in zip(dubbed, film, smooth_matrices(np.stack([align_matrix(points) for points in landmarks])), strict=True):
        inside = reach_of(mouth_mask(), matrix, real.shape[:2], MARGIN)
        largest = max(largest, int(cv2.absdiff(made, real)[~inside].max(initial=0)))
    return float(largest)
