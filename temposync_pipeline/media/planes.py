"""Pictures as the planes that a video encoder takes; of a still one, only what changes is converted again."""

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

# Pixels around a rectangle that its chroma, averaged over neighbours, may depend on; even, so that chroma keeps its places.
MARGIN = 8


def to_planes(
    picture: np.ndarray, mark: np.ndarray | None = None, matrix: int = Colorspace.ITU709, levels: int = ColorRange.MPEG
) -> av.VideoFrame:
    """RGB uint8 [H, W, 3] as yuv420p, BT.709 in limited range unless asked otherwise; an odd last row or column is repeated.

    `mark` are levels to add to the luma, int16, its sides at least those of the picture rounded up to even (`provenance.watermark`).
    """
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
        # Starting threads takes longer than what they would do.
        format="yuv420p", src_color_range=ColorRange.JPEG, dst_colorspace=matrix, dst_color_range=levels, threads=1)
    if mark is not None:
        luma = arrays_of(frame)[0]
        luma[:] = cv2.add(luma, mark[:luma.shape[0], :luma.shape[1]], dtype=cv2.CV_8U)  # saturates
    return frame


def with_mark(picture: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """RGB uint8 [H, W, 3] with levels added to its luma, as `to_planes` adds them."""
    height, width = picture.shape[:2]
    levels = np.rint(mark[:height, :width, None] * (255 / 219)).astype(np.int16)
    return np.clip(picture + levels, 0, 255).astype(np.uint8)


def luma_of(picture: np.ndarray) -> np.ndarray:
    """The luma that an encoder gets of RGB uint8 [H, W, 3]: uint8 [H, W], sides rounded up to even."""
    return arrays_of(to_planes(picture))[0].copy()


def arrays_of(frame: av.VideoFrame) -> list[np.ndarray]:
    """Views of the planes, [H, W] and twice [H/2, W/2]."""
    return [np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, :plane.width] for plane in frame.planes]


class StillPlanes:
    """A picture RGB uint8 [H, W, 3], converted once; `with_change` shows it with a rectangle changed, and always with its `mark`."""

    def __init__(self, picture: np.ndarray, mark: np.ndarray | None = None):
        self.picture, self._mark = picture, mark
        self._frame = to_planes(picture, mark)
        self._planes = arrays_of(self._frame)
        self._original = [plane.copy() for plane in self._planes]
        self._changed = (0, 0, 0, 0)

    def with_change(self, top: int, left: int, pixels: np.ndarray) -> av.VideoFrame:
        """The same planes as `to_planes` makes of the marked picture with `pixels`, uint8 [h, w, 3], at (top, left).

        The frame is one and the same every time: encode it before the next call.
        """
        self._copy(self._original, self._changed, (0, 0))
        if pixels.size:
            bottom, right = top + pixels.shape[0], left + pixels.shape[1]
            y0, x0 = (max(0, start - start % 2 - MARGIN) for start in (top, left))
            surroundings = self.picture[y0:bottom + MARGIN, x0:right + MARGIN].copy()
            surroundings[top - y0:bottom - y0, left - x0:right - x0] = pixels
            # Chroma covers two pixels, and what it is averaged over reaches a little further.
            half = MARGIN // 2
            self._changed = (max(0, top - top % 2 - half), bottom + half, max(0, left - left % 2 - half), right + half)
            mark = None if self._mark is None else self._mark[y0:, x0:]
            self._copy(arrays_of(to_planes(surroundings, mark)), self._changed, (y0, x0))
        else:
            self._changed = (0, 0, 0, 0)
        return self._frame

    def _copy(self, planes: list[np.ndarray], rectangle: tuple[int, int, int, int], origin: tuple[int, int]) -> None:
        """Take the rectangle from `planes`, whose first pixel is `origin`."""
        y0, y1, x0, x1 = rectangle
        for target, source, scale in zip(self._planes, planes, (1, 2, 2)):
            rows, columns = slice(y0 // scale, -(-y1 // scale)), slice(x0 // scale, -(-x1 // scale))
            place = target[rows, columns]
            top, left = rows.start - origin[0] // scale, columns.start - origin[1] // scale
            place[:] = source[top:top + place.shape[0], left:left + place.shape[1]]
