"""One person's mouth interior in the light of another person's photograph."""

from dataclasses import dataclass

import cv2
import numpy as np

from ..face.crop import CROP_SIZE
from ..face.landmarks import GROUPS, interocular_distance, lip_opening
from .mouth_warp import INNER, NOSE_BASE, smoothstep

# Red, green and blue of teeth whose own colour is unknown, relative to their brightness.
_TEETH = np.array([1.11, 0.99, 0.90])
# Lip opening (of the interocular distance) from which teeth can be seen.
_TEETH_VISIBLE = 0.06


def skin_colour(crop: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Median colour of nose and cheeks, float [3]: neither beards nor lips reach there.  Crop and landmarks [131, 2] in crop pixels."""
    middle = (landmarks[GROUPS["nose_bridge"]].mean(0) + landmarks[NOSE_BASE].mean(0)) / 2
    scale = float(interocular_distance(landmarks))
    patch = max(4, int(0.12 * scale))
    places = [(middle + [across * scale, 0]).round().astype(int) for across in (-0.42, 0.0, 0.42)]
    return np.median(np.concatenate([crop[y - patch:y + patch, x - patch:x + patch].reshape(-1, 3) for x, y in places]), 0)


def teeth_colour(crops: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
    """Mean colour of the brightest sixth of the pale pixels in the widest open mouths, float [3]; None where no mouth opens.

    `crops` uint8 [T, 256, 256, 3], `landmarks` [T, 131, 2].
    """
    pixels = [np.zeros((0, 3), np.uint8)]
    openings = lip_opening(landmarks)
    for index in np.argsort(openings)[-8:]:
        if openings[index] > _TEETH_VISIBLE:
            inside = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
            cv2.fillPoly(inside, [landmarks[index][INNER].round().astype(np.int32)], 1)
            pixels.append(crops[index][cv2.erode(inside, np.ones((3, 3), np.uint8)) > 0])
    pixels = np.concatenate(pixels).astype(np.float64)
    # Gums and tongue are redder than any tooth.
    pixels = pixels[pixels[:, 0] < 1.45 * pixels[:, 1]]
    if len(pixels) < 40:
        return None
    brightness = pixels.sum(1)
    return pixels[brightness >= np.percentile(brightness, 84)].mean(0)


@dataclass
class MouthLight:
    """How the driver's mouth looks in the portrait's light: teeth as its teeth do, tongue, gums and the dark as its skin does.

    Called with colours float32 [..., 3] it returns the same.
    """

    driver_teeth: np.ndarray  # [3]
    teeth: np.ndarray  # [3] the same teeth in the portrait
    tissue_gain: np.ndarray  # [3]

    @classmethod
    def match(cls, portrait: np.ndarray, portrait_landmarks: np.ndarray, driver: np.ndarray, driver_landmarks: np.ndarray) -> "MouthLight":
        """From the portrait's crop and landmarks [131, 2] and the driver's, uint8 [T, 256, 256, 3] and [T, 131, 2]."""
        middle = len(driver) // 2
        skin, driver_skin = skin_colour(portrait, portrait_landmarks), skin_colour(driver[middle], driver_landmarks[middle])
        brightness = np.clip(skin.mean() / driver_skin.mean(), 0.6, 1.4)
        tissue_gain = brightness * np.clip(skin / driver_skin * driver_skin.mean() / skin.mean(), 0.88, 1.14)
        driver_teeth = teeth_colour(driver, driver_landmarks)
        if driver_teeth is None:
            return cls(driver_skin, driver_skin * tissue_gain, tissue_gain)
        teeth = teeth_colour(portrait[None], portrait_landmarks[None])
        if teeth is None:
            teeth = _TEETH * np.clip(1.1 * skin.mean(), 110, 200)
        brightness = np.clip(0.95 * teeth.mean() / driver_teeth.mean(), 0.6, 1.45)
        return cls(driver_teeth, teeth / teeth.mean() * driver_teeth.mean() * brightness, tissue_gain)

    def __call__(self, mouth: np.ndarray) -> np.ndarray:
        level = mouth.mean(-1, keepdims=True) / self.driver_teeth.mean()
        bright = smoothstep(level, 0.5, 0.95)
        pale = 1 - smoothstep(mouth[..., :1] / np.maximum(mouth[..., 1:2], 1), 1.3, 1.6)
        tissue = mouth * self.tissue_gain
        # Tongue, gums and the dark behind them are red; what video shows there as olive or mauve is its coarse colour.
        tissue[..., 1:] = np.minimum(tissue[..., 1:], tissue[..., :1] * [0.80, 0.75])
        tissue[..., 2] = np.minimum(tissue[..., 2], tissue[..., 1])
        # Video keeps colour at half the resolution of brightness, so a tooth's own is unreliable.  In the shade its colour deepens:
        # the light there has come through lips and gums.
        chroma = (self.teeth / self.teeth.mean()) ** np.clip(2.2 - 1.2 * level, 1, 2)
        tooth = 0.75 * level * self.teeth.mean() * chroma + 0.25 * mouth * (self.teeth / self.driver_teeth)
        return (tissue + bright * pale * (tooth - tissue)).astype(np.float32)
