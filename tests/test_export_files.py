"""Exported files: of every method, what is measured of them, and what interrupts their writing."""

import copy
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.export import files, runtimes
from temposync_pipeline.export.networks import Network, networks_of
from temposync_pipeline.export.sessions import open_session

from .tiny_components import asking_all, picture, spoken, tiny_asymtalker_pipeline, tiny_read_pipeline, whole_pipeline

pytestmark = pytest.mark.torch_only("files are compared with torch")


@pytest.fixture(autouse=True)
def nothing_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPOSYNC_CACHE", str(tmp_path / "cache"))


READ = {"viseme_classifier", "lip_motion", "face_detector", "face_landmarks", "encoder", "decoder", "speech_encoder", "transformer",
        "temporal_decoder"}


@torch.no_grad()
def check_lengths(pipeline, folder: Path) -> None:
    """Others than in the examples."""
    reference = torch.randn(1, 32, 16, 16)
    lengths = {"speech_encoder": {"features": torch.randn(1, 41, 53)},
               "temporal_encoder": {"residual": torch.randn(1, 40, 32, 16, 16), "reference": reference},
               "temporal_decoder": {"latents": torch.randn(1, 7, 8, 8, 8), "reference": reference}}
    for network, module in networks_of(pipeline):
        if (inputs := lengths.get(network.name)) is not None:
            made = open_session(next(folder.glob(f"{network.name}.[ox]*")), network, inputs, bfloat16=False)(inputs)
            assert torch.allclose(made[0], network.torch_forward(module)(**inputs), atol=1e-4)


@pytest.mark.parametrize("make, form, runtime, names", [
    (tiny_read_pipeline, "onnx", "onnxruntime", READ),
    (lambda: tiny_read_pipeline(lips=True), "openvino", "openvino", READ),
    (tiny_asymtalker_pipeline, "openvino", "openvino", READ | {"temporal_encoder"}),
])
def test_methods_that_move_the_whole_face_are_exported_and_make_the_same_video(tmp_path, monkeypatch, make, form, runtime, names):
    for needed in files.NEEDS[form][0]:
        pytest.importorskip(needed)
    pipeline = asking_all(make())
    runtimes.use_runtime(pipeline, "torch")

    def frames() -> np.ndarray:
        return pipeline(picture(), spoken(), 2, torch.Generator().manual_seed(0), output_type="np").frames

    pipeline.use_bfloat16 = False
    expected = frames()
    assert np.ptp(expected, axis=0).max() > 0.05  # something moves
    errors = files.export_pipeline(pipeline, picture(), spoken(), form, tmp_path / form)
    assert set(errors) == names and max(errors.values()) < 1e-4
    check_lengths(pipeline, tmp_path / form)
    monkeypatch.setattr(runtimes, "write_network", None)  # all is there
    runtimes.use_runtime(pipeline, runtime, tmp_path)
    made = frames()
    assert len(pipeline.transformer.forward._sessions) == len(pipeline.vae.decoder.forward._sessions) == 1
    assert -10 * np.log10(np.square(made - expected).mean() + 1e-12) >= 50 and (frames() == made).all()


@pytest.mark.parametrize("wrong, error", [(1e-5, 1e-5), (1e-2, 1e-2), (float("nan"), None)])
def test_an_error_is_measured_by_the_largest_value_and_no_number_is_one(monkeypatch, wrong, error):
    """Half of a batch may be of a face at rest, whose flow is nearly nothing."""
    network = Network("flow", "flow", {"latents": (0,)}, ("flow",))
    latents = torch.tensor([[1e-4], [1.0]])
    monkeypatch.setattr(files, "open_session", lambda *_, **__: lambda inputs: (inputs["latents"] + wrong,))
    found = files.relative_error(network, Rest(), {"latents": latents}, Path("flow.onnx"))
    assert found == pytest.approx(error, rel=0.01) if error else not found <= files.TOLERANCE


class Rest(torch.nn.Module):
    def forward(self, latents):
        return latents


def test_a_file_that_computes_something_else_is_an_error(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    write = files.write_network

    def wrong(network, module, example, path):
        altered = copy.deepcopy(module)
        next(altered.parameters()).data.mul_(1.5)
        write(network, altered, example, path)

    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / files.INDEX).write_text("{}")  # of files that were there before
    lip_motion = [(network, module) for network, module in networks_of(whole_pipeline()) if network.name == "lip_motion"]
    monkeypatch.setattr(files, "write_network", wrong)
    monkeypatch.setattr(files, "networks_of", lambda pipeline: lip_motion)
    with pytest.raises(InvalidInputError, match="lip_motion.xml: computes something else than torch"):
        files.export_pipeline(whole_pipeline(), picture(), spoken(), "openvino", tmp_path / "wrong")
    assert not (tmp_path / "wrong" / files.INDEX).exists()


def test_an_interrupt_amid_an_export_comes_after_it(tmp_path, monkeypatch):
    """torch would call it a fault of the network."""
    trace = files.traced
    monkeypatch.setattr(files, "traced", lambda *given: (signal.raise_signal(signal.SIGINT), trace(*given))[1])
    network, module = next(pair for pair in networks_of(whole_pipeline()) if pair[0].name == "decoder")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            files.write_network(network, module, {"latents": torch.randn(2, 32, 5, 6)}, tmp_path / "decoder.onnx")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "decoder.onnx").stat().st_size


def test_what_is_not_exported_is_compiled_once(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    pipeline, written = whole_pipeline(), []
    write = runtimes.write_network
    monkeypatch.setattr(runtimes, "write_network", lambda network, *rest: (written.append(network.name), write(network, *rest)))
    monkeypatch.setattr(runtimes, "COMPILED", ("decoder",))
    latents = torch.randn(2, 32, 5, 6)
    with torch.no_grad():
        expected = pipeline.vae.decoder(latents)
        for _ in range(2):
            runtimes.use_runtime(pipeline, "openvino")
            assert torch.allclose(pipeline.vae.decoder(latents), expected, atol=1e-4)
    assert written == ["decoder"] and len(list((tmp_path / "cache").glob("decoder-*/*.xml"))) == 1
