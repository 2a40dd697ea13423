"""How well generated lips follow real ones, measured on landmarks [T, 131, 2] (`face.landmarks`)."""

from dataclasses import dataclass

import numpy as np

from ..errors import InvalidInputError
from ..face.crop import align_matrix, transform_points
from ..face.landmarks import GROUPS, interocular_distance

MAX_LAG = 5
MOTIONLESS = 1e-3  # standard deviation of the lip opening, in interocular distances, that landmark noise alone can have
MOUTH = np.r_[GROUPS["outer_lips"], GROUPS["inner_lips"]]


@dataclass(frozen=True)
class LipCorrelation:
    """`r` at lag 0, in [-1, 1]; the lag in frames at which r is highest, > 0 = the generated lips come late; r there;
    std(generated) / std(real), 1 = same amplitude.  A series that moves no more than `MOTIONLESS` has r = 0."""

    r: float
    best_lag: int
    r_at_best_lag: float
    amplitude_ratio: float


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two series of lip openings [T], in [-1, 1]; 0 where one of them deviates by `MOTIONLESS` or less."""
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) if min(x.std(), y.std()) > MOTIONLESS else 0.0


def lip_correlation(generated: np.ndarray, real: np.ndarray, max_lag: int = MAX_LAG) -> LipCorrelation:
    """Compare two lip-opening series [T] (`face.landmarks.lip_opening`); the longer one is cut to the shorter.

    r(lag) = Pearson of generated[t + lag] and real[t], lag in ±max_lag frames.  Raises InvalidInputError for too few frames.
    """
    length = min(len(generated), len(real))
    if length < 2 * max_lag + 2:
        raise InvalidInputError(f"lip correlation needs at least {2 * max_lag + 2} frames, got {length}")
    generated, real = np.asarray(generated[:length], np.float64), np.asarray(real[:length], np.float64)
    by_lag = {lag: pearson(generated[max(0, lag):length + min(0, lag)], real[max(0, -lag):length + min(0, -lag)])
              for lag in range(-max_lag, max_lag + 1)}
    # Ties go to the smaller lag.
    best_lag = max(by_lag, key=lambda lag: (by_lag[lag], -abs(lag)))
    amplitude_ratio = float(generated.std() / max(real.std(), 1e-9))
    return LipCorrelation(by_lag[0], best_lag, by_lag[best_lag], amplitude_ratio)


def _aligned_mouth(landmarks: np.ndarray) -> np.ndarray:
    """Mouth landmarks [T, 40, 2] without head motion: aligned by the rigid upper face, in units of the interocular distance."""
    aligned = np.stack([transform_points(align_matrix(points), points) for points in landmarks])
    return aligned[:, MOUTH] / interocular_distance(aligned)[:, None, None].mean()


def mouth_landmark_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """LMD: mean distance of the 40 lip landmarks to the real ones, in interocular distances of the real face; [T, 131, 2] each.

    Both faces are aligned by their upper face first, so that the pose of the head counts as neither hit nor miss.
    """
    length = min(len(generated), len(real))
    distance = np.linalg.norm(_aligned_mouth(generated[:length]) - _aligned_mouth(real[:length]), axis=-1)
    return float(distance.mean())


def motion_amplitude(landmarks: np.ndarray) -> float:
    """Root-mean-square distance of the lip landmarks [T, 131, 2] from their mean place, in interocular distances; 0 = still.

    Printed beside every flicker figure: a still video scores perfectly on those.
    """
    mouth = _aligned_mouth(landmarks)
    return float(np.sqrt(np.square(mouth - mouth.mean(0)).sum(-1).mean()))
