import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from temposync_pipeline import cli
from temposync_pipeline.commands.checks import check_steps
from temposync_pipeline.commands.measure import read_guidance
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.models.viseme_classifier import VISEMES
from temposync_pipeline.pipelines.latent_video import LatentVideo
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline
from temposync_pipeline.schedulers.scheduling_temposync import TempoSyncScheduler

from .tiny_components import picture, template_face, tiny_pipeline, tiny_viseme_classifier

pytestmark = pytest.mark.makes_videos


@pytest.fixture
def temposync(monkeypatch, capsys):
    """Runs the command in this process; returns exit code, lines on stdout, lines on stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out.splitlines(), printed.err.splitlines()

    return run


@pytest.fixture
def portrait(tmp_path):
    Image.fromarray(picture(96, 80)).save(tmp_path / "portrait.png")
    return tmp_path / "portrait.png"


@pytest.fixture
def tiny_model(monkeypatch):
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: tiny_pipeline())


def test_help_needs_no_torch():
    code = "import sys, temposync_pipeline.cli as cli; assert not {'torch', 'av', 'cv2'} & set(sys.modules); cli.main(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("generate", "live", "dub", "preview", "batch", "decode", "benchmark", "visemes", "evaluate", "train", "manifest"):
        assert command in result.stdout


@pytest.mark.parametrize("command", [
    "generate", "live", "dub", "preview", "batch", "decode", "benchmark", "visemes", "evaluate", "train", "manifest"])
def test_every_command_shows_an_example(temposync, command):
    code, out, _ = temposync(command, "--help")
    assert code == 0 and f"Example: temposync {command}" in "\n".join(out)


@pytest.mark.parametrize("names", [("--image", "--audio", "--num_inference_steps"), ("--source_image", "--driven_audio", "--steps")])
def test_generate(tmp_path, temposync, tiny_model, portrait, make_speech, names):
    output, report = tmp_path / "out.mp4", tmp_path / "out.json"
    code, out, err = temposync("generate", names[0], portrait, names[1], make_speech("a.mp3", seconds=0.6, rate=44_100),
                               names[2], 2, "--output", output, "--seed", 3, "--device", "cpu", "--json", report)
    assert (code, out[-1], err) == (0, str(output), [])
    results = json.loads(report.read_text())
    assert results["frames"] == 15 and results["fps"] == 25 and results["output"] == str(output)
    with av.open(str(output)) as container:
        assert container.streams.video[0].frames == 15 and container.streams.audio[0].rate == 44_100


def test_generate_says_what_is_wrong_in_one_line(tmp_path, temposync, tiny_model, portrait, make_speech):
    audio, output = make_speech("a.wav"), tmp_path / "out.mp4"
    output.write_bytes(b"old")
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.full((96, 80, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    before = sorted(os.listdir(tmp_path))
    cases = [
        ((tmp_path / "missing.png", audio, output), "missing.png: no such file"),
        (("https://example.com/a.jpg", audio, output), "download it first"),
        ((portrait, "HTTP://example.com/a.wav", output), "download it first"),
        ((portrait, tmp_path / "text.wav", output), "text.wav: not an audio"),
        ((tmp_path / "text.png", audio, output), "text.png: not a readable"),
        ((tmp_path / "grey.png", audio, output), "grey.png"),
        ((portrait, audio, tmp_path / "nowhere" / "out.mp4"), "the output folder does not exist"),
        ((portrait, audio, tmp_path), "the output is a folder"),
        ((portrait, audio, audio), "the output would replace an input"),
        ((portrait, audio, tmp_path / ("n" * 400 + ".mp4")), "name too long"),
    ]
    for (image, sound, target), message in cases:
        code, out, err = temposync("generate", "--image", image, "--audio", sound, "--output", target)
        assert code == 2 and out == [] and len(err) == 1, (message, err)
        assert message.lower() in err[0].lower()
    assert sorted(os.listdir(tmp_path)) == before and output.read_bytes() == b"old"


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied", "hidden name")


def run_options(command, tmp_path, portrait, audio):
    """Options with which `command` would start, its outputs among them."""
    output = {"generate": "out.mp4", "decode": "out.mp4", "manifest": "out.jsonl", "train": "run"}.get(command)
    return {
        "generate": ["--image", portrait, "--audio", audio], "decode": ["--latents", audio], "visemes": ["--audio", audio],
        "benchmark": ["--image", portrait, "--audio", audio], "evaluate": ["--manifest", tmp_path], "manifest": ["--data", tmp_path],
        "train": ["autoencoder", "--data", tmp_path],
    }[command] + (["--output", tmp_path / output] if output else []) + ["--json", tmp_path / "out.json"]


@pytest.mark.parametrize("command", ["generate", "decode", "benchmark", "visemes", "evaluate", "train", "manifest"])
def test_an_unwritable_folder(tmp_path, temposync, portrait, make_speech, monkeypatch, command):
    audio = make_speech("a.wav")
    monkeypatch.setattr("pathlib.Path.touch", refuse)  # root may write anywhere, so the refusal is made here
    code, out, err = temposync(command, *run_options(command, tmp_path, portrait, audio))
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].endswith("the output folder cannot be written to: Permission denied") and str(tmp_path / "out") in err[0]


def test_an_unreadable_model(tmp_path, temposync, portrait, make_speech, monkeypatch):
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", refuse)
    code, _, err = temposync("generate", "--image", portrait, "--audio", make_speech("a.wav"), "--output", tmp_path / "out.mp4")
    assert code == 2 and err == ["temposync: hidden name: Permission denied"]


def test_a_json_that_cannot_be_written_leaves_the_old_one(tmp_path, temposync, tiny_model, portrait, make_speech, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    audio, report = make_speech("a.wav", seconds=0.2), tmp_path / "out.json"
    report.write_text("old")
    monkeypatch.setattr("pathlib.Path.write_text", full)
    code, _, err = temposync("generate", "--image", portrait, "--audio", audio, "--output", tmp_path / "out.mp4", "--json", report)
    assert (code, err) == (2, [f"temposync: {report}: No space left on device"])
    assert report.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["a.wav", "out.json", "out.mp4", "portrait.png"]


@pytest.mark.parametrize(("command", "options", "message"), [
    ("generate", ("--json", "{folder}/out.mp4"), "out.mp4: two outputs cannot be the same file"),
    ("generate", ("--device", "abacus"), "--device abacus: not available here"),
    ("generate", ("--device", "meta"), "--device meta: not available here"),
    ("decode", (), "a.wav: not a safetensors file"),
    ("decode", ("--output", "{folder}/out.avi"), "its name must end in .mp4"),
    ("visemes", ("--audio", "{folder}/portrait.png"), "portrait.png: "),
    ("visemes", ("--device", "abacus"), "--device abacus: not available here"),
    ("benchmark", ("--image", "{folder}/a.wav"), "a.wav: not a readable"),
    ("benchmark", ("--audio", "{folder}/portrait.png"), "portrait.png: "),
    ("benchmark", ("--manifest", "{folder}/empty"), "no clip ("),
    ("benchmark", ("--steps", "0"), "--steps 0: expected whole numbers"),
    ("benchmark", ("--steps", "4,12"), "12 denoising steps: a student takes 1 to 8"),
    ("evaluate", ("--steps", "9"), "9 denoising steps: a student takes 1 to 8"),
    ("generate", ("--steps", "9"), "9 denoising steps: a student takes 1 to 8"),
    ("generate", ("--seed", str(2**64)), f"--seed: '{2**64}' is above the limit of 4294967295"),
    ("generate", ("--steps", "four"), "--steps: 'four' is not a whole number"),
    ("generate", ("--steps", "9" * 5000), "9' has too many digits"),
    ("generate", ("--steps", "0"), "--steps: '0' is below the limit of 1"),
    ("generate", ("--face_index", "-1"), "--face_index: '-1' is below the limit of 0"),
    ("generate", ("--mouth_amplitude", "much"), "--mouth_amplitude: 'much' is not a number"),
    ("evaluate", ("--manifest", "{folder}/empty"), "no clip ("),
    ("evaluate", ("--json", "{folder}/out.txt"), "must end in .json"),
    ("evaluate", ("--landmarks", "{folder}/a.wav"), "a.wav: not a folder"),
    ("evaluate", ("--portraits", "{folder}/nowhere"), "nowhere: no such file"),
    ("evaluate", ("--steps", "4,2000"), "expected whole numbers from 1 to 1000"),
    ("train", ("--output", "{folder}/a.wav/run"), "a.wav is not a folder"),
    ("train", ("--set", "data={folder}/nowhere", "--data", "{folder}/nowhere"), "nowhere: no such file"),
    ("train", ("--json", "{folder}/nowhere/out.json"), "the output folder does not exist"),
    ("manifest", ("--data", "{folder}/a.wav"), "a.wav: not a folder"),
    ("manifest", ("--json", "{folder}/out.jsonl"), "two outputs cannot be the same file"),
])
def test_no_model_is_loaded_for_a_bad_input(tmp_path, temposync, portrait, make_speech, monkeypatch, command, options, message):
    for loader in ("diffusers.ModelMixin.from_pretrained", "diffusers.DiffusionPipeline.from_pretrained"):
        monkeypatch.setattr(loader, lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    audio = make_speech("a.wav")
    (tmp_path / "empty").mkdir()
    before = sorted(os.listdir(tmp_path))
    given = [str(option).format(folder=tmp_path) for option in options]
    code, out, err = temposync(command, *run_options(command, tmp_path, portrait, audio), *given)
    assert (code, out, len(err)) == (2, [], 1) and message in err[0]
    assert sorted(os.listdir(tmp_path)) == before


def test_a_teachers_checkpoint_takes_more_steps(tmp_path):
    TempoSyncScheduler(prediction="ode").save_pretrained(tmp_path / "scheduler")
    check_steps(str(tmp_path), [25, 1000])
    TempoSyncScheduler(few_step_sigmas={"16": [1.0] * 16}).save_pretrained(tmp_path / "scheduler")
    check_steps(str(tmp_path), [8, 16])
    with pytest.raises(InvalidInputError, match="12 denoising steps"):
        check_steps(str(tmp_path), [4, 12])


def test_guidance_is_two_numbers():
    assert read_guidance("2,6.5") == (2.0, 6.5)
    for text in ("2", "2,6,1", "a,b", "-1,2", "2,nan"):
        with pytest.raises(InvalidInputError, match="expected two numbers"):
            read_guidance(text)


@pytest.mark.parametrize("command", ["generate", "visemes", "decode", "evaluate", "benchmark", "train"])
def test_a_model_that_cannot_be_is_refused_before_torch_is_imported(tmp_path, portrait, make_speech, command):
    option = "--init" if command == "train" else "--model"
    arguments = [*map(str, run_options(command, tmp_path, portrait, make_speech("a.wav"))), option, "no-model"]
    code = (f"import sys, temposync_pipeline.cli as cli\ntry: cli.main({[command, *arguments]!r})\n"
            "finally: assert not {'torch', 'diffusers', 'cv2'} & set(sys.modules)")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert "no-model: not a bundled checkpoint" in result.stderr


def test_the_face_that_speaks_can_be_chosen(tmp_path, temposync, tiny_model, portrait, make_speech, monkeypatch):
    def two_faces(image):
        face, = template_face(image)
        return [face, replace(face, landmarks=face.landmarks + [60, 0])]

    wide = Image.new("RGB", (160, 96), "white")
    for left in (0, 80):
        wide.paste(Image.open(portrait), (left, 0))
    wide.save(tmp_path / "two.png")
    pipeline = tiny_pipeline()
    pipeline.face_aligner.detect = two_faces
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: pipeline)
    moved = []
    for index in (0, 1, 2):
        output = tmp_path / f"{index}.safetensors"
        code, _, err = temposync("generate", "--image", tmp_path / "two.png", "--audio", make_speech("a.wav", seconds=0.2), "--steps", 1,
                                 "--face_index", index, "--output", output, "--device", "cpu")
        if code == 0:
            moved.append(LatentVideo.load(output).matrix[0, 2])
    assert moved[1] < moved[0] - 60 and err == ["temposync: face_index 2 asked for, but two.png has 2 face(s), counted from 0."]


@pytest.mark.parametrize("command", ["generate", "visemes"])
def test_unknown_model(temposync, portrait, make_speech, command):
    image = ("--image", portrait) if command == "generate" else ()
    code, _, err = temposync(command, *image, "--audio", make_speech("a.wav"), "--model", "no-model")
    assert code == 2 and len(err) == 1 and "no-model: not a bundled checkpoint" in err[0]


def test_visemes(tmp_path, temposync, make_speech):
    tiny_viseme_classifier().save_pretrained(tmp_path / "model" / "viseme_classifier")
    report = tmp_path / "visemes.json"
    audio = make_speech("a.flac", seconds=1.37, rate=44_100)
    code, out, _ = temposync("visemes", "--audio", audio, "--json", report, "--model", tmp_path / "model")
    results = json.loads(report.read_text())
    assert code == 0 and out[0].split()[2] in VISEMES
    assert results["fps"] == 25 and results["visemes"] == list(VISEMES)
    probabilities = np.array(results["probabilities"])
    assert probabilities.shape == (34, 15)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-3)


def test_evaluation_of_a_missing_manifest(tmp_path, temposync):
    code, _, err = temposync("evaluate", "--manifest", tmp_path / "missing.jsonl", "--json", tmp_path / "out.json")
    assert code == 2 and err == [f"temposync: {tmp_path / 'missing.jsonl'}: no such file"]


@pytest.mark.parametrize(("arguments", "message"), [
    (("generate", "--audio", "a.wav"), "Missing option '--image'"),
    (("generate", "--imge", "a.png"), "--image"),
    (("generate", "--image", "a.png", "--audio", "a.wav", "--steps", "0"), "--steps"),
    (("nothing",), "No such command 'nothing'"),
])
def test_usage_errors_take_one_line(temposync, arguments, message):
    code, out, err = temposync(*arguments)
    assert (code, out, len(err)) == (2, [], 1) and message in err[0]


def test_inputs_are_checked_before_the_models_load(tmp_path, temposync, portrait, make_speech, monkeypatch):
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: pytest.fail("models were loaded"))
    (tmp_path / "text.png").write_text("no picture")
    audio = make_speech("a.wav")
    for image, output, message in [(tmp_path / "text.png", "out.mp4", "text.png: not a readable"), (portrait, "out.avi", "end in .mp4")]:
        code, _, err = temposync("generate", "--image", image, "--audio", audio, "--output", tmp_path / output)
        assert code == 2 and len(err) == 1 and message in err[0]


def test_sigterm_leaves_the_old_video(tmp_path, temposync, tiny_model, portrait, make_speech, monkeypatch):
    def terminate(*_):
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)  # else the tests themselves would end here
        signal.raise_signal(signal.SIGTERM)

    handler, audio, output = signal.getsignal(signal.SIGTERM), make_speech("a.wav"), tmp_path / "out.mp4"
    output.write_bytes(b"old")
    monkeypatch.setattr("temposync_pipeline.media.video.VideoWriter.write_planes", terminate)
    before = sorted(os.listdir(tmp_path))
    code, _, err = temposync("generate", "--image", portrait, "--audio", audio, "--output", output)
    assert (code, err) == (143, ["temposync: terminated"])
    assert sorted(os.listdir(tmp_path)) == before and output.read_bytes() == b"old" and signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(("error", "code", "message"), [
    (KeyboardInterrupt(), 130, "temposync: interrupted"),
    (OSError(28, "No space left on device", ".1.mp4"), 2, "temposync: {output}: No space left on device"),
])
def test_a_stopped_run_leaves_the_old_video(tmp_path, temposync, tiny_model, portrait, make_speech, monkeypatch, error, code, message):
    def stop(*_):
        raise error

    audio, output = make_speech("a.wav"), tmp_path / "out.mp4"
    output.write_bytes(b"old")
    monkeypatch.setattr("temposync_pipeline.media.video.VideoWriter.write_planes", stop)
    before = sorted(os.listdir(tmp_path))
    found, _, err = temposync("generate", "--image", portrait, "--audio", audio, "--output", output)
    assert (found, err) == (code, [message.format(output=output)])
    assert sorted(os.listdir(tmp_path)) == before and output.read_bytes() == b"old"


def test_a_recording_without_speech_says_so_in_one_line(temposync, tmp_path, portrait, tiny_model, make_audio):
    code, printed, complaints = temposync("visemes", "--audio", make_audio("notes.wav", seconds=1.0))
    assert code == 0 and len(printed) == 1 and printed[0].endswith("sil")
    assert [line for line in complaints if "notes.wav" in line] == ["notes.wav: no speech was heard in it; the lips will rest"]


def test_a_notice_is_given_once_though_the_input_is_read_twice(temposync, tmp_path, portrait, tiny_model, make_audio):
    audio = make_audio("cut.wav", seconds=1.0)
    audio.write_bytes(audio.read_bytes()[:20_000])
    code, _, complaints = temposync("generate", "--image", portrait, "--audio", audio, "--output", tmp_path / "out.mp4")
    assert code == 0 and sum("cut.wav: truncated" in line for line in complaints) == 1
    assert sum("no speech" in line for line in complaints) == 1


@pytest.mark.parametrize("written", ["--output", "--json"])
@pytest.mark.parametrize("read", ["--lora", "--signing-cert", "--signing-key"])
def test_an_output_replaces_nothing_that_is_read(tmp_path, capsys, read, written):
    files = {name: tmp_path / name for name in ("portrait.png", "speech.wav", "precious.safetensors")}
    for path in files.values():
        path.write_bytes(b"precious")
    other = {"--output": "--json", "--json": "--output"}[written]
    arguments = ["generate", "--image", files["portrait.png"], "--audio", files["speech.wav"], read, files["precious.safetensors"],
                 written, files["precious.safetensors"], other, tmp_path / "other.mp4"]
    with pytest.raises(SystemExit, match="2"):
        cli.main([str(argument) for argument in arguments])
    assert "would replace an input" in capsys.readouterr().err and files["precious.safetensors"].read_bytes() == b"precious"


def test_two_outputs_are_one_file_by_whatever_path(tmp_path, capsys):
    for name in ("portrait.png", "speech.wav"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    arguments = ["generate", "--image", tmp_path / "portrait.png", "--audio", tmp_path / "speech.wav", "--output", tmp_path / "a.mp4",
                 "--json", tmp_path / "sub" / ".." / "a.mp4"]
    with pytest.raises(SystemExit, match="2"):
        cli.main([str(argument) for argument in arguments])
    assert "cannot be the same file" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["stderr", "stdout"])
def test_a_closed_stream_is_no_fault(tmp_path, temposync, tiny_model, portrait, make_speech, monkeypatch, closed):
    """`temposync generate … 2>&-`, as some services start their programs: Python has None for it then."""
    monkeypatch.setattr(sys, closed, None)
    make_speech("a.wav", seconds=0.4)
    (tmp_path / "jobs.csv").write_text(f"image,audio,output\n{portrait},{tmp_path / 'a.wav'},b.mp4\n")
    assert temposync("generate", "--image", portrait, "--audio", tmp_path / "a.wav", "--output", tmp_path / "a.mp4")[0] == 0
    assert temposync("dub", "--video", tmp_path / "a.mp4", "--audio", tmp_path / "a.wav", "--output", tmp_path / "c.mp4")[0] == 0
    assert temposync("batch", tmp_path / "jobs.csv", "--output_dir", tmp_path)[0] == 0
    assert all((tmp_path / name).exists() for name in ("a.mp4", "b.mp4", "c.mp4"))
