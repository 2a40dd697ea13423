"""Portraits made to speak: a real talker's lip and jaw motion on another person's photograph.

Few talkers are free to use, and a network that saw only them learns their faces instead of how mouths move.  Here every portrait
becomes a talker.  Its mouth is first closed (official portraits smile, with their teeth showing), then each of its lip and jaw
landmarks follows the driver's, frame by frame, and the photograph is warped after them (`mouth_warp`).  What appears between the lips
is the driver's own mouth in that frame, matched in colour (`mouth_colour`): real teeth, a real tongue.

Everything happens in aligned crops (`face.crop`); nothing changes outside `mouth_mask()`.
"""

import numpy as np

from ..face.landmarks import CHIN, CLOSED_OPENING, GROUPS, interocular_distance, lip_opening
from ..face.lip_shape import displacement_from_rest, smooth_over_time
from .mouth_colour import MouthLight
from .mouth_warp import INNER, LOWER, MASK, OUTER, OVAL, REGION, UPPER, YS, MouthOpening, depth_at, interior, smoothstep, warp

_LIPS = np.r_[GROUPS["outer_lips"], GROUPS["inner_lips"]]
# Width of a mouth at rest relative to the interocular distance: 0.75 over 17 talkers' closed frames, and a little more, so that a
# smiling person keeps a friendly face.  Portraits (0.98 on average) differ more in how widely they smile than in how wide their
# mouths are: this much of the difference is kept.
_NEUTRAL_WIDTH, _PORTRAIT_WIDTH, _WIDTH_KEPT = 0.80, 0.98, 0.35
# Where a parted mouth closes, from the upper lip (0) to the lower (1), and how far the chin rises, in gaps between the lips.
_CLOSING_HEIGHT, _CHIN_RISE = 0.55, 0.4
# Lip opening from which on a mouth, open more and more above `CLOSED_OPENING`, counts as open in full.
PARTED = 0.06


def close_mouth(landmarks: np.ndarray) -> np.ndarray:
    """The same face with its mouth closed, float32 [131, 2]; a mouth that is closed already stays as it is.

    The inner lip contours meet between the lips, the corners move in and down to a neutral width, lips grow thicker as they are no
    longer stretched, and the chin rises.  How much of all this happens grows with `lip_opening` of the input.
    """
    closed = landmarks.astype(np.float64)
    amount = float(smoothstep(lip_opening(closed), CLOSED_OPENING, PARTED))
    outer, inner = closed[OUTER].copy(), closed[INNER].copy()
    upper, lower = inner[UPPER], inner[LOWER]
    scale, width, gap = interocular_distance(closed), np.ptp(outer[[0, 10], 0]), lower[5, 1] - upper[5, 1]
    neutral_width = scale * (_NEUTRAL_WIDTH + _WIDTH_KEPT * (width / scale - _PORTRAIT_WIDTH))
    ratio = 1 + amount * (min(neutral_width / width, 1) - 1)
    centre = (outer[5, 0] + outer[15, 0] + inner[5, 0] + inner[15, 0]) / 4

    across = np.linspace(-1, 1, 11)
    # At rest the lip line is nearly level: its middle hangs 2 % of the interocular distance lower than its corners.
    level = upper[5, 1] + _CLOSING_HEIGHT * gap - 0.02 * scale * across**2 + 0.25 * (outer[10, 1] - outer[0, 1]) * across
    own = (upper[:, 1] + lower[:, 1]) / 2
    line = own + amount * (level - own)
    for lip, thickening in ((UPPER, ratio**-1.0), (LOWER, ratio**-0.7)):
        thickness = outer[lip, 1] - inner[lip, 1]
        thickness[1:-1] *= thickening
        closed[INNER[lip]] = np.stack([centre + ratio * ((upper[:, 0] + lower[:, 0]) / 2 - centre), line], 1)
        closed[OUTER[lip]] = np.stack([centre + ratio * (outer[lip, 0] - centre), line + thickness], 1)
    closed[OVAL, 1] -= amount * _CHIN_RISE * gap * _chin_share(landmarks)
    return closed.astype(np.float32)


def _chin_share(landmarks: np.ndarray) -> np.ndarray:
    """How far each face-oval point moves with the chin, [36]: 1 at the chin, 0 from the height of the mouth upwards."""
    mouth, chin = landmarks[INNER, 1].mean(), landmarks[CHIN, 1]
    return smoothstep(landmarks[OVAL, 1], mouth, 0.9 * chin + 0.1 * mouth)


def transfer_motion(base: np.ndarray, driver: np.ndarray, driver_rest: np.ndarray) -> np.ndarray:
    """Landmarks of the portrait speaking like the driver, float32 [T, 131, 2].

    `base` [131, 2] is the portrait's closed face, `driver` [T, 131, 2] the talker's, `driver_rest` [131, 2] the talker at rest, all in
    crop pixels.  Inner lips and jaw take the driver's displacement from rest, scaled by the interocular distances; the thickness of
    the lips changes by the driver's ratio, so that thin lips never turn inside out; the upper inner lip never sinks below the lower.
    """
    # Of a talker who rests with parted lips only the height is closed, not the width.
    rest = np.stack([driver_rest[:, 0], close_mouth(driver_rest)[:, 1]], 1).astype(np.float64)
    rest[OVAL] = driver_rest[OVAL]
    displacement = interocular_distance(base) / interocular_distance(driver_rest) * displacement_from_rest(driver, rest)
    # A wide mouth purses and spreads over a longer way.
    displacement[..., 0] *= np.clip(np.ptp(base[_LIPS, 0]) / np.ptp(rest[_LIPS, 0]), 1, 1.35)

    target = np.repeat(base[None].astype(np.float64), len(driver), 0)
    target[:, _LIPS] += displacement[:, _LIPS]
    target[:, OVAL] += displacement[:, OVAL] * _chin_share(base)[:, None]
    crossing = np.maximum(target[:, INNER[UPPER[1:-1]], 1] - target[:, INNER[LOWER[1:-1]], 1], 0) / 2
    target[:, INNER[UPPER[1:-1]], 1] -= crossing
    target[:, INNER[LOWER[1:-1]], 1] += crossing
    for lip, direction in ((UPPER[1:-1], -1), (LOWER[1:-1], 1)):
        now = np.maximum(direction * (driver[:, OUTER[lip], 1] - driver[:, INNER[lip], 1]), 0)
        at_rest = np.maximum(direction * (rest[OUTER[lip], 1] - rest[INNER[lip], 1]), 0)
        # Two pixels of landmark noise must not swell a thin lip.
        ratio = np.clip((now + 2) / (at_rest + 2), 0.6, 1.6)
        target[:, OUTER[lip], 1] = target[:, INNER[lip], 1] + (base[OUTER[lip], 1] - base[INNER[lip], 1]) * ratio
    return target.astype(np.float32)


def _fade_jaw(photograph: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`target` [T, 131, 2] with the jaw's distance from the photograph's [131, 2] fading to nothing at the mask's border."""
    faded = target.copy()
    share = smoothstep(depth_at(photograph[OVAL]), 0, 26)[:, None]
    faded[:, OVAL] = photograph[OVAL] + (target[:, OVAL] - photograph[OVAL]) * share
    return faded


def closed_lips_source(portrait_landmarks: np.ndarray) -> np.ndarray:
    """Where the warp takes the lips from, float64 [131, 2]: one pixel inside the lips of an open mouth, where no tooth shows.

    The lips' edge is known to a pixel only.
    """
    source, was_open = portrait_landmarks.astype(np.float64), _was_open(portrait_landmarks)
    source[INNER[UPPER[1:-1]], 1] -= was_open
    source[INNER[LOWER[1:-1]], 1] += was_open
    return source


def _was_open(portrait_landmarks: np.ndarray) -> float:
    return float(smoothstep(lip_opening(portrait_landmarks), CLOSED_OPENING, PARTED))


def _inside(opening: MouthOpening) -> np.ndarray:
    """1 in the columns where the mouth is open, [W]."""
    return (opening.beyond == 0) * smoothstep(opening.gap, 0.4, 2.0)


def interior_share(opening: MouthOpening) -> np.ndarray:
    """How much of a pixel of the region is the inside of the mouth, [H, W] in [0, 1]."""
    return _inside(opening) * np.clip((YS - opening.upper) / 1.6 + 0.4, 0, 1) * np.clip((opening.lower - YS) / 1.6 + 0.4, 0, 1)


def retarget(
    portrait_crop: np.ndarray,
    portrait_landmarks: np.ndarray,
    driver_landmarks: np.ndarray,
    driver_crops: np.ndarray,
    driver_rest: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The portrait speaking like the driver: frames uint8 [T, 256, 256, 3] and their landmarks float32 [T, 131, 2].

    `portrait_crop` uint8 [256, 256, 3] with landmarks [131, 2]; the driver's crops uint8 [T, 256, 256, 3] with landmarks [T, 131, 2]
    and closed rest shape [131, 2] (`rest_shape`); all landmarks in crop pixels.  Outside `mouth_mask()` each frame is the portrait,
    bit for bit.
    """
    light = MouthLight.match(portrait_crop, portrait_landmarks, driver_crops, driver_landmarks)
    driver_landmarks = smooth_over_time(driver_landmarks.astype(np.float64), 0.6)
    target = _fade_jaw(portrait_landmarks, transfer_motion(close_mouth(portrait_landmarks), driver_landmarks, driver_rest))
    was_open, source = _was_open(portrait_landmarks), closed_lips_source(portrait_landmarks)
    frames = np.repeat(portrait_crop[None], len(target), 0)
    for frame, shape, driver_crop, driver_shape in zip(frames, target, driver_crops, driver_landmarks):
        opening = MouthOpening.of(shape)
        region = warp(portrait_crop, source, shape, opening)
        inside = _inside(opening)
        # Lips that were parted in the photograph have no shadow between them yet.
        shadow = 0.36 * was_open * np.exp(-0.5 * ((YS - opening.line) / 0.85) ** 2) * np.exp(-opening.beyond / 1.5) * (1 - inside)
        region *= 1 - shadow[..., None]
        if inside.any():
            below_upper, above_lower = YS - opening.upper, opening.lower - YS
            # Lips shade what lies just behind them, the upper one more.
            shade = np.clip(np.minimum(0.6 + 0.16 * below_upper, 0.75 + 0.16 * above_lower), 0.5, 1)
            mouth = light(interior(driver_crop, driver_shape, opening)) * shade[..., None]
            region += interior_share(opening)[..., None] * (mouth - region)
        frame[REGION] = np.where(MASK[..., None] > 0, np.clip(region + 0.5, 0, 255), frame[REGION])
    return frames, target
