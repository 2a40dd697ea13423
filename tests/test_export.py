"""Networks as ONNX and OpenVINO files, and pipelines that compute with them."""

import copy
import json
import locale
import os
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from temposync_pipeline import cli
from temposync_pipeline.bases.packed import PackedWeights
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.export import check_runtime, files, runtimes, sessions
from temposync_pipeline.export.networks import NETWORKS, fixed_sizes, networks_of, recording, sizes_but_frames, weights_hash
from temposync_pipeline.export.sessions import SLICE, load_openvino, open_session
from temposync_pipeline.models.conditioning import latent_window
from temposync_pipeline.pipelines import rendering
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline

from .tiny_components import (
    picture,
    spoken,
    tiny_asymtalker_pipeline,
    tiny_denoiser,
    tiny_inner_vae,
    tiny_motion_vae,
    tiny_read_pipeline,
    whole_pipeline,
)

pytestmark = pytest.mark.torch_only("each test says which runtime computes")

FORMATS = {"openvino": "openvino", "onnxruntime": "onnx"}


@pytest.fixture(autouse=True)
def nothing_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPOSYNC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A checkpoint's folder with files in both formats, and their errors; each network is traced once, which takes longest."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    folder, pipeline = tmp_path_factory.mktemp("checkpoint"), whole_pipeline()
    trace, programs = files.traced, {}

    def traced_once(network, module, example):
        if network.name not in programs:
            programs[network.name] = trace(network, module, example)
        return programs[network.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPOSYNC_CACHE", str(folder / "cache"))
        patch.setattr(files, "traced", traced_once)
        errors = {form: files.export_pipeline(pipeline, picture(), spoken(), form, folder / form) for form in FORMATS.values()}
    return folder, errors


def frames_of(pipeline: TempoSyncPipeline) -> np.ndarray:
    """uint8 [15, H, W, 3]."""
    generator = torch.Generator().manual_seed(0)
    return np.concatenate(list(pipeline.stream(picture(), spoken(), 2, generator, mouth_amplitude=3.0, chunk_size=10)))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.square(a.astype(float) - b).mean(), 1e-9))


def test_examples_are_the_most_that_a_network_was_given_at_once():
    pipeline = whole_pipeline()
    with recording(pipeline) as calls, torch.inference_mode():
        next(pipeline.stream(picture(64, 96), spoken(0.6), generator=torch.Generator().manual_seed(0)))
    assert len(calls["denoiser"]["sample"]) > 1 and len(calls["viseme_classifier"]["input_values"]) == 1


@pytest.mark.parametrize("form", FORMATS.values())
def test_every_network_is_exported_and_agrees_with_torch(exported, form):
    folder, errors = exported
    others = {"speech_encoder", "transformer", "temporal_encoder", "temporal_decoder"}  # of methods that move the whole face
    assert set(errors[form]) == {network.name for network in NETWORKS} - others and max(errors[form].values()) < 1e-4
    index = json.loads((folder / form / "export.json").read_text())
    assert index["format"] == form
    for network, module in networks_of(whole_pipeline()):
        assert files.exported_file(folder / form, network, weights_hash(module)).is_file()
        assert files.exported_file(folder / form, network, "0" * 64) is None  # of other weights


def mouths(count: int) -> dict[str, torch.Tensor]:
    """What `tiny_inner_vae` takes to paint so many."""
    return {"latents": torch.randn(count, 32, 6, 8), "reference": torch.randn(1, 32, 6, 8), "hidden": torch.rand(count, 1, 64, 96),
            "to_middle": torch.randn(1, 8, 16, 24), "to_fine": torch.randn(1, 16, 32, 48)}


@pytest.mark.parametrize("form, suffix", files.FORMATS.items())
@torch.no_grad()
def test_batch_and_length_are_free(exported, form, suffix):
    pipeline, found = whole_pipeline(), {network.name: network for network in NETWORKS}
    for name, inputs in (
        ("viseme_classifier", {"input_values": torch.randn(1, 5000)}), ("viseme_classifier", {"input_values": torch.randn(3, 9000)}),
        ("decoder", {"latents": torch.randn(1, 32, 16, 16)}), ("decoder", {"latents": torch.randn(5, 32, 4, 7)}),
        ("seen_mouth", {"picture": torch.randn(1, 3, 128, 192)}), ("inner_decoder", mouths(1)), ("inner_decoder", mouths(5)),
    ):
        network = found[name]
        outputs = open_session(exported[0] / form / f"{name}{suffix}", network, inputs, bfloat16=False)(inputs)
        for output, wanted in zip(outputs, network.tensors_of(network.torch_forward(network.module(pipeline))(**inputs)), strict=True):
            assert torch.allclose(output, wanted, atol=1e-4)


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("runtime", FORMATS)
def test_runtimes_make_the_same_video(exported, monkeypatch, runtime, bfloat16):
    monkeypatch.setattr(runtimes, "write_network", None)  # all is there
    pipeline = whole_pipeline()
    pipeline.use_bfloat16 = bfloat16
    expected = frames_of(pipeline)
    assert np.ptp(expected.astype(int), axis=0).max() > 8  # something moves
    runtimes.use_runtime(pipeline, runtime, exported[0])
    assert pipeline.runtime == runtime and isinstance(pipeline.denoiser.forward, runtimes.CompiledForward)
    frames = frames_of(pipeline)
    assert psnr(frames, expected) >= 50
    assert (frames_of(pipeline) == frames).all() and (frames_of(copy.deepcopy(pipeline)) == frames).all()
    runtimes.use_runtime(pipeline, "torch")
    assert pipeline.runtime == "torch" and (frames_of(pipeline) == expected).all()


@pytest.mark.parametrize("bfloat16, levels", [(False, 0.1), (True, 3.0)])
@pytest.mark.parametrize("runtime", FORMATS)
def test_mouths_are_painted_by_the_runtime(exported, monkeypatch, runtime, bfloat16, levels):
    monkeypatch.setattr(rendering, "HIDDEN_FROM", -1.0)  # random weights open no mouth
    pipeline, latents = whole_pipeline(), torch.randn(1, 32, 16, 16)
    renderer = rendering.MotionRenderer(pipeline.vae, picture(256, 256), np.eye(3)[:2], latents, bfloat16)
    frames = latent_window(torch.randn(3, 32, 16, 16))
    with torch.inference_mode():
        expected = renderer.decode(frames, bfloat16)
        runtimes.use_runtime(pipeline, runtime, exported[0])
        painted = renderer.decode(frames, bfloat16)
    assert len(pipeline.vae.inner_decoder.forward._sessions) == 1
    for (*_, colours), (*_, wanted) in zip(painted, expected, strict=True):
        assert np.ptp(wanted) > 8 and np.abs(colours - wanted).max() < levels


def test_no_two_threads_compile_at_once(exported, monkeypatch):
    """OpenVINO would leave the process in the locale "C"."""
    core, at_once, overlaps = sessions._core(), threading.Semaphore(1), []

    class Watched:
        read_model = staticmethod(core.read_model)

        def compile_model(self, *arguments):
            overlaps.append(not at_once.acquire(blocking=False))
            time.sleep(0.2)
            compiled = core.compile_model(*arguments)
            at_once.release()
            return compiled

    monkeypatch.setattr(sessions, "_core", Watched)
    network = next(network for network in NETWORKS if network.name == "decoder")
    inputs = {"latents": torch.randn(2, 32, 5, 6)}
    before = locale.setlocale(locale.LC_CTYPE)
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(open_session, exported[0] / "openvino" / "decoder.xml", network, inputs, False) for _ in range(2)]
        assert torch.equal(*(run.result()(inputs)[0] for run in runs))
    assert overlaps == [False, False] and locale.setlocale(locale.LC_CTYPE) == before


@torch.no_grad()
def test_slices_do_not_show(exported):
    network = next(network for network in NETWORKS if network.name == "decoder")
    inputs = {"latents": torch.randn(2 * SLICE + 3, 32, 5, 6)}
    run = open_session(exported[0] / "openvino" / "decoder.xml", network, inputs, bfloat16=True)
    whole, = run(inputs)
    assert whole.shape == (2 * SLICE + 3, 3, 80, 96)
    for frames in (slice(0, 5), slice(SLICE, 2 * SLICE), slice(SLICE + 2, None)):
        assert torch.equal(run({"latents": inputs["latents"][frames]})[0], whole[frames])


def test_gradients_and_other_formats_stay_with_torch(exported):
    pipeline = whole_pipeline()
    runtimes.use_runtime(pipeline, "openvino", exported[0])
    latents = torch.randn(2, 32, 5, 6)
    assert pipeline.vae.decoder(latents).requires_grad
    with torch.no_grad():
        assert pipeline.vae.decoder.double()(latents.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert pipeline.vae.decoder.bfloat16()(latents.bfloat16()).dtype == pipeline.vae.decoder(latents).dtype == torch.bfloat16


@pytest.fixture
def homeless(monkeypatch):
    """A user without a home folder, as in some containers."""
    monkeypatch.delenv("TEMPOSYNC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda user: {}[user])


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs OpenVINO")
def test_without_a_home_nothing_is_kept_which_is_one_sentence(homeless, monkeypatch, command_line, make_speech):
    assert load_openvino().Core() and "HOME" not in os.environ
    monkeypatch.setattr(runtimes, "COMPILED", ("motion_decoder",))
    pipeline, latents = whole_pipeline(), torch.randn(2, 32, 5, 6)
    message = "no place to keep compiled networks (there is no home folder); name a folder in TEMPOSYNC_CACHE"
    runtimes.use_runtime(pipeline, "openvino")
    with torch.no_grad(), pytest.raises(InvalidInputError, match=f"^{re.escape(message)}$"):
        pipeline.vae.motion_decoder(latents, latents[:1])
    assert command_line("export", "--format", "openvino", "--image", __file__, "--audio", make_speech("a.wav")) == (
        2, [], [f"temposync: {message}"])


def test_without_a_home_what_is_exported_serves(exported, homeless, monkeypatch):
    """What was measured is not remembered, and nothing more."""
    monkeypatch.setattr(runtimes, "time_runtimes", lambda pipeline, forwards, rounds=9: {name: len(name) ** -2 for name in forwards})
    monkeypatch.setattr(runtimes, "installed_runtimes", lambda: ["torch", "openvino"])
    monkeypatch.setattr(runtimes, "COMPILED", ("decoder",))
    pipeline, latents = whole_pipeline(), torch.randn(2, 32, 5, 6)
    with torch.no_grad():
        expected = pipeline.vae.decoder(latents)
        runtimes.use_runtime(pipeline, "auto", exported[0])
        assert pipeline.runtime == "openvino" and torch.allclose(pipeline.vae.decoder(latents), expected, atol=1e-4)


def test_timing_asks_every_runtime_as_a_video_does(exported, monkeypatch):
    pipeline, packed_for = whole_pipeline(), set()
    convolution = PackedWeights.convolution
    monkeypatch.setattr(PackedWeights, "convolution", lambda self, layer, x: (packed_for.add(layer), convolution(self, layer, x))[1])
    forwards = {name: runtimes._forwards(pipeline, name, exported[0]) for name in ("torch", "openvino")}
    times = runtimes.time_runtimes(pipeline, forwards, rounds=1)
    assert set(times) == {"torch", "openvino"} and all(0 < seconds < 60 for seconds in times.values())
    painter, timed = pipeline.vae.inner_decoder, (pipeline.vae.inner_decoder, pipeline.vae.motion_decoder, pipeline.denoiser)
    once = {*painter.picture.modules(), painter.picture_to_fine, painter.picture_to_middle}  # a photo, not a frame
    layers = {layer for network in timed for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)}
    assert packed_for == layers - once


@pytest.mark.parametrize("lips, make_vae, filled_by", [(6, tiny_inner_vae, "inner_decoder"), (0, tiny_motion_vae, "decoder")])
def test_what_is_timed_is_what_a_video_asks(lips, make_vae, filled_by, monkeypatch):
    """Of an open mouth, which random weights lack."""
    monkeypatch.setattr(rendering, "HIDDEN_FROM", -1.0)
    pipeline = whole_pipeline()
    pipeline.register_modules(denoiser=tiny_denoiser(lip_shape_values=lips), vae=make_vae())
    with recording(pipeline) as asked, torch.inference_mode():
        frames_of(pipeline)
    networks, timed = {module: network for network, module in networks_of(pipeline)}, []
    for module, inputs in runtimes.calls_of_frames(pipeline, 16):
        network = networks[module]
        timed.append(network.name)
        assert inputs.keys() == asked[network.name].keys()
        for sizes in (fixed_sizes, sizes_but_frames):
            assert sizes(network, inputs) == sizes(network, asked[network.name]), network.name
        assert {name: value.ndim for name, value in inputs.items()} == {name: value.ndim for name, value in asked[network.name].items()}
    assert timed == ["denoiser", "denoiser", "motion_decoder", filled_by]


@pytest.mark.parametrize("make", [tiny_read_pipeline, lambda: tiny_read_pipeline(lips=True), tiny_asymtalker_pipeline])
def test_of_methods_that_move_the_whole_face_a_clip_is_timed(make):
    pipeline, timed = make(), []
    with recording(pipeline) as asked, torch.inference_mode():
        pipeline(picture(), spoken(0.3), generator=torch.Generator().manual_seed(0))
    networks = {module: network for network, module in networks_of(pipeline)}
    for module, inputs in runtimes.calls_of_frames(pipeline, 16):
        network = networks[module]
        timed.append(network.name)
        assert inputs.keys() == asked[network.name].keys() and fixed_sizes(network, inputs) == fixed_sizes(network, asked[network.name])
        with torch.inference_mode():
            module(**inputs)
    assert timed == ["transformer"] * pipeline.default_steps + ["temporal_decoder"] * 2 + ["decoder"]


def test_runtimes_that_are_not_there(monkeypatch, capsys, tmp_path):
    with pytest.raises(InvalidInputError, match="runtime 'tpu': expected auto, torch, openvino or onnxruntime"):
        check_runtime("tpu")
    monkeypatch.setattr("temposync_pipeline.export.find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"'onnxruntime': not installed: pip install 'temposync-pipeline\[onnx\]'"):
        check_runtime("onnxruntime")
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"openvino needs openvino: pip install 'temposync-pipeline\[openvino\]'"):
        files.check_format("openvino")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", "--format", "tflite", "--output", str(tmp_path / "out")])
    assert stopped.value.code == 2 and "'tflite': expected onnx or openvino" in capsys.readouterr().err


def test_the_environment_names_the_runtime(monkeypatch, capsys, make_speech):
    monkeypatch.setenv("TEMPOSYNC_RUNTIME", "tpu")
    with pytest.raises(InvalidInputError, match="runtime 'tpu'"):
        TempoSyncPipeline.from_pretrained("temposync-tiny")
    for command in ("visemes", "generate", "dub", "live"):
        inputs = {"visemes": [], "dub": ["--video", __file__]}.get(command, ["--image", __file__])
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, "--audio", str(make_speech("speech.wav")), *inputs])
        assert stopped.value.code == 2, command
        assert "runtime 'tpu': expected auto, torch, openvino or onnxruntime" in capsys.readouterr().err, command


def test_the_first_use_is_said_to_take_long(exported, caplog, monkeypatch):
    monkeypatch.setattr(runtimes, "COMPILED", ("denoiser",))
    runtimes.use_runtime(whole_pipeline(), "openvino", exported[0])
    runtimes.use_runtime(whole_pipeline(), "torch")
    assert not caplog.records
    runtimes.use_runtime(whole_pipeline(), "onnxruntime")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.records[0].getMessage().startswith("onnxruntime is used for the first time: it compiles the networks")


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs OpenVINO")
def test_what_not_every_video_asks_is_compiled_with_the_rest(monkeypatch, caplog):
    """Else a pipeline whose mouths are painted, or closed, would wait for it for ever."""
    monkeypatch.setattr(runtimes, "COMPILED", ("decoder", "inner_decoder"))
    for _ in range(2):
        pipeline = whole_pipeline()
        runtimes.use_runtime(pipeline, "openvino")
        assert pipeline._can_overlap()
    assert [record.levelname for record in caplog.records if record.levelname == "WARNING"] == ["WARNING"]  # that it takes long


@pytest.mark.parametrize("runtime, damaged", [("openvino", "decoder.bin"), ("openvino", "decoder.xml"), ("onnxruntime", "decoder.onnx")])
def test_torch_computes_what_is_damaged(exported, tmp_path, monkeypatch, caplog, runtime, damaged):
    monkeypatch.setattr(runtimes, "COMPILED", ("decoder",))
    folder = tmp_path / FORMATS[runtime]
    shutil.copytree(exported[0] / FORMATS[runtime], folder)
    (folder / damaged).write_bytes((folder / damaged).read_bytes()[:300])
    pipeline, latents = whole_pipeline(), torch.randn(2, 32, 5, 6)
    runtimes.use_runtime(pipeline, runtime, tmp_path)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(pipeline.vae.decoder(latents), type(pipeline.vae.decoder).forward(pipeline.vae.decoder, latents))
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert f"{FORMATS[runtime]}/decoder" in record.getMessage() and "temposync export writes it anew" in record.getMessage()


def test_half_precision_stays_with_torch(caplog):
    pytest.importorskip("openvino")
    pipeline = whole_pipeline().to(torch.bfloat16)
    runtimes.use_runtime(pipeline, "openvino")
    with torch.inference_mode():
        assert pipeline.vae.decoder(torch.randn(2, 32, 5, 6).bfloat16()).dtype == torch.bfloat16
    assert not [record for record in caplog.records if record.name.startswith("temposync")]


def test_hooks_of_others_stay(exported):
    """accelerate, too, puts a forward in a module's own."""
    pipeline = whole_pipeline()
    pipeline.vae.decoder.forward = hooked = lambda latents: latents
    runtimes.use_runtime(pipeline, "torch")
    assert pipeline.vae.decoder.forward is hooked


def test_networks_are_compiled_while_no_other_computes(exported, monkeypatch):
    monkeypatch.setattr(runtimes, "COMPILED", ("denoiser",))
    pipeline = whole_pipeline()
    assert pipeline._can_overlap()
    runtimes.use_runtime(pipeline, "openvino")
    assert not pipeline._can_overlap()
    runtimes.use_runtime(pipeline, "openvino", exported[0])
    assert pipeline._can_overlap()
