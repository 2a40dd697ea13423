"""Where outputs may go: names too long, folders that are closed, files that a command reads."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image

from temposync_pipeline import cli
from temposync_pipeline.checkpoints import bundled_path
from temposync_pipeline.commands.live import opened
from temposync_pipeline.data.manifest import Clip, write_manifest
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.files import whole_file, write_whole
from temposync_pipeline.terminal import shortened

from .conftest import hear_interrupts
from .test_bad_inputs import clip
from .tiny_components import MEDIA, picture, spoken, tiny_pipeline

pytestmark = pytest.mark.makes_videos

ROOT = Path(__file__).parent.parent
# The outputs of each command, by option, and what else it needs.
OUTPUTS = {
    "generate": ({"--output": ".mp4", "--json": ".json"}, ("--image", "a.png", "--audio", "a.wav")),
    "generate latents": ({"--output": ".safetensors"}, ("--image", "a.png", "--audio", "a.wav")),
    "dub": ({"--output": ".mp4", "--json": ".json"}, ("--video", "a.mp4", "--audio", "a.wav")),
    "live": ({"--output": ".mp4", "--json": ".json"}, ("--image", "a.png", "--audio", "a.wav")),
    "preview": ({"--output": ".png", "--json": ".json"}, ("--image", "a.png")),
    "decode": ({"--output": ".mp4", "--json": ".json"}, ("--latents", "a.safetensors")),
    "visemes": ({"--json": ".json"}, ("--audio", "a.wav")),
    "verify": ({"--json": ".json"}, ("a.mp4",)),
    "batch": ({"--json": ".json"}, ("a.csv",)),
    "benchmark": ({"--json": ".json"}, ("--image", "a.png", "--audio", "a.wav")),
    "evaluate": ({"--json": ".json"}, ("--manifest", ".")),
    "manifest": ({"--output": ".jsonl", "--json": ".json"}, ("--data", ".")),
    "export": ({"--json": ".json"}, ("--format", "onnx", "--image", "a.png", "--audio", "a.wav")),
    "train": ({"--output": "", "--json": ".json"}, ("student", "--data", "clips")),
}
CASES = [(command, option) for command, (options, _) in OUTPUTS.items() for option in options]


@pytest.fixture
def folder(tmp_path, make_speech, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    make_speech("a.wav", seconds=0.4)
    Image.fromarray(picture(96, 80)).save("a.png")
    clip(tmp_path / "a.mp4")
    Path("a.csv").write_text("image,audio,output\na.png,a.wav,b.mp4\n")
    Path("a.safetensors").write_bytes(b"latents")
    return tmp_path


@pytest.fixture
def seen_by_all(folder, monkeypatch):
    """The folder where others may read. Not below pytest's own, which each pytest that starts beside this one closes to them again."""
    with TemporaryDirectory() as name:
        path = Path(shutil.copytree(folder, Path(name) / "folder"))
        for each in (Path(name), path, *path.rglob("*")):
            each.chmod(each.stat().st_mode | (0o055 if each.is_dir() else 0o044))
        monkeypatch.chdir(path)
        yield path


def given(command: str, option: str, output: object) -> list[str]:
    return [command.split()[0], *OUTPUTS[command][1], option, str(output)]


@pytest.mark.parametrize(("command", "option"), CASES)
def test_a_name_too_long_for_the_disk_is_told(folder, command_line, command, option):
    before, name = sorted(os.listdir()), "n" * 300 + OUTPUTS[command][0][option]
    code, out, err = command_line(*given(command, option, name))
    assert (code, out, err) == (2, [], [f"temposync: {shortened(name + ':')} File name too long"]) and sorted(os.listdir()) == before


@pytest.mark.parametrize("command", [command for command in OUTPUTS if command not in ("verify", "train")])
@pytest.mark.parametrize("precious", ["model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"])
def test_no_output_replaces_a_file_of_the_model(folder, command_line, checkpoint, command, precious):
    for option, suffix in OUTPUTS[command][0].items():
        link = folder / f"link{suffix}"
        link.symlink_to(checkpoint / precious)
        before = (checkpoint / precious).read_bytes()
        code, out, err = command_line(*given(command, option, link), "--model", checkpoint)
        assert (code, out, err) == (2, [], [f"temposync: {link}: the output would replace an input"])
        assert link.is_symlink() and (checkpoint / precious).read_bytes() == before
        link.unlink()


@pytest.mark.skipif(os.name != "posix", reason="named pipes are of POSIX")
@pytest.mark.parametrize(("command", "option"), [case for case in CASES if case != ("train", "--output")])
def test_no_output_takes_the_place_of_a_pipe_or_device(folder, command_line, command, option):
    """Nor of what /dev/stdout leads to: a file would stand there instead, as root in /dev itself."""
    pipe, stream = folder / f"pipe{OUTPUTS[command][0][option]}", folder / f"stream{OUTPUTS[command][0][option]}"
    os.mkfifo(pipe)
    stream.symlink_to("/proc/self/fd/1")
    for path in (pipe, stream):
        code, out, err = command_line(*given(command, option, path))
        assert (code, out, err) == (2, [], [f"temposync: {path}: the output is a pipe or a device, not a file"])
    assert pipe.is_fifo() and stream.is_symlink()


@pytest.mark.skipif(os.name != "posix", reason="named pipes are of POSIX")
@pytest.mark.parametrize("arguments", [
    ("visemes", "--audio"), ("preview", "--image"), ("verify",), ("batch",), ("decode", "--latents"),
    ("evaluate", "--json", "b.json", "--manifest"), ("dub", "--audio", "a.wav", "--video"), ("train", "student", "--config"),
    ("generate", "--image", "a.png", "--audio", "a.wav", "--signing-key", "a.wav", "--signing-cert")])
def test_an_input_that_is_a_pipe_is_told_and_not_waited_for(folder, command_line, arguments):
    os.mkfifo("pipe.csv")
    assert command_line(*arguments, "pipe.csv") == (2, [], ["temposync: pipe.csv: a pipe or a device, not a file"])


@pytest.mark.parametrize(("command", "option"), [case for case in CASES if case != ("train", "--output")])
@pytest.mark.parametrize("leads_to", ["itself", "nothing"])
def test_a_link_that_leads_to_no_file_is_told(folder, command_line, command, option, leads_to):
    name = f"itself{OUTPUTS[command][0][option]}"
    Path(name).symlink_to(name if leads_to == "itself" else "nothing")
    assert command_line(*given(command, option, name)) == (
        2, [], [f"temposync: {name}: the output is a link that leads to no file"]) and os.path.islink(name)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


WRITERS = {
    ".mp4": lambda path, pipeline: pipeline(picture(96, 96), spoken(0.2), 1).save(path),
    ".gif": lambda path, pipeline: pipeline(picture(96, 96), spoken(0.2), 1).save(path),
    ".safetensors": lambda path, pipeline: pipeline(picture(96, 96), spoken(0.2), 1, output_type="latent").save_latents(path),
    ".json": lambda path, _: write_whole(path, "{}"),
    ".jsonl": lambda path, _: write_manifest([Clip("a", "a", path.parent / "a.mp4", "train")], path),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_output_that_is_a_link_is_written_where_it_leads(tmp_path, pipeline, suffix):
    """The link stays, and nothing else is left on either side; what cannot be written leaves the file as it was."""
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "kept", tmp_path / f"link{suffix}"
    target.write_bytes(b"old")
    link.symlink_to(Path("disk") / "kept")
    WRITERS[suffix](link, pipeline)
    assert link.is_symlink() and not target.is_symlink() and target.read_bytes() != b"old"
    assert sorted(os.listdir(tmp_path)) == ["disk", link.name] and os.listdir(tmp_path / "disk") == ["kept"]
    target.unlink()
    with pytest.raises(InvalidInputError, match=f"^{link.name}: the output is a link that leads to no file$"):
        WRITERS[suffix](link, pipeline)
    assert link.is_symlink() and os.listdir(tmp_path / "disk") == []


@pytest.mark.skipif(os.name != "posix", reason="named pipes are of POSIX")
@pytest.mark.parametrize("suffix", WRITERS)
def test_the_library_replaces_no_pipe(tmp_path, pipeline, suffix):
    path = tmp_path / f"pipe{suffix}"
    os.mkfifo(path)
    with pytest.raises(InvalidInputError, match=f"^{path.name}: the output is a pipe or a device, not a file$"):
        WRITERS[suffix](path, pipeline)
    assert path.is_fifo()


def test_live_writes_where_a_link_leads(folder):
    Path("kept").write_bytes(b"old")
    Path("live.mp4").symlink_to("kept")
    with opened(Path("live.mp4")) as file:
        file.write(b"new")
    assert os.path.islink("live.mp4") and Path("kept").read_bytes() == b"new"


def test_two_names_of_one_output_are_told(folder):
    from temposync_pipeline.commands.checks import check_files

    with pytest.raises(InvalidInputError, match="two outputs"):
        check_files((), (folder / "b.json", folder / "." / "b.json"))


def test_numbers_of_more_digits_than_python_reads_are_told(folder, command_line):
    number = "9" * 5000
    assert command_line("benchmark", "--steps", number)[2] == [
        f"temposync: --steps {shortened(number + ':')} expected whole numbers from 1 to 1000, such as 1,2,4,8"]
    assert command_line("generate", "--image", "a.png", "--speaker", f"{number}=a.wav")[2] == [
        f"temposync: --speaker {shortened(number + '=a.wav:')} expected a face's number and a recording, such as 0=hello.wav"]


def test_a_report_replaces_no_file_of_the_model_that_a_training_starts_from(folder, command_line, checkpoint):
    code, _, err = command_line("train", "student", "--init", checkpoint, "--json", checkpoint / "model_index.json")
    assert (code, err) == (2, [f"temposync: {checkpoint / 'model_index.json'}: the output would replace an input"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    made = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline().save_pretrained(made)
    return made


def test_a_video_beside_the_model_may_be_made_again(folder, checkpoint):
    from temposync_pipeline.commands.checks import check_files

    (checkpoint / "talking.mp4").write_bytes(b"an earlier one")
    check_files((folder / "a.png",), (checkpoint / "talking.mp4",), (checkpoint,))
    with pytest.raises(InvalidInputError, match="would replace an input"):
        check_files((folder / "a.png",), (checkpoint / "model_index.json",), (checkpoint,))


def test_what_the_system_says_of_the_hidden_file_is_said_of_the_output(tmp_path):
    (tmp_path / "there.json").write_text("old")
    with pytest.raises(OSError) as error, whole_file(tmp_path / "there.json"):
        raise OSError(28, "No space left on device")
    assert error.value.filename == str(tmp_path / "there.json") and os.listdir(tmp_path) == ["there.json"]


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="root gives up its rights for this, others have none to give up")
@pytest.mark.parametrize(("command", "option"), CASES)
def test_a_folder_without_the_right_to_write_is_told(seen_by_all, command, option):
    """64, through each command: one sentence, what stands there stays."""
    closed = seen_by_all / "closed"
    closed.mkdir()
    name = closed / f"there{OUTPUTS[command][0][option]}"
    name.write_bytes(b"old")
    closed.chmod(0o555)
    with pytest.raises(SystemExit):  # imports what that user may not read
        cli.main(given(command, option, "n" * 300))
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:  # pytest's own streams are of no use in it
        os.dup2(writer, 2)
        sys.stderr = os.fdopen(2, "w")
        os.setuid(65_534)
        try:
            cli.main(given(command, option, name if command != "train" or option == "--json" else closed / "run"))
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code or 0)
        finally:
            os._exit(3)
    os.close(writer)
    with os.fdopen(reader) as said:
        lines = said.read().splitlines()
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2 and len(lines) == 1, lines
    assert lines[0].startswith("temposync: ") and "cannot be written to: Permission denied" in lines[0]
    assert name.read_bytes() == b"old" and os.listdir(closed) == [name.name]


@pytest.mark.torch_only("the bundled networks would be compiled first")
@pytest.mark.parametrize(("command", "number", "code", "word"), [
    ("dub", signal.SIGTERM, 143, "terminated"), ("batch", signal.SIGINT, 130, "interrupted")])
def test_a_signal_amid_a_video_leaves_nothing_half(tmp_path, command, number, code, word):
    """What stood there stays, of a batch what is done; no hidden file either."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.mp4").write_bytes(b"old")
    (tmp_path / "jobs.csv").write_text("image,audio,output\n" + "".join(
        f"{MEDIA / 'portrait_woman.jpg'},{tmp_path / 'long.wav'},{name}.mp4\n" for name in "ab"))
    make_long(tmp_path / "long.wav")
    shown = {"dub": ["--video", make_film(tmp_path / "film.mp4"), "--audio", tmp_path / "long.wav", "--output", out / "old.mp4"],
             "batch": [tmp_path / "jobs.csv", "--output_dir", out]}[command]
    process = subprocess.Popen(
        [sys.executable, "-m", "temposync_pipeline.cli", command, *map(str, shown), "--steps", "1"], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)
    while not [path for path in out.iterdir() if path.name.startswith(".") and path.stat().st_size] and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=60)
    assert (process.returncode, printed, errors) == (code, "", f"temposync: {word}\n")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"old.mp4": b"old"}


def make_long(path: Path) -> Path:
    from .test_media_audio import pcm, wav
    from .tiny_components import spoken

    return wav(path, pcm(spoken(12.0)[0]))


def make_film(path: Path) -> Path:
    import numpy as np

    from temposync_pipeline.media.video import VideoWriter

    with Image.open(MEDIA / "portrait_woman.jpg") as portrait, VideoWriter(path) as writer:
        for _ in range(5):
            writer.write(np.asarray(portrait.convert("RGB")))
    return path


def test_the_bundled_checkpoint_is_a_folder_of_the_kind_that_is_guarded():
    from temposync_pipeline.commands.checks import _loaded

    found = set(_loaded([bundled_path("temposync-tiny")]))
    assert {path for path in bundled_path("temposync-tiny").rglob("*") if path.suffix in (".json", ".safetensors")} <= found


@pytest.mark.parametrize("option", ["--data", "--init", "--set"])
def test_a_run_writes_into_no_folder_that_it_reads_from(folder, command_line, checkpoint, option):
    read = {"--data": "clips", "--init": str(checkpoint), "--set": "teacher=clips"}[option]
    source = Path(read.removeprefix("teacher="))
    before = sorted(source.rglob("*"))
    Path("link").symlink_to(source)
    for output in (source, Path("link")) if option == "--data" else (source, source / "run", Path("link/run")):
        assert command_line("train", "student", option, read, "--output", output) == (
            2, [], [f"temposync: {output}: the run's folder would lie in {source}, which the run reads"])
    assert sorted(source.rglob("*")) == before


def test_what_an_output_keeps_replaces_no_input_and_is_no_empty_video(tmp_path, pipeline, make_speech):
    recording = make_speech("hello.wav", seconds=0.2)
    before = Path(recording).read_bytes()
    output = pipeline(picture(96, 96), recording, 1, output_type="latent")
    with pytest.raises(InvalidInputError, match="hello.wav: the output would replace an input"):
        output.save_latents(recording)
    assert Path(recording).read_bytes() == before
    output = pipeline(picture(96, 96), recording, 1)
    output.frames = []
    for name in ("none.mp4", "none.gif"):
        with pytest.raises(InvalidInputError, match=f"{name}: no frames to write"):
            output.save(tmp_path / name)
        assert not (tmp_path / name).exists()
