"""The upper teeth of somebody who is filmed, for a frame in which their lips are shut: as another frame of the film shows them."""

import cv2
import numpy as np

from .inner_mouth import SCALE
from .landmarks import GROUPS
from .own_teeth import UpperTeeth, mouth_and_lips, own_teeth
from .warp import fine_block

# By how much teeth go on above what the lip lets see of them, in pixels at twice the crop's resolution.
UNDER_LIP = 6
# How far from one another noses of the two frames may be, in crop pixels: teeth of a head that is turned are others.
MOST_TURNED = 4.0
_NOSE = GROUPS["nose_base"]


def film_teeth(picture: np.ndarray, matrix: np.ndarray, landmarks: np.ndarray, shut: np.ndarray) -> UpperTeeth | None:
    """The upper teeth that a picture shows (`own_teeth`), behind the shut lips of another one of the same head.

    Args:
        picture: RGB uint8 [H, W, 3]. matrix: affine from it to its crop, [2, 3]. landmarks: [131, 2] in that.
        shut: landmarks [131, 2] of the other one, in the crop of that.

    None where it shows none, and where the head is turned otherwise.
    """
    shift = (shut[_NOSE] - landmarks[_NOSE]).mean(0)
    seen = own_teeth(picture, matrix, landmarks) if np.linalg.norm(shift) <= MOST_TURNED else None
    if seen is None:
        return None
    share, colours = _under_the_lip(seen.share, fine_block(picture, matrix).astype(np.float32))
    move = np.column_stack([np.eye(2), SCALE * shift]).astype(np.float32)
    moved = cv2.warpAffine(np.dstack([share, colours]), move, share.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    return UpperTeeth(moved[..., 0], mouth_and_lips(shut)[1].astype(np.float32), moved[..., 1:])


def _under_the_lip(share: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same, each column's uppermost colour of teeth carried on upwards."""
    rows = np.arange(len(share))[:, None]
    top = np.where((share > 0.9).any(0), (share > 0.9).argmax(0), len(share))
    upwards = (rows < top) & (rows >= top - UNDER_LIP)
    upwards &= top < len(share)
    from_row = np.where(upwards, np.minimum(top, len(share) - 1), rows)
    return np.where(upwards, 1, share).astype(np.float32), np.take_along_axis(colours, from_row[..., None], 0)
