"""High dynamic range to standard: PQ and HLG pictures (ITU-R BT.2100) as BT.709 shows them."""

from functools import lru_cache

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, ColorTrc

PQ, HLG = int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)
NAMES = {PQ: "PQ", HLG: "HLG"}
# Nits of what is white in a standard picture (ITU-R BT.2408), and of the brightest highlight that is told from brighter ones.
WHITE, PEAK = 203.0, 1000.0
# Share of standard white from which highlights are compressed.
KNEE = 0.75
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
STEPS = 4096


def is_hdr(transfer: int) -> bool:
    return transfer in NAMES


def to_standard(frame: av.VideoFrame) -> np.ndarray:
    """RGB uint8 [H, W, 3] in BT.709 of a PQ or HLG frame; highlights above standard white are compressed, hues kept."""
    signal = frame.reformat(format="rgb48le", src_colorspace=Colorspace.BT2020, src_color_range=frame.color_range or ColorRange.MPEG,
                            dst_color_range=ColorRange.JPEG).to_ndarray(format="rgb48le")
    linear = _light(int(frame.color_trc))[signal >> 4]
    if frame.color_trc == HLG:  # the display's own gamma is of the luminance
        linear = linear * np.maximum(linear @ _LUMA_2020, 1e-6)[..., None] ** 0.2 * (PEAK / WHITE)
    linear = np.maximum(linear @ _TO_709.T, 0)
    brightest = linear.max(-1, keepdims=True)
    linear *= np.where(brightest > KNEE, _compressed(brightest) / np.maximum(brightest, 1e-6), 1)
    return _gamma()[np.clip(np.rint(linear * (STEPS - 1)), 0, STEPS - 1).astype(np.intp)]


def _compressed(light: np.ndarray) -> np.ndarray:
    """Light above `KNEE` bent, without a corner, such that `PEAK` is just white."""
    room, above = 1 - KNEE, light - KNEE
    most = PEAK / WHITE - KNEE
    bend = (most - room) / (most * room)  # above / (1 + bend * above) has the slope 1 at the knee
    return KNEE + np.minimum(above / (1 + bend * above), room)


@lru_cache
def _light(transfer: int) -> np.ndarray:
    """Light, 1 = standard white (of HLG: the scene's, 1 = its brightest), of 4,096 signal levels; float32 [4096]."""
    signal = np.arange(STEPS) / (STEPS - 1)
    if transfer == PQ:  # SMPTE ST 2084
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = signal ** (1 / m2)
        return (10_000 / WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)


@lru_cache(maxsize=1)
def _gamma() -> np.ndarray:
    """BT.709 levels, uint8 [4096], of light from black to white as a display of gamma 2.4 shows it (ITU-R BT.1886)."""
    return np.rint(255 * (np.arange(STEPS) / (STEPS - 1)) ** (1 / 2.4)).astype(np.uint8)
