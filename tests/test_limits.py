"""The limits stand in one place, are documented there where users read, and give way to the environment."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from temposync_pipeline import limits
from temposync_pipeline.errors import InvalidAudioError, InvalidImageError, InvalidVideoError
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.image import load_image
from temposync_pipeline.media.video import VideoWriter, read_video

from .test_media_image import png_header

ROOT = Path(__file__).parent.parent


def command(*arguments, **environment):
    result = subprocess.run([sys.executable, "-m", "temposync_pipeline.cli", *map(str, arguments)], cwd=ROOT, capture_output=True,
                            text=True, env=os.environ | environment)
    return result.returncode, result.stderr.splitlines()


def test_every_limit_is_documented_with_its_value():
    table = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) ", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), re.MULTILINE))
    known = {name: value for name, value in vars(limits).items() if re.search("(^|_)(MIN|MAX)_", name)}
    assert {name: float(value) for name, value in table.items()} == known


def test_every_promise_names_tests_that_exist():
    promises = re.search(r"^## Promises\n(.*?)^## ", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    each = re.split(r"^\d+\. ", promises, flags=re.MULTILINE)[1:]
    assert len(each) >= 8
    for promise in each:
        names, files = re.findall(r"`(test_\w+)`", promise), re.findall(r"\b(?:tests|docs/results)/\w+\.\w+", promise)
        assert names or files, promise
        assert all(f"def {name}(" in tests for name in names), promise
        assert all((ROOT / file).exists() for file in files if (ROOT / file).parent.exists()), promise  # the source archive has no docs


def test_every_limit_that_a_message_names_stands_there():
    named = set()
    for path in (ROOT / "temposync_pipeline").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        imported = {name for line in re.findall(r"^from \.+limits import (.+)$", text, re.MULTILINE)
                    for name in re.split(r", | as ", line)}
        own = set(re.findall(r"limits? of \{(?:megapixels\()?([A-Z]\w+)", text)) | set(re.findall(r"limits of .* to \{([A-Z]\w+)", text))
        assert own <= imported, path.name
        named |= own
    assert {"MAX_PIXELS", "MAX_RATE", "MAX_FRAMES", "MAX_LAYERS"} <= named


def test_the_environment_overrides_a_limit(tmp_path, make_audio):
    audio = make_audio("a.wav", seconds=0.5)
    code, errors = command("generate", "--image", audio, "--audio", audio, "--output", tmp_path / "out.mp4",
                           TEMPOSYNC_MAX_PICTURE_BYTES="100")
    assert code == 2 and errors == [f"temposync: a.wav: {audio.stat().st_size} bytes, above the limit of 100"]
    code, errors = command("visemes", "--audio", audio, TEMPOSYNC_MAX_SECONDS="0.25")
    assert code == 2 and errors == ["temposync: a.wav: longer than the limit of 0.25 s"]


@pytest.mark.parametrize("value", ["many", "0", "-3", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(make_audio, value):
    code, errors = command("visemes", "--audio", make_audio("a.wav"), TEMPOSYNC_MAX_SECONDS=value)
    assert code == 2 and errors == [f"temposync: TEMPOSYNC_MAX_SECONDS={value}: expected a number above 0"]


def test_files_beyond_the_limit_are_not_read(tmp_path):
    """Sparse files: they take no room, and would take minutes to search."""
    for name, size, load, error in (("a.wav", limits.MAX_MEDIA_BYTES, load_audio, InvalidAudioError),
                                    ("a.mp4", limits.MAX_MEDIA_BYTES, read_video, InvalidVideoError),
                                    ("a.png", limits.MAX_PICTURE_BYTES, load_image, InvalidImageError)):
        with open(tmp_path / name, "wb") as file:
            file.write(b"RIFF\0\0\0\0WAVE")
            file.truncate(size + 1)
        with pytest.raises(error, match=f"^{name}: {size + 1} bytes, above the limit of {size}$"):
            load(tmp_path / name)


def test_frames_beyond_the_limit_are_refused(tmp_path, picture, monkeypatch):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        for _ in range(4):
            writer.write(picture)
    monkeypatch.setattr("temposync_pipeline.media.video.MAX_FRAMES", 3)
    with pytest.raises(InvalidVideoError, match="^a.mp4: more frames than the limit of 3$"):
        read_video(tmp_path / "a.mp4")
    assert len(read_video(tmp_path / "a.mp4", max_frames=3)[0]) == 3


PICTURES = """
import sys, warnings
from PIL import Image
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.media.image import load_image

warnings.simplefilter("error")
for path in sys.argv[1:]:
    try:
        print(load_image(path).shape)
    except InvalidInputError as error:
        print(error)
"""


@pytest.mark.parametrize(("limit", "side", "message"), [
    ("50000", 300, "300x300 px, above the limit of 0.05 megapixels"), ("1500000", 1300, "1300x1300 px, above the limit of 1.5 megapixels"),
    ("399000000", 20_000, "20000x20000 px, above the limit of 399 megapixels"),  # far above Pillow's own
    ("100000000", 20_000, "400 megapixels, above the limit of 100 megapixels"),
])
def test_the_limit_of_pixels_governs_alone(tmp_path, limit, side, message):
    """Pillow's own is 89 megapixels: from twice as many on it would not even say width and height."""
    (tmp_path / "a.png").write_bytes(png_header(side, side))
    result = subprocess.run([sys.executable, "-c", PICTURES, "a.png"], cwd=tmp_path, capture_output=True, text=True,
                            env=os.environ | {"TEMPOSYNC_MAX_PIXELS": limit, "PYTHONPATH": str(ROOT)})
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.startswith(f"a.png: {message}"), result


@pytest.mark.parametrize("text", ["9" * 300, "1" + "0" * 30])
def test_no_limit_may_be_written_as_a_large_number(monkeypatch, text):
    """Libraries that count in 64 bits would fail on more, the read of a configuration of so many bytes first."""
    monkeypatch.setenv("TEMPOSYNC_MAX_CONFIG_BYTES", text)
    assert limits.limit("MAX_CONFIG_BYTES", 1_000_000) == 10**12
    monkeypatch.setenv("TEMPOSYNC_MAX_SECONDS", "1e308")
    assert limits.limit("MAX_SECONDS", 900.0) == 1e12


def test_a_command_works_with_every_limit_lifted(tmp_path):
    names = [name for name in vars(limits) if name.startswith("MAX_")]
    code, errors = command("visemes", "--audio", ROOT / "examples" / "media" / "speech_hello.wav", "--json", tmp_path / "a.json",
                           **{f"TEMPOSYNC_{name}": "9" * 300 for name in names})
    assert (code, errors) == (0, [])
