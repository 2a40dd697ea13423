"""papa, mama, baba: six closures a voice, and a table that counts those in which lips shut."""

import ctypes.util
import shutil

import numpy as np
import pytest
from PIL import Image

from temposync_pipeline.data.viseme_labels import SAMPLE_RATE, Phone, Speech
from temposync_pipeline.metrics import syllables
from temposync_pipeline.models.visemes import arpabet_parts


def hummed(text: str) -> Speech:
    """b ah b ah, 0.1 s each."""
    phones = [Phone(0.1 * place, 0.1 * (place + 1), symbol, arpabet_parts(symbol)) for place, symbol in enumerate(("b", "aa", "b", "aa"))]
    return Speech(np.full(int(0.4 * SAMPLE_RATE), 0.1, np.float32), SAMPLE_RATE, phones)


def test_words_lie_where_they_are_spoken():
    samples, spans, vowels = syllables.spoken_words(hummed)
    assert len(spans) == len(vowels) == 2 * len(syllables.WORDS)
    assert [start for start, _ in vowels] == pytest.approx([end for _, end in spans])
    for start, end in spans:
        assert end - start == pytest.approx(0.1, abs=1e-6) and samples[int((start + end) / 2 * SAMPLE_RATE)] > 0
    assert spans[0][0] == pytest.approx(syllables.PAUSE) and not samples[: int(syllables.PAUSE * SAMPLE_RATE)].any()


@pytest.mark.skipif(not (ctypes.util.find_library("espeak-ng") and shutil.which("flite")), reason="espeak-ng and flite are not installed")
def test_the_bundled_model_shuts_its_lips_for_most(pytestconfig, tmp_path, monkeypatch):
    monkeypatch.setattr(syllables, "ESPEAK_VOICES", ("en-us",))
    monkeypatch.setattr(syllables, "ESPEAK_SPEEDS", (140,))
    monkeypatch.setattr(syllables, "FLITE_SPEEDS", ())
    image = tmp_path / "portrait.png"
    Image.open(pytestconfig.rootpath / "examples/media/portrait_man.jpg").save(image)
    syllables.main(["--image", str(image), "--output", str(tmp_path / "table.md")])
    *_, voice, total = (tmp_path / "table.md").read_text().splitlines()
    closures, shut, vowels, opened = (int(count) for count in voice.split("|")[3:7])
    assert (closures, vowels) == (6, 6) and 4 <= shut <= 6 and 4 <= opened <= 6 and f"| {shut} (" in total and f"| {opened} (" in total


def test_a_mouth_that_stays_shut_opens_for_no_vowel():
    opening = np.zeros(20)
    vowels = [(0.1, 0.2), (0.4, 0.5)]
    assert syllables.open_count(opening, vowels) == 0
    opening[11] = 0.04
    assert syllables.open_count(opening, vowels) == 1
