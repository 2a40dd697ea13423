"""What is seen between lips of whose upper teeth a picture is at hand: the insides of the lips, and behind them the dark, with a tongue.

Nothing of it is learnt.  The decoder says where the photo does not show what the frame does (`hidden`); that is read as two curves, the
edges of the lips.  Outside them the photo's lips go on as they are beside it, darker towards the gap.  Between them are the upper teeth,
which stand still (`own_teeth`, `drawn_teeth`), in the shadow of the upper lip if they are drawn, and a cavity that is dark above and has
a tongue below.  Edges are thus as sharp as curves are, where a picture would be the mean of all mouths that there may be, and lips that
shut over teeth become lips.
"""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from .inner_mouth import SCALE

# All lengths are in crop pixels.  Along the mouth, over how many the curves are smoothed; over how many an edge comes.
EVENNESS, EDGE = 4, 0.8
# From the edges of what is hidden to those of the lips, above and below: of lips that the photo shows parted, and of shut ones, whose
# insides are hidden, too.
PARTED_RIM, SHUT_RIM = (4.5, 4.5), (3.0, 4.0)
# Lips that come nearer to each other than in the photo still hide what they did: by which share of their way too much, and up to which
# way.  (By the openings of fifteen photographs' frames, as networks made them and the aligner reads them.)
PARTED_CLOSING, SHUT_CLOSING = (0.25, np.inf), (1.2, 3.0)
# Lips part for good between these heights of the gap: up to the first they touch.
PARTED_PARTING, SHUT_PARTING = (0.8, 2.5), (1.5, 5.0)
# Gaps up to so high are a line more and more: how thick, how dark, and how high what is hidden has to be for it.
LINE_UP_TO, LINE_THICKNESS, LINE_DARKNESS, LINE_FROM = 1.5, 0.6, 0.55, 9.0
# How far from what is hidden lips are looked at, and how much weight the farther ones have, and what is shown and is no lip.
NEAR, FAR, FAR_WEIGHT, OTHER_WEIGHT = 3, 9, 0.02, 0.002
# How much darker lips are at the gap, and over how many pixels; and so of drawn teeth below the upper lip.
LIP_SHADOW, LIP_SHADOW_REACH = 0.25, 2.0
TEETH_SHADOW, TEETH_SHADOW_REACH = 0.25, 2.5
# Luma as a share of that of the teeth, or of so much more than that of the lips where those are dark: the dark, and the tongue where it is
# lightest; red, green and blue of both.
DARK, TONGUE, LIGHTER_THAN_LIPS = 0.13, 0.55, 1.3
FLESH = np.array([1.36, 0.87, 0.86], np.float32)
# The tongue: which share of the gap's width and height it takes, how softly its edge comes, how much lighter it is at its tip than at its
# back, how dark and how wide its furrow is, how dark it is in the lip's shadow and over which share of the height; and how high a gap has
# to be to show any of it, and all.
TONGUE_WIDTH, TONGUE_HEIGHT, TONGUE_EDGE, TONGUE_BACK = 0.85, 0.72, 0.55, 0.7
FURROW, FURROW_WIDTH, FRONT_SHADOW, FRONT_SHADOW_REACH = 0.12, 0.07, 0.35, 0.22
TONGUE_SEEN_FROM, TONGUE_SEEN_TO = 3.0, 9.0
# How rough it is, and of which grain; what shines of it, wet as it is: how much, how far up, in how high a band, how far to the sides, and
# the size of its spots. Grains in pixels at twice the crop's resolution, shares of the tongue's luma, and of the gap's height and width.
ROUGHNESS, PAPILLAE, GRAINS = 0.05, 1.5, (256, 384)
SHINE, SHINE_AT, SHINE_HEIGHT, SHINE_WIDTH, SPOTS = 0.3, 0.36, 0.07, 0.45, 4.0


class OpenMouth(NamedTuple):
    """At twice the resolution of the crop, float32: `lips` [2h, 2w, 3] in 0..255, and [2h, 2w] each in [0, 1] `gap`, where they are
    parted, `cavity`, how light it is there, its luma as a share of the teeth's, `teeth`, where upper teeth are seen, and `light`, what is
    left of theirs."""

    lips: np.ndarray
    gap: np.ndarray
    cavity: np.ndarray
    teeth: np.ndarray
    light: np.ndarray


class Lips(NamedTuple):
    """By column, float32 [2w], in crop pixels: the row in the middle between the lips, how high their gap is, and what is hidden."""

    middle: np.ndarray
    gap: np.ndarray
    hidden: np.ndarray


def lips_of(hidden: np.ndarray, down: np.ndarray, are_shut: bool) -> Lips:
    """The lips of a frame, at twice as many columns; arguments as `open_mouth`'s."""
    rows = np.arange(len(hidden), dtype=np.float32) + 0.5
    sums = np.stack([hidden.sum(0), rows @ hidden]).astype(np.float32)
    heights, moments = cv2.GaussianBlur(sums, (6 * EVENNESS + 1, 1), EVENNESS, borderType=cv2.BORDER_CONSTANT)
    middle = moments / (heights + 1e-6)
    rim, (share, most), (touch_to, part_from) = (SHUT_RIM, SHUT_CLOSING, SHUT_PARTING) if are_shut else (
        PARTED_RIM, PARTED_CLOSING, PARTED_PARTING)
    touching = sum(rim) + share * min(max(_come_together(down, middle, heights), 0.0), most)
    gap = heights - touching * heights / max(float(heights.max()), 1e-6)
    gap = gap * np.clip((gap.max() - touch_to) / (part_from - touch_to), 0, 1)
    curves = np.stack([middle + (rim[0] - rim[1]) / 2, gap, heights])
    return Lips(*cv2.resize(curves, (SCALE * hidden.shape[1], 3), interpolation=cv2.INTER_LINEAR))


def _come_together(down: np.ndarray, middle: np.ndarray, heights: np.ndarray) -> float:
    """By how many pixels the lips beside the gap come nearer to each other than in the photo, the mean over the columns that have one."""
    columns = np.flatnonzero(heights > 0.5 * heights.max())
    stride = heights.shape[-1] // down.shape[-1]
    edges = (np.clip(middle + side * heights / 2, 0, stride * len(down) - 1)[columns].astype(int) for side in (-1, 1))
    upper, lower = (down[rows // stride, columns // stride] for rows in edges)
    return float((lower - upper).mean()) if len(columns) else 0.0


def open_mouth(truth: np.ndarray, where_lips: np.ndarray, hidden: np.ndarray, down: np.ndarray, are_shut: bool) -> OpenMouth:
    """One frame's.

    Args:
        truth: what the photo shows there, the crop moved, uint8 [h, w, 3].
        where_lips: where that shows its lips, [h, w] in [0, 1].
        hidden: where the frame shows what the photo does not, [h, w] in [0, 1].
        down: from pixels to where they come from in the photo, [h', w'] in crop pixels, of as many for each value in rows and columns.
        are_shut: whether the photo's lips are, so that its teeth are drawn.
    """
    lips = lips_of(hidden, down, are_shut)
    upper, lower = lips.middle - lips.gap / 2, lips.middle + lips.gap / 2
    rows = ((np.arange(SCALE * len(hidden), dtype=np.float32) + 0.5) / SCALE)[:, None]
    gap = _between(rows, upper, lower)
    outside = np.maximum(np.maximum(upper - rows, rows - lower), 0)
    line = np.exp(-0.5 * ((rows - lips.middle) / LINE_THICKNESS) ** 2) * np.clip(lips.hidden / LINE_FROM, 0, 1)
    line = line * np.clip(1 - lips.gap / LINE_UP_TO, 0, 1)
    shadow = (1 - LIP_SHADOW * np.exp(-outside / LIP_SHADOW_REACH)) * (1 - LINE_DARKNESS * line)
    skin = cv2.resize(_continued(truth, where_lips, hidden), shadow.shape[::-1], interpolation=cv2.INTER_LINEAR) * shadow[..., None]
    cavity = _cavity(rows, lower, lips.gap)
    if are_shut:
        below = np.maximum(rows - upper, 0)
        return OpenMouth(skin, gap, cavity, gap, 1 - TEETH_SHADOW * np.exp(-below / TEETH_SHADOW_REACH))
    # The photo's own teeth reach under its upper lip, as far as the rim that was added, while lips are apart.
    teeth = _between(rows, upper - PARTED_RIM[0] * np.clip(lips.gap / PARTED_PARTING[1], 0, 1), lower)
    return OpenMouth(skin, gap, cavity, teeth, np.ones_like(gap))


def _between(rows: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    inside = np.clip(np.minimum(rows - upper, lower - rows) / EDGE + 0.5, 0, 1)
    return (inside * np.clip((lower - upper) / (EDGE / 2), 0, 1)).astype(np.float32)


def _continued(truth: np.ndarray, where_lips: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The lips, carried on into what is hidden: float32 [h, w, 3]."""
    weight = where_lips + OTHER_WEIGHT * (1 - cv2.dilate(hidden, np.ones((3, 3), np.uint8)))
    weighted = np.dstack([truth * weight[..., None], weight])
    near, far = (cv2.GaussianBlur(weighted, (0, 0), reach) for reach in (NEAR, FAR))
    total = near + FAR_WEIGHT * far + 1e-6 * weighted.mean((0, 1), keepdims=True)
    return total[..., :3] / (total[..., 3:] + 1e-9)


def _smoothstep(start: float, end: float, value: np.ndarray) -> np.ndarray:
    share = np.clip((value - start) / (end - start), 0, 1)
    return share * share * (3 - 2 * share)


def _wet(across: np.ndarray, up: np.ndarray, tip: tuple[float, float]) -> np.ndarray:
    """By how much the tongue's surface is lighter or darker, [2h, 2w]; its spots move with its tip, (x, y) of the array."""
    height, width = GRAINS
    move = np.float32([[1, 0, tip[0] - width / 2], [0, 1, tip[1] - height / 2]])
    rough, spots = (cv2.warpAffine(grain, move, up.shape[::-1], borderMode=cv2.BORDER_REFLECT) for grain in _grains())
    band = np.exp(-0.5 * ((up - SHINE_AT) / SHINE_HEIGHT) ** 2 - 0.5 * (across / SHINE_WIDTH) ** 2)
    return 1 + ROUGHNESS * rough + SHINE * band * np.clip(spots, 0, 2)


@cache
def _grains() -> tuple[np.ndarray, np.ndarray]:
    """Two patterns of chance, of fine and of coarse grain, mean 0 and deviation 1, float32 `GRAINS`."""
    chance = np.random.default_rng(0)
    patterns = (cv2.GaussianBlur(chance.standard_normal(GRAINS).astype(np.float32), (0, 0), size) for size in (PAPILLAE, SPOTS))
    fine, coarse = (pattern / pattern.std() for pattern in patterns)
    return fine, coarse


def _cavity(rows: np.ndarray, lower: np.ndarray, height: np.ndarray) -> np.ndarray:
    """How light it is behind and below the teeth, [2h, 2w]."""
    height = np.maximum(height, 0)
    columns = np.arange(len(height), dtype=np.float32)
    middle = (columns @ height) / (height.sum() + 1e-6)
    across = (columns - middle) / (0.5 * TONGUE_WIDTH * max(1, int(np.count_nonzero(height))))
    up = (lower - rows) / np.maximum(height.max(), 1e-3)
    # A mound: how far inside its outline, as a share of its size.
    inside = 1 - np.sqrt(across ** 2 + (np.maximum(up, 0) / TONGUE_HEIGHT) ** 2)
    tongue = _smoothstep(0, TONGUE_EDGE, inside) * (TONGUE_BACK + (1 - TONGUE_BACK) * _smoothstep(TONGUE_HEIGHT, 0, up))
    tongue = tongue * (1 - FURROW * np.exp(-0.5 * (across / FURROW_WIDTH) ** 2))
    tongue = tongue * (1 - FRONT_SHADOW * (1 - _smoothstep(0, FRONT_SHADOW_REACH, (lower - rows) / (height + 1e-3))))
    tongue = tongue * _wet(across, up, (float(middle), SCALE * float(lower.max())))
    tongue = tongue * _smoothstep(TONGUE_SEEN_FROM, TONGUE_SEEN_TO, height.max(keepdims=True))
    return (DARK + (TONGUE - DARK) * tongue).astype(np.float32)
