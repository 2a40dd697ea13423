import numpy as np
import pytest

from temposync_pipeline.media.planes import StillPlanes, to_planes


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("shape", [(72, 96), (61, 43)])
def test_changing_a_rectangle_equals_converting_the_whole(shape, marked):
    """Whatever the rectangles, one after the other: each frame is the one that converting its whole picture makes, to the level."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    mark = rng.integers(-9, 10, (shape[0] + shape[0] % 2, shape[1] + shape[1] % 2), dtype=np.int16) if marked else None
    still = StillPlanes(picture, mark)
    for _ in range(40):
        top, left = rng.integers(0, shape[0] - 1), rng.integers(0, shape[1] - 1)
        height, width = rng.integers(0, shape[0] - top + 1), rng.integers(1, shape[1] - left + 1)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        frame = picture.copy()
        frame[top:top + height, left:left + width] = pixels
        assert np.array_equal(still.with_change(int(top), int(left), pixels).to_ndarray(), to_planes(frame, mark).to_ndarray())


def test_grey_is_neutral_and_limited_range():
    white = to_planes(np.full((16, 16, 3), 255, np.uint8)).to_ndarray()
    assert white[:16].tolist() == [[235] * 16] * 16 and set(white[16:].ravel().tolist()) == {128}


def test_a_mark_is_added_to_luma_alone_and_saturates():
    picture, mark = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.int16)
    mark[1, 2], mark[3, 5], mark[0, 0] = 5, -100, 300
    plain, marked = (to_planes(picture, levels).to_ndarray() for levels in (None, mark))
    assert (marked[1, 2], marked[3, 5], marked[0, 0]) == (21, 0, 255)
    marked[1, 2] = marked[3, 5] = marked[0, 0] = 16
    assert np.array_equal(plain, marked)
