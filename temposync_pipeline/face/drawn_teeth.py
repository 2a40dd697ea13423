"""Upper teeth for a photo of shut lips, which shows none: a dental arch as most people have it, in the photo's light.

Painters make of teeth that nobody has seen the mean of all that may be: a grey band, or rows of spots.  An arch that is drawn has edges,
gaps and a midline, and stays where it is, as upper teeth do (`own_teeth`).  They are nobody's in particular.  `upper_teeth.png` is the
front view of the teeth of ICT-FaceKit's mean head (copyright 2020 USC Institute for Creative Technologies, MIT licence): luma, and
coverage; `examples/draw_teeth.py` renders it.
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .crop import CROP_SIZE, crop_face
from .inner_mouth import BLOCK, SCALE, block_of_photo
from .landmarks import (
    GROUPS,
    LEFT_IRIS,
    LEFT_MOUTH_CORNER,
    LOWER_INNER_LIP,
    RIGHT_IRIS,
    RIGHT_MOUTH_CORNER,
    UPPER_INNER_LIP,
    lip_opening,
)
from .own_teeth import UpperTeeth, mouth_and_lips, polygon
from .tone import LUMA, read_tone

# Pixels that a photo needs a crop pixel: in smaller ones, blurred as they are, drawn teeth look drawn.
LEAST_SCALE = 1.0
# Of lips that are shut, as the aligner reads them, in interocular distances.
SHUT = 0.05
# The picture's pixels a millimetre, and where in it the edges of the middle teeth lie, in millimetres.
RESOLUTION, EDGE = 8, (32.0, 11.0)
# How much lighter than the lightest teeth are the spots of them that shine: the picture's white.
SHINING = 1.25
# Of the same head, in millimetres: between the eyes, between the corners of the mouth, and from where shut lips meet down to those edges.
INTEROCULAR, MOUTH_WIDTH, BELOW_LIPS = 65.0, 50.7, 2.7
# Teeth are as light as the lightest tenth of the eyes, but for this factor: 1.26 in 24 smiles of London's training people, 1.18 with
# the eyes of their neutral photographs, and speaking lips shade teeth.  Behind sunglasses, within these shares of the lips' luma.
AS_EYES, LEAST_LIGHT, MOST_LIGHT = 1.2, 1.1, 2.0
# Their colour in white light as a share of its luma: red, green, blue; and how much of the tint of the whites of the eyes they have.
COLOUR = np.array([1.055, 0.99, 0.925], np.float32)
TINT, LEAST_TINT, MOST_TINT = 0.5, 0.85, 1.2
# Blur of the picture before it is shrunk, in pixels of the block.
ANTIALIASING = 0.45


def drawn_teeth(photo: np.ndarray, matrix: np.ndarray, landmarks: np.ndarray) -> UpperTeeth | None:
    """Upper teeth for a photo whose lips are shut.

    Args:
        photo: RGB uint8 [H, W, 3]. matrix: affine from photo to crop pixels, [2, 3]. landmarks: [131, 2] in the crop.

    None where lips are parted, for then the photo shows what there is, if too little of it to be kept, and for a small face.
    """
    if lip_opening(landmarks) > SHUT or abs(np.linalg.det(matrix[:, :2])) > LEAST_SCALE ** -2:
        return None
    block, (_, lips) = block_of_photo(photo, matrix) @ LUMA, mouth_and_lips(landmarks)
    if not lips.any():
        return None
    known = read_tone(crop_face(photo, matrix)).to_known(crop_face(photo, matrix, SCALE * CROP_SIZE))
    luma, coverage = _placed(landmarks)
    light = _light(known, landmarks, float(np.median(block[lips])))
    return UpperTeeth(coverage, lips.astype(np.float32), np.clip(SHINING * luma[..., None] * light, 0, 255))


@cache
def _arch() -> tuple[np.ndarray, np.ndarray]:
    """Luma as a share of the brightest spot's, and coverage, float32 [104, 512] in [0, 1]."""
    with Image.open(Path(__file__).with_name("upper_teeth.png")) as picture:
        luma, coverage = np.moveaxis(np.asarray(picture, np.float32) / 255, -1, 0)
    return luma, coverage


def _light(crop: np.ndarray, landmarks: np.ndarray, lips: float) -> np.ndarray:
    """Colour of the lightest teeth, float32 [3], by the crop at twice its resolution, uint8 [512, 512, 3], and the luma of the lips."""
    eyes = np.concatenate([crop[polygon(SCALE * landmarks[GROUPS[eye]], crop.shape[:2])] for eye in ("right_eye", "left_eye")])
    if not len(eyes):
        return LEAST_LIGHT * lips * COLOUR
    luma = eyes @ LUMA
    white = float(np.percentile(luma, 90))
    tint = eyes[luma >= white].mean(0) / max(white, 1.0)
    light = np.clip(AS_EYES * white, LEAST_LIGHT * lips, MOST_LIGHT * lips)
    return light * COLOUR * np.clip(tint / (tint @ LUMA), LEAST_TINT, MOST_TINT) ** TINT


def _placed(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The arch's luma and coverage in the block, float32 [128, 192] each, behind the lips of a face in the crop."""
    right, left, one, other = landmarks[[RIGHT_IRIS, LEFT_IRIS, RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER]].astype(np.float64)
    across = (left - right) / np.linalg.norm(left - right)
    down = np.array([-across[1], across[0]])
    millimetre = 0.5 * (np.linalg.norm(left - right) / INTEROCULAR + np.linalg.norm(other - one) / MOUTH_WIDTH)  # in crop pixels
    lips = landmarks[[UPPER_INNER_LIP, LOWER_INNER_LIP]].mean(0)
    # Between the middle of the lips and that of their corners.
    edge = across * (0.25 * (one + other) + 0.5 * lips).dot(across) + down * (lips.dot(down) + BELOW_LIPS * millimetre)
    scale = SCALE * millimetre / RESOLUTION
    linear = scale * np.column_stack([across, down])
    # Pixel centres sit at +0.5.
    offset = SCALE * (edge - (BLOCK.x0, BLOCK.y0)) - 0.5 - linear @ (RESOLUTION * np.array(EDGE) - 0.5)
    to_block, size = np.column_stack([linear, offset]), (SCALE * (BLOCK.x1 - BLOCK.x0), SCALE * (BLOCK.y1 - BLOCK.y0))
    blur = ANTIALIASING / float(scale)
    luma, coverage = (cv2.warpAffine(cv2.GaussianBlur(part, (0, 0), blur), to_block, size) for part in _arch())
    return luma, coverage
