import numpy as np
import pytest

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.metrics import judge

from .test_retarget import TEETH, draw, face


def test_without_dlib_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(judge, "_MODULES", ("dlib", "no_such_module"))
    judge._network.cache_clear()
    assert not judge.is_installed()
    with pytest.raises(InvalidInputError, match=r"pip install 'temposync-pipeline\[judge\]'") as error:
        judge.csim(np.zeros((1, 256, 256, 3), np.uint8), np.zeros((256, 256, 3), np.uint8))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not judge.is_installed(), reason="dlib's face embedding is not installed")
def test_csim_is_one_for_the_picture_itself():
    judge._network.cache_clear()
    drawn = np.stack([draw(face(), TEETH), draw(face(12, 50), TEETH)])
    assert judge.csim(drawn[:1], drawn[0]) == pytest.approx(1, abs=1e-5)
    assert judge.csim(drawn[1:], drawn[0]) < 0.9999
