"""What goes wrong around the program: full disks, kills, names, cancelling. Nothing is lost, nothing has its final name half-written."""

import os
import resource
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from temposync_pipeline import cli
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.files import sweep, unfinished, write_whole
from temposync_pipeline.media.video import VideoWriter, read_video
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline
from temposync_pipeline.training.checkpointing import load_checkpoint, save_checkpoint, save_weights

from .conftest import tone
from .tiny_components import picture, spoken, tiny_pipeline, tiny_vae
from .train_tiny import train

OLD = b"what was there before"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pipeline() -> TempoSyncPipeline:
    return tiny_pipeline()


# --- full disks -------------------------------------------------------------------------------------------------------


def write_video(path: Path, frames: int = 6) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (frames, 64, 64, 3), np.uint8)
    with VideoWriter(path, audio_path=(tone(0.24, 16_000), 16_000)) as writer:
        for frame in noise:
            writer.write(frame)


def write_signed(path: Path) -> None:
    output = tiny_pipeline()(picture(96, 96), spoken(0.2), 1)
    output.save(path)


def write_latents(path: Path) -> None:
    tiny_pipeline()(picture(96, 96), spoken(0.2), 1, output_type="latent").save_latents(path)


WRITERS = {"out.mp4": write_video, "out.gif": write_signed, "signed.mp4": write_signed, "out.safetensors": write_latents,
           "out.json": lambda path: write_whole(path, "x" * 30_000)}


@contextmanager
def largest_file(size: int):
    """As on a full disk: what would make a file larger than this fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.makes_videos
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_no_half_file_where_space_ends(tmp_path, name, share):
    """57: at whichever byte, down to the last."""
    WRITERS[name](tmp_path / name)
    size = (tmp_path / name).stat().st_size
    (tmp_path / name).write_bytes(OLD)
    with pytest.raises(OSError), largest_file(min(int(share * size), size - 1)):
        WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() == OLD and os.listdir(tmp_path) == [name]
    with largest_file(2 * size):
        WRITERS[name](tmp_path / name)
    assert (tmp_path / name).stat().st_size == pytest.approx(size, rel=0.01)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB, where mounting one is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name != "posix" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.makes_videos
def test_a_small_disk_says_so_in_one_line(tmp_path, small_disk, pipeline, monkeypatch, capsys, make_speech):
    """57, on a real one."""
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: pipeline)
    Image.fromarray(picture(256, 256)).save(tmp_path / "portrait.png")
    speech = make_speech("speech.wav", seconds=6.0)
    for name in ("out.mp4", "out.safetensors"):
        (small_disk / name).write_bytes(OLD)
        with pytest.raises(SystemExit) as end:
            cli.main(["generate", "--image", str(tmp_path / "portrait.png"), "--audio", str(speech), "--output", str(small_disk / name)])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("temposync: ")]
        assert end.value.code == 2 and len(lines) == 1 and "No space left on device" in lines[0] and name in lines[0], lines
        assert (small_disk / name).read_bytes() == OLD and not [path for path in small_disk.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(tmp_path, share):
    """58, with one checkpoint kept."""
    old, new = ({"step": step, "weights": torch.full((20_000,), float(step))} for step in (1, 2))
    save_checkpoint(tmp_path / "run", old)
    size = (tmp_path / "run" / "state.pt").stat().st_size
    with pytest.raises(OSError), largest_file(int(share * size)):
        save_checkpoint(tmp_path / "run", new)
    assert load_checkpoint(tmp_path / "run")["step"] == 1 and os.listdir(tmp_path / "run") == ["state.pt"]
    save_checkpoint(tmp_path / "run", new)
    assert load_checkpoint(tmp_path / "run")["step"] == 2


def test_weights_that_do_not_fit_leave_the_last_ones(tmp_path):
    vae = tiny_vae()
    save_weights(vae, tmp_path / "vae")
    before = (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    with pytest.raises(OSError), largest_file(len(before) // 2):
        save_weights(vae, tmp_path / "vae")
    assert (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == before and os.listdir(tmp_path) == ["vae"]


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["generate", "dub", "train"])
def test_killed_at_five_random_moments(what):
    """59, 60: videos are whole or not there, trainings go on to the same weights; `--kills 200` tries more."""
    result = subprocess.run([sys.executable, "-m", "tests.kill_runs", what, "--kills", "5"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and f"{what}: 5 kills in" in result.stdout, result


def test_a_full_disk_ends_a_process_in_good_order(tmp_path):
    """58: torch's half-written file must not bring it down later."""
    code = ("import pathlib, resource, sys\nfrom tests.train_tiny import train\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "try:\n    train(pathlib.Path(sys.argv[1]))\nexcept OSError as error:\n    print(error.strerror)")
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "run"], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "File too large\n"), result


def test_a_full_disk_stops_a_training_and_resuming_ends_in_the_same_weights(tmp_path, monkeypatch):
    """58, through the loop: the fourth checkpoint does not fit."""

    def filling(folder: Path, state: dict) -> None:
        with largest_file(1000 if state["step"] == 4 else 10**9):
            save_checkpoint(folder, state)

    expected = train(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="state.pt"):
        patch.setattr("temposync_pipeline.training.loop.save_checkpoint", filling)
        train(tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "checkpoint")["step"] == 3
    weights = train(tmp_path / "run", resume=True)
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.makes_videos
def test_a_closed_generator_stops_within_a_chunk(tmp_path, pipeline, monkeypatch):
    """62."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "out.mp4").write_bytes(OLD)
    stages = pipeline.stream_to_file(picture(96, 96), spoken(4.0), tmp_path / "out.mp4", 1, chunk_size=5)
    written = next(count for stage, count, _ in stages if stage == "frames")
    stages.close()
    assert written == 5 and (tmp_path / "out.mp4").read_bytes() == OLD and os.listdir(tmp_path) == ["out.mp4"]


# --- names and places -------------------------------------------------------------------------------------------------


@pytest.mark.makes_videos
def test_an_output_never_replaces_its_input(tmp_path, pipeline):
    """64: by whichever name."""
    for name, kind in (("portrait.mp4", "PNG"), ("portrait.safetensors", "PNG")):
        Image.fromarray(picture(96, 96)).save(tmp_path / name, kind)
    (tmp_path / "link.mp4").symlink_to(tmp_path / "portrait.mp4")
    os.link(tmp_path / "portrait.safetensors", tmp_path / "hard.safetensors")
    pipeline(picture(96, 96), spoken(0.2), 1, output_type="latent").save_latents(tmp_path / "latents.mp4")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = [
        lambda: pipeline.generate_to_file(tmp_path / "portrait.mp4", spoken(0.2), tmp_path / "portrait.mp4", 1, progress=False),
        lambda: pipeline.generate_to_file(str(tmp_path / "portrait.mp4"), spoken(0.2), tmp_path / "link.mp4", 1, progress=False),
        lambda: pipeline.latents_to_file(tmp_path / "portrait.safetensors", spoken(0.2), tmp_path / "hard.safetensors", 1, progress=False),
        lambda: pipeline.decode_to_file(tmp_path / "latents.mp4", tmp_path / "latents.mp4"),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError, match="the output would replace an input"):
            call()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.makes_videos
def test_long_and_foreign_names(tmp_path, pipeline, make_speech):
    """64: as long as the disk takes them."""
    name = "ж" * 124 + "é.mp4"  # of 255 bytes that a name may have, 254
    pipeline.generate_to_file(picture(96, 96), make_speech("a.wav", seconds=0.2), tmp_path / name, 1, progress=False)
    assert len(read_video(tmp_path / name)[0]) == 5
    for path in (tmp_path / ("n" * 400 + ".mp4"), tmp_path / ("n" * 400) / "out.mp4"):
        with pytest.raises(OSError, match="name too long"):
            pipeline.generate_to_file(picture(96, 96), make_speech("a.wav", seconds=0.2), path, 1, progress=False)
    assert sorted(os.listdir(tmp_path)) == sorted(["a.wav", name])


@pytest.mark.parametrize("option", ["--image", "--audio"])
def test_an_input_with_an_impossible_name(tmp_path, capsys, make_speech, option):
    Image.fromarray(picture(96, 96)).save(tmp_path / "portrait.png")
    given = {"--image": tmp_path / "portrait.png", "--audio": make_speech("a.wav"), "--output": tmp_path / "out.mp4"}
    for name in ("n" * 400, "a\0b", "two\nlines", "\x1b[31mred"):
        arguments = given | {option: tmp_path / name}
        with pytest.raises(SystemExit) as end:
            cli.main(["generate", *(str(each) for pair in arguments.items() for each in pair)])
        lines = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and len(lines) == 1 and lines[0].isprintable(), lines


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="root gives up its rights for this, others have none to give up")
def test_a_folder_without_the_right_to_write():
    """64: to a user who is not root. Not below pytest's own folders, which each pytest that starts beside this one closes to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out.mp4").write_bytes(OLD)
        folder.chmod(0o555)
        process = os.fork()
        if process == 0:
            os.setuid(65_534)
            try:
                write_video(folder / "out.mp4", 1)
            except PermissionError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(process, 0)[1] == 0
        assert (folder / "out.mp4").read_bytes() == OLD and os.listdir(folder) == ["out.mp4"]


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path):
    """Of this machine's dead processes only, and whatever else lies there stays."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = unfinished(tmp_path / "a.mp4")
    name = mine.name.split("-")
    left = mine.with_name("-".join([*name[:2], str(dead.pid), *name[3:]]))
    elsewhere = mine.with_name("-".join([name[0], "00000000", str(dead.pid), *name[3:]]))
    others = [mine, elsewhere, tmp_path / ".temposync-notes", tmp_path / ".x"]
    for path in [left, *others]:
        path.write_bytes(OLD)
    folder = left.with_name(f"{left.stem}0")  # of a checkpoint
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "config.json").write_bytes(OLD)
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)
    left.write_bytes(OLD)
    subprocess.run([sys.executable, "-c", "import sys; from pathlib import Path; from temposync_pipeline.files import write_whole;"
                    "write_whole(Path(sys.argv[1]), 'whole')", str(tmp_path / "a.txt")], cwd=ROOT, check=True)
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "a.txt"])
