"""The teeth that a photo shows between parted lips: those of the upper jaw, which stay where they are, whatever the lips do.

They are told from lips by their colour, in a photo without colours by their light.
"""

from typing import NamedTuple

import cv2
import numpy as np

from .inner_mouth import BLOCK, SCALE, block_of_photo
from .landmarks import GROUPS
from .tone import LUMA

# Shares of the lips' saturation up to which, and of their luma from which on, what lies between them is teeth.
LESS_COLOURFUL, AS_LIGHT = 0.7, 0.8
# Lips with less saturation than this have no colour to go by: then teeth must be lighter than they are.
GREY_UP_TO, LIGHTER = 0.06, 1.15
# The share of what lies between the lips that has to be teeth, and that of columns which may have more of them below a gap.
MOSTLY, FEW_BELOW = 0.35, 0.1
# Pixels at twice the crop's resolution: fewer teeth are none; rows that are such a gap; over how many columns the teeth's lower edge is
# smoothed; how far from the lips they begin; and how far around teeth gaps and gums are theirs.
FEWEST, ROWS_BETWEEN_JAWS, EVENNESS, EDGE, BESIDE = 250, 3, 1.5, 1, 3


class UpperTeeth(NamedTuple):
    """`share`: where they are, float32 [128, 192] in [0, 1], of `face.inner_mouth.BLOCK` at twice the crop's resolution; `lips`: where the
    photo's lips are, likewise; `picture`: of the same block, in 0..255 and the colours of `face.tone.known_crop`, float32 [128, 192, 3],
    of a photo of shut lips; None = the photo itself, whose lips are parted."""

    share: np.ndarray
    lips: np.ndarray
    picture: np.ndarray | None = None


def own_teeth(photo: np.ndarray, matrix: np.ndarray, landmarks: np.ndarray) -> UpperTeeth | None:
    """The upper teeth that a photo shows.

    Args:
        photo: RGB uint8 [H, W, 3]. matrix: affine from photo to crop pixels, [2, 3]. landmarks: [131, 2] in the crop.

    None where there are none, or too few to be sure, where a mouth is open rather than smiling, and where both rows may show.
    """
    block, (inside, lips) = block_of_photo(photo, matrix), mouth_and_lips(landmarks)
    if not inside.any() or not lips.any():
        return None
    teeth, within = _teeth_between(block, inside, lips), _shrunk(inside)
    # Of a mouth that speaks most is dark: its teeth are too few to be those of every frame.
    if np.count_nonzero(teeth) < FEWEST or not within.any() or np.mean(teeth[within]) < MOSTLY:
        return None
    edge, more_below = _lower_edge(teeth)
    if more_below > FEW_BELOW:
        return None
    above = inside & (np.arange(len(teeth))[:, None] <= edge + 1) & _grown(teeth, BESIDE)
    upper = _shrunk(above).astype(np.float32)
    return UpperTeeth(cv2.GaussianBlur(upper, (0, 0), EDGE), lips.astype(np.float32))


def mouth_and_lips(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What lies between the lips of a face in the crop, and its lips but for their inner edges: bool [128, 192] each, of the block."""
    shape = SCALE * (BLOCK.y1 - BLOCK.y0), SCALE * (BLOCK.x1 - BLOCK.x0)
    inside, whole = (polygon(SCALE * (landmarks[GROUPS[lips]] - (BLOCK.x0, BLOCK.y0)), shape) for lips in ("inner_lips", "outer_lips"))
    return inside, whole & ~_grown(inside, 2)


def polygon(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Whether a pixel lies in it, bool [h, w]; points are (x, y)."""
    picture = np.zeros(shape, np.uint8)
    cv2.fillPoly(picture, [np.round(16 * points).astype(np.int32)], 1, shift=4)
    return picture > 0


def _shrunk(where: np.ndarray) -> np.ndarray:
    return cv2.erode(where.astype(np.uint8), np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)) > 0


def _grown(where: np.ndarray, by: int) -> np.ndarray:
    return cv2.dilate(where.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0


def _teeth_between(block: np.ndarray, inside: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """What is teeth of the pixels `inside` the lips, and the gaps between teeth; bool [h, w]."""
    pixels = block.astype(np.float32)
    luma, brightest = pixels @ LUMA, pixels.max(-1)
    saturation = (brightest - pixels.min(-1)) / (brightest + 8)
    of_lips = np.median(saturation[lips])
    colour = saturation < LESS_COLOURFUL * of_lips if of_lips > GREY_UP_TO else np.ones_like(inside)
    light = luma > (AS_LIGHT if of_lips > GREY_UP_TO else LIGHTER) * np.median(luma[lips])
    teeth = cv2.morphologyEx((inside & colour & light).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 5), np.uint8))
    return inside & (teeth > 0)


def _lower_edge(teeth: np.ndarray) -> tuple[np.ndarray, float]:
    """The row at which teeth end in each column, [w], where a column has none as beside it; and the share of columns in which there is more
    below a gap: the other jaw, or light on wet lips."""
    columns, edge, more = np.flatnonzero(teeth.any(0)), [], 0
    for column in columns:
        rows = np.flatnonzero(teeth[:, column])
        gaps = np.flatnonzero(np.diff(rows) > ROWS_BETWEEN_JAWS)
        edge.append(rows[gaps[0] if len(gaps) else -1])
        more += len(gaps) > 0
    edges = np.interp(np.arange(teeth.shape[1]), columns, edge).astype(np.float32)
    return cv2.GaussianBlur(edges[None], (0, 0), EVENNESS, borderType=cv2.BORDER_REPLICATE)[0], more / len(columns)
