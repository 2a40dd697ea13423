"""`runtime="auto"`: which of those that are installed computes a pipeline's networks."""

import sys
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from temposync_pipeline import startup
from temposync_pipeline.commands import video
from temposync_pipeline.export import installed_runtimes, runtimes
from temposync_pipeline.files import cache_folder
from temposync_pipeline.pipelines import auto

from .tiny_components import whole_pipeline

needs_both = pytest.mark.skipif(len(installed_runtimes()) < 3, reason="needs OpenVINO and ONNX Runtime")


@pytest.fixture(autouse=True)
def nothing_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPOSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtimes, "COMPILED", ("motion_decoder",))


def unknown(name: str) -> str:
    raise PackageNotFoundError(name)


def chosen() -> str:
    pipeline = whole_pipeline()
    runtimes.use_runtime(pipeline, "auto")
    return pipeline.runtime


@needs_both
def test_what_is_installed_is_compiled_and_compared_once(monkeypatch, caplog):
    for _ in range(2):
        chosen()
        assert {path.suffix for path in cache_folder().glob("motion_decoder-*/*")} == {".xml", ".bin", ".onnx"}
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [line.split(" is ")[0] for line in said[:2]] == ["openvino", "onnxruntime"]
        assert len(said) == 3 and said[2].endswith(f" computes videos here from now on ({cache_folder() / 'fastest.json'})")
        monkeypatch.setattr(runtimes, "time_runtimes", None)  # remembered


@needs_both
def test_the_fastest_is_taken_and_remembered(monkeypatch):
    for power in (-2, 1):  # what is known is not measured anew
        monkeypatch.setattr(runtimes, "time_runtimes", lambda _, forwards, rounds=9, p=power: {name: len(name) ** p for name in forwards})
        assert chosen() == "onnxruntime"
    monkeypatch.setattr(runtimes, "__version__", "9")  # another release may be faster
    assert chosen() == "torch"


@needs_both
@pytest.mark.parametrize("torch_takes, taken", [(1.15, "torch"), (1.2, "openvino")])
def test_torch_is_left_for_what_is_clearly_faster(monkeypatch, torch_takes, taken):
    times = {"torch": torch_takes, "openvino": 1.0, "onnxruntime": 1.1}
    monkeypatch.setattr(runtimes, "time_runtimes", lambda pipeline, forwards, rounds=9: {name: times[name] for name in forwards})
    assert chosen() == taken


@pytest.mark.parametrize(("lean", "told"), [(False, []), (True, [True])])
def test_torch_is_timed_with_the_memory_of_a_long_video(monkeypatch, lean, told):
    calls = []
    monkeypatch.setattr(startup, "lean", lean)
    monkeypatch.setattr(startup, "expect_long_work", lambda: calls.append(True))
    times = runtimes.time_runtimes(whole_pipeline(), {"torch": []}, rounds=1)
    assert calls == told and list(times) == ["torch"] and 0 < times["torch"] < float("inf")


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs OpenVINO")
def test_what_cannot_be_compiled_is_left_out(monkeypatch, caplog):
    monkeypatch.setattr(runtimes, "installed_runtimes", lambda: ["torch", "openvino"])
    monkeypatch.setattr(runtimes, "write_network", lambda *_: {}["no such operator"])
    for _ in range(2):  # it is not tried again
        assert chosen() == "torch"
    assert [record.getMessage() for record in caplog.records if "left out" in record.getMessage()] == [
        "openvino: left out ('no such operator')"]


@needs_both
@pytest.mark.parametrize("move", [{"device": "meta"}, {"dtype": torch.float16}])
def test_what_others_would_leave_to_torch_is_not_timed(monkeypatch, move):
    monkeypatch.setattr(runtimes, "time_runtimes", None)
    pipeline = whole_pipeline()
    pipeline.vae.to(**move)
    runtimes.use_runtime(pipeline, "auto")
    assert pipeline.runtime == "torch"


@needs_both
def test_without_a_place_for_files_torch_computes(monkeypatch, caplog, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TEMPOSYNC_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(runtimes, "time_runtimes", None)
    assert chosen() == "torch" and not caplog.records


@needs_both
def test_what_cannot_be_remembered_is_chosen_all_the_same(monkeypatch):
    (cache_folder() / "fastest.json").mkdir(parents=True)
    monkeypatch.setattr(runtimes, "time_runtimes", lambda pipeline, forwards, rounds=9: {name: 99 / len(name) for name in forwards})
    assert chosen() == "onnxruntime"


@needs_both
def test_a_runtime_may_come_in_a_package_of_another_name(monkeypatch):
    monkeypatch.setattr(runtimes, "version", unknown)
    monkeypatch.setattr(runtimes, "time_runtimes", lambda pipeline, forwards, rounds=9: dict.fromkeys(forwards, 1.0))
    assert chosen() == "torch"
    assert "onnxruntime unknown" in (cache_folder() / "fastest.json").read_text()


def test_a_folder_is_no_runtime(monkeypatch, tmp_path):
    """As `python -m` finds one in a checkpoint's."""
    (tmp_path / "openvino").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    assert "openvino" not in installed_runtimes()


def test_torch_alone_is_not_timed(monkeypatch):
    monkeypatch.setattr(runtimes, "installed_runtimes", lambda: ["torch"])
    monkeypatch.setattr(runtimes, "time_runtimes", None)
    assert chosen() == "torch"


@pytest.mark.parametrize("device, asked, taken", [("cpu", "auto", "auto"), ("cuda", "auto", "torch"), ("cuda", "openvino", "openvino")])
def test_nothing_is_compared_for_a_gpu(monkeypatch, device, asked, taken):
    loaded = []
    monkeypatch.setattr(video, "choose_device", lambda name: name)
    monkeypatch.setattr(auto, "load_pipeline", lambda model, runtime: (loaded.append(runtime), SimpleNamespace(to=str))[1])
    video.load_pipeline("temposync-tiny", device, asked)
    assert loaded == [taken]
