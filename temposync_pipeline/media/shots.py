"""Where a film cuts from one shot to the next."""

import cv2
import numpy as np

# Pictures are compared at this size (width, height), without their motion's detail.
SIZE = (32, 18)
# A cut changes a picture by this many levels in the mean, and this many times as much as the frames before it changed.
LEVELS, TIMES = 12.0, 3.0


class ShotDetector:
    """Tells, picture by picture, whether a new shot begins.  A flash of light may count as one: then a track begins anew, and nothing is
    lost."""

    def __init__(self):
        self._last: np.ndarray | None = None
        self._usual = 0.0

    def begins(self, picture: np.ndarray) -> bool:
        """Whether a picture, uint8 [H, W, 3], is of another shot than the one before; the first is not."""
        small = cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
        last, self._last = self._last, small
        if last is None:
            return False
        change = float(np.abs(small - last).mean())
        cut = change > max(LEVELS, TIMES * self._usual)
        self._usual = 0.0 if cut else 0.8 * self._usual + 0.2 * change
        return cut
