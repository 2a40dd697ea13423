import numpy as np
import pytest

from temposync_pipeline.media.planes import StillPlanes, to_planes


@pytest.mark.parametrize("shape", [(72, 96), (61, 43)])
def test_changing_a_rectangle_equals_converting_the_whole(shape):
    """Whatever the rectangles, one after the other: each frame is the one that converting its whole picture makes, to the level."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    still = StillPlanes(picture)
    for _ in range(40):
        top, left = rng.integers(0, shape[0] - 1), rng.integers(0, shape[1] - 1)
        height, width = rng.integers(0, shape[0] - top + 1), rng.integers(1, shape[1] - left + 1)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        frame = picture.copy()
        frame[top:top + height, left:left + width] = pixels
        assert np.array_equal(still.with_change(int(top), int(left), pixels).to_ndarray(), to_planes(frame).to_ndarray())


def test_grey_is_neutral_and_limited_range():
    white = to_planes(np.full((16, 16, 3), 255, np.uint8)).to_ndarray()
    assert white[:16].tolist() == [[235] * 16] * 16 and set(white[16:].ravel().tolist()) == {128}
