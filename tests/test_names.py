"""How messages name what was given: never by nothing, never without end; pipes and devices are not waited for."""

import os
from pathlib import Path

import pytest
from PIL import Image

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.footage import Footage
from temposync_pipeline.media.gif import is_gif, stream_gif
from temposync_pipeline.media.image import load_image
from temposync_pipeline.media.video import read_tags, read_video
from temposync_pipeline.pipelines.latent_video import LatentVideo
from temposync_pipeline.provenance.credentials import SigningKey, load_credentials
from temposync_pipeline.terminal import LONGEST_MESSAGE, one_line, shown
from temposync_pipeline.text_files import read_table_text
from temposync_pipeline.training.settings import build_config, read_settings
from temposync_pipeline.training.student import Config

from .tiny_components import picture

READERS = {
    "picture": load_image, "recording": load_audio, "video": read_video, "tags": read_tags, "footage": Footage, "gif": is_gif,
    "frames of a gif": lambda path: next(stream_gif(path, 25)), "latents": LatentVideo.load, "table": read_table_text,
    "settings": lambda path: read_settings(path, []), "certificate": lambda path: load_credentials(SigningKey(path, path)),
}


@pytest.mark.skipif(os.name != "posix", reason="named pipes are of POSIX")
@pytest.mark.parametrize("reader", READERS)
def test_the_library_waits_for_no_pipe(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(InvalidInputError, match=f"^{path.name}: a pipe or a device, not a file$"):
            READERS[reader](path)


@pytest.mark.parametrize("name", [".", "/"])
@pytest.mark.parametrize("arguments", [
    ("generate", "--audio", "a.wav", "--image"), ("generate", "--image", "a.png", "--audio"), ("decode", "--latents"),
    ("visemes", "--audio"), ("dub", "--audio", "a.wav", "--video"), ("verify",), ("preview", "--image"),
    ("batch",), ("live", "--output", "b.mp4", "--audio", "a.wav", "--image"),
    ("generate", "--image", "a.png", "--audio", "a.wav", "--signing-key", "a.wav", "--signing-cert")])
def test_a_folder_without_a_name_is_called_as_it_was_given(tmp_path, monkeypatch, command_line, make_speech, arguments, name):
    monkeypatch.chdir(tmp_path)
    make_speech("a.wav", seconds=0.4)
    Image.fromarray(picture(96, 80)).save("a.png")
    assert command_line(*arguments, name) == (2, [], [f"temposync: {name}: a folder, not a file"])


def test_the_root_is_no_checkpoint(tmp_path, command_line, make_speech):
    Image.fromarray(picture(96, 80)).save(tmp_path / "a.png")
    code, _, err = command_line("generate", "--image", tmp_path / "a.png", "--audio", make_speech("a.wav"), "--model", "/",
                                "--output", tmp_path / "a.mp4")
    assert code == 2 and len(err) == 1 and err[0].startswith("temposync: /: ")


@pytest.mark.parametrize("arguments", [
    ("generate", "--image", "a.png", "--audio", "a.wav", "--max_size"), ("generate", "--image", "a.png", "--audio", "a.wav", "--steps"),
    ("generate", "--image", "a.png", "--audio", "a.wav", "--device"), ("generate", "--audio", "a.wav", "--image"),
    ("benchmark", "--steps"), ("train", "student", "--set"), ("train",), ("verify",), ("export", "--format"), ("nothing",)])
@pytest.mark.parametrize("value", ["9" * 5000, "a" * 50_000, "a b" * 20_000], ids=["digits", "letters", "words"])
def test_no_message_is_endless(tmp_path, monkeypatch, command_line, make_speech, arguments, value):
    monkeypatch.chdir(tmp_path)
    make_speech("a.wav", seconds=0.4)
    Image.fromarray(picture(96, 80)).save("a.png")
    code, out, err = command_line(*arguments, value)
    assert (code, out, len(err)) == (2, [], 1) and len(err[0]) < LONGEST_MESSAGE + 100


def test_what_is_shortened_keeps_beginning_and_end():
    assert one_line(f"a: {'1' * 5000}2: not a number") == f"a: {'1' * 225}...{'1' * 73}2: not a number"
    name = f"{'n' * 251}.mp4"  # as long as a disk takes it
    assert one_line(f"{name}: no such file") == f"{name}: no such file"


def test_a_value_of_yaml_is_shown_by_its_beginning(tmp_path):
    """Anchors make a short file a value without end."""
    lines = [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 40)]
    (tmp_path / "a.yaml").write_text("\n".join(["a0: &a0 [x]", *lines, "batch_size: *a39"]))
    values = read_settings(tmp_path / "a.yaml", [])
    for setting, kind in (("batch_size", "int"), ("output", "str")):
        with pytest.raises(InvalidInputError, match=f"^{setting}: .*expected {kind}$") as error:
            build_config(Config, {setting: values["batch_size"]})
        assert len(str(error.value)) < LONGEST_MESSAGE


def test_a_value_of_a_file_is_shown_by_beginning_and_end():
    assert shown("a" * 40 + "\n") == f"'{'a' * 40}\\n'" and shown([1] * 100) == f"[{'1, ' * 14}1,... 1, 1, 1, 1, 1]"


def test_a_setting_whose_name_is_a_number_is_told(tmp_path):
    (tmp_path / "a.yaml").write_text("1: 2")
    with pytest.raises(InvalidInputError, match="^1: not a setting of this stage"):
        build_config(Config, read_settings(tmp_path / "a.yaml", []))


def test_settings_have_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr("temposync_pipeline.training.settings.MAX_CONFIG_BYTES", 100)
    (tmp_path / "a.yaml").write_text("#" * 101)
    with pytest.raises(InvalidInputError, match="^a.yaml: 101 bytes, above the limit of 100$"):
        read_settings(tmp_path / "a.yaml", [])
