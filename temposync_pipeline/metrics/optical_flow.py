"""Where pixels go from one frame to the next, and which of them can be followed."""

import cv2
import numpy as np


def optical_flow(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """For every pixel of `source` where it is in `target`, as a displacement (x, y) in pixels: float32 [H, W, 2].

    Dense inverse search (Kroeger et al. 2016), OpenCV's, on luma; frames RGB uint8 [H, W, 3], at least 16 pixels high and wide.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (source, target)]
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)


def visible_mask(flow: np.ndarray, back: np.ndarray) -> np.ndarray:
    """M of equation 9 (arXiv 2603.06057): 1 where a pixel can be followed there and back again, 0 where it is occluded, float32 [H, W].

    |f(p) + b(p + f(p))|² < 0.01·(|f(p)|² + |b(p + f(p))|²) + 0.5 (Sundaram et al. 2010, eq. 5), and p + f(p) inside the picture.

    Args:
        flow: f, from this frame to the other, [H, W, 2] in pixels.
        back: b, from the other frame to this one.
    """
    height, width = flow.shape[:2]
    places = flow + np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    returned = cv2.remap(back, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error, length = np.square(flow + returned).sum(-1), (np.square(flow) + np.square(returned)).sum(-1)
    inside = ((places >= 0) & (places <= [width - 1, height - 1])).all(-1)
    return (inside & (error < 0.01 * length + 0.5)).astype(np.float32)
