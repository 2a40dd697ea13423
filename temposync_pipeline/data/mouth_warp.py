"""Warping a photograph after its lip and jaw landmarks: two thin-plate splines (Bookstein 1989) that meet at the lip line.

One spline moves what lies above the lips, one what lies below, so that lips part without stretching what was between them.
All coordinates are pixels of the aligned crop; everything is computed on the region that holds `mouth_mask() > 0`.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ..face.crop import CROP_SIZE, mouth_mask
from ..face.landmarks import GROUPS, NUM_LANDMARKS

OUTER, INNER, OVAL, NOSE_BASE = (np.arange(NUM_LANDMARKS)[GROUPS[name]] for name in ("outer_lips", "inner_lips", "face_oval", "nose_base"))
# Eleven columns of each lip group, from the subject's right mouth corner to the left one; the corners belong to both lips.
LOWER, UPPER = np.arange(11), np.array([0, *range(19, 9, -1)])

_VISIBLE = np.argwhere(mouth_mask() > 0)
REGION = slice(_VISIBLE[:, 0].min(), _VISIBLE[:, 0].max() + 1), slice(_VISIBLE[:, 1].min(), _VISIBLE[:, 1].max() + 1)
MASK = mouth_mask()[REGION]
YS, XS = np.mgrid[REGION].astype(np.float32)
# Pixels to the mask's border, 0 outside it, over the whole crop.
DEPTH = cv2.distanceTransform((mouth_mask() > 0).astype(np.uint8), cv2.DIST_L2, 5)

_STRIDE = 2  # the splines are evaluated at every second pixel
_COARSE = np.stack([XS[::_STRIDE, ::_STRIDE].ravel(), YS[::_STRIDE, ::_STRIDE].ravel()], 1)
# Points on the mask's outline, 14 px apart: nothing may move there.
_BORDER = max(cv2.findContours((mouth_mask() > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)[::14, 0]
# Skin beyond a mouth corner, outwards and downwards from it, and how far it moves with the corner: or else a narrowing mouth would
# draw the corner's shadow out into a streak.
_AROUND_CORNER = np.float64([[4, -5], [6, 0], [4, 5], [11, -6], [12, 3]])
_WITH_CORNER = np.float64([0.9, 0.9, 0.9, 0.7, 0.7])
_CORNERS = np.concatenate([OUTER[[0, 10]], INNER[[0, 10]]])
_UPPER_LIP, _LOWER_LIP = (np.concatenate([OUTER[lip[1:-1]], INNER[lip[1:-1]]]) for lip in (UPPER, LOWER))


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, 3t² - 2t³ between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def depth_at(points: np.ndarray) -> np.ndarray:
    """Pixels from points [N, 2] to the mask's border, 0 outside the mask, float32 [N]."""
    columns, rows = np.clip(points.round().astype(int), 0, CROP_SIZE - 1).T
    return DEPTH[rows, columns]


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Thin-plate kernel r² log r² between points [N, 2] and [M, 2], [N, M]."""
    squared = (a[:, :1] - b[:, 0]) ** 2 + (a[:, 1:] - b[:, 1]) ** 2
    return squared * np.log(squared + 1e-3)


def thin_plate_spline(points: np.ndarray, values: np.ndarray, smoothing: float) -> np.ndarray:
    """Coefficients [N + 3, 2] of the smoothing thin-plate spline through `values` [N, 2] at `points` [N, 2]."""
    n = len(points)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _kernel(points, points) + smoothing * np.eye(n)
    system[:n, n] = system[n, :n] = 1
    system[:n, n + 1:] = points
    system[n + 1:, :n] = points.T
    return np.linalg.solve(system, np.vstack([values, np.zeros((3, 2))]))


def thin_plate_basis(places: np.ndarray, points: np.ndarray) -> np.ndarray:
    """What a spline through `points` [N, 2] is made of at `places` float32 [M, 2]: [M, N + 3], to be multiplied by its coefficients."""
    return np.hstack([_kernel(places, points.astype(np.float32)), np.ones((len(places), 1), np.float32), places])


def warp_fields(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the region comes from, above and below the lip line: two float32 maps [H, W, 2] of crop pixels (x, y).

    `source` [131, 2] are the photograph's landmarks, `target` [131, 2] where they shall be.
    """
    moving = np.concatenate([_UPPER_LIP, _LOWER_LIP, _CORNERS, OVAL[depth_at(target[OVAL]) > 0], NOSE_BASE])
    corners, corner_shift = target[OUTER[[0, 10]]], (source - target)[OUTER[[0, 10]]]
    around = (corners[:, None] + _AROUND_CORNER * [[[-1, 1]], [[1, 1]]]).reshape(-1, 2)
    points = np.vstack([target[moving], around, _BORDER]).astype(np.float64)
    shifts = np.vstack([(source - target)[moving], (_WITH_CORNER[:, None] * corner_shift[:, None]).reshape(-1, 2), np.zeros(_BORDER.shape)])
    # Each spline leaves the other lip out; its weights there stay 0, so that both share one kernel matrix.
    lip, everything = len(_UPPER_LIP), np.arange(len(points))
    weights = np.zeros((2, len(points) + 3, 2), np.float32)
    for weight, used in zip(weights, (np.r_[everything[:lip], everything[2 * lip:]], everything[lip:])):
        solution = thin_plate_spline(points[used], shifts[used], smoothing=1.0)
        weight[used], weight[-3:] = solution[:-3], solution[-3:]
    coarse = (thin_plate_basis(_COARSE, points) @ np.hstack([weights[0], weights[1]])).reshape(*XS[::_STRIDE, ::_STRIDE].shape, 4)
    # Sample k of the coarse grid is pixel k·stride, unlike cv2.resize's.
    to_coarse = np.float32([[1 / _STRIDE, 0, 0], [0, 1 / _STRIDE, 0]])
    shift = cv2.warpAffine(coarse, to_coarse, XS.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                           borderMode=cv2.BORDER_REPLICATE) * MASK[..., None]
    here = np.stack([XS, YS], -1)
    return here + shift[..., :2], here + shift[..., 2:]


@dataclass
class MouthOpening:
    """The gap between the inner lips, one value per column of the region, float [W]."""

    upper: np.ndarray  # row of the upper inner lip
    lower: np.ndarray  # row of the lower one
    position: np.ndarray  # place along the mouth, 0 at the subject's right corner, 10 at the left
    beyond: np.ndarray  # pixels beyond the nearer corner, 0 between the corners

    @classmethod
    def of(cls, landmarks: np.ndarray) -> "MouthOpening":
        """The opening of landmarks [131, 2]."""
        upper, lower = landmarks[INNER[UPPER]], landmarks[INNER[LOWER]]
        # Near a pursed mouth's corners the contour can turn back on itself; this keeps it single-valued.
        xs = np.maximum.accumulate((upper[:, 0] + lower[:, 0]) / 2 + 1e-3 * np.arange(11))
        x = XS[0]
        return cls(np.interp(x, xs, upper[:, 1]), np.interp(x, xs, lower[:, 1]), np.interp(x, xs, np.arange(11)),
                   np.maximum(np.maximum(xs[0] - x, x - xs[-1]), 0))

    @property
    def gap(self) -> np.ndarray:
        """Pixels between the lips, [W]."""
        return self.lower - self.upper

    @property
    def line(self) -> np.ndarray:
        """Row half-way between the lips, [W]."""
        return (self.upper + self.lower) / 2


def _share_below(opening: MouthOpening) -> np.ndarray:
    """How much the lower spline counts, float32 [H, W, 1]: from 0 above the lip line to 1 below it."""
    # Beyond the corners both splines agree more and more loosely, so one hands over to the other over a growing distance.
    return np.clip(0.5 + (YS - opening.line) / (2 * (0.7 + 0.8 * opening.beyond)), 0, 1)[..., None].astype(np.float32)


def warp(crop: np.ndarray, source: np.ndarray, target: np.ndarray, opening: MouthOpening) -> np.ndarray:
    """The crop's region, float32 [H, W, 3], moved from landmarks `source` to `target`, whose opening is `opening`."""
    above, below = (cv2.remap(crop, field, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
                    for field in warp_fields(source, target))
    return above + _share_below(opening) * (below - above)


def source_places(source: np.ndarray, target: np.ndarray, opening: MouthOpening) -> np.ndarray:
    """Where `warp` takes each pixel of the region from, float32 [H, W, 2] of crop pixels (x, y)."""
    above, below = warp_fields(source, target)
    return above + _share_below(opening) * (below - above)


def interior(crop: np.ndarray, landmarks: np.ndarray, opening: MouthOpening) -> np.ndarray:
    """The inside of a mouth with landmarks [131, 2] drawn into another opening, float32 [H, W, 3]: each column keeps its place."""
    upper, lower = landmarks[INNER[UPPER]], landmarks[INNER[LOWER]]
    columns = np.arange(11)
    x = np.interp(opening.position, columns, (upper[:, 0] + lower[:, 0]) / 2)
    top, bottom = np.interp(opening.position, columns, upper[:, 1]), np.interp(opening.position, columns, lower[:, 1])
    # The lips' edge is known to a pixel only: stay inside, or this mouth's lips show.
    inset = np.minimum(1.2, 0.3 * np.maximum(bottom - top, 0))
    height = np.clip((YS - opening.upper) / np.maximum(opening.gap, 1), 0, 1)
    source = np.stack([np.broadcast_to(x, XS.shape), top + inset + height * (bottom - top - 2 * inset)], -1)
    return cv2.remap(crop, source.astype(np.float32), None, cv2.INTER_LINEAR).astype(np.float32)
