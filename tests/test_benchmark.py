"""The benchmark's report holds together; how fast this machine is, no test asks."""

import json

import numpy as np
import pytest
from PIL import Image

from temposync_pipeline import cli
from temposync_pipeline.metrics import benchmark
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline

from .tiny_components import picture, tiny_asymtalker_pipeline, tiny_pipeline, tiny_read_pipeline

pytestmark = pytest.mark.torch_only("the benchmark is told which runtime to time")


@pytest.fixture
def inputs(tmp_path, make_audio, monkeypatch):
    def load(model, runtime):
        assert runtime == "torch"  # other runtimes' arithmetic is not counted
        return tiny_pipeline()

    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", load)
    Image.fromarray(picture(96, 80)).save(tmp_path / "portrait.png")
    return {"image": tmp_path / "portrait.png", "audio": make_audio("a.wav", seconds=0.6)}


def test_report_adds_up(inputs, tmp_path, monkeypatch):
    made, make = [], TempoSyncPipeline.generate_to_file
    monkeypatch.setattr(TempoSyncPipeline, "generate_to_file", lambda *given, **more: made.append((given[4], more["chunk_size"])) or make(
        *given, **more))
    report = benchmark.run_benchmark(steps=(1, 2), chunk_size=8, repeats=2, output=tmp_path, **inputs)
    assert [result["steps"] for result in report["results"]] == [1, 2] and report["frames"] == 15
    for result in report["results"]:
        stages = result["stages"]
        assert set(stages) == set(benchmark.STAGES) and all(stage["mean_ms"] > 0 for stage in stages.values())
        assert result["mean_ms"] == pytest.approx(stages["denoise"]["mean_ms"] + stages["decode"]["mean_ms"])
        assert result["fps"] == pytest.approx(1000 / result["total_ms"]) and result["p95_ms"] >= result["total_ms"]
        in_turn = result["E1"]["one_after_another_ms"]
        assert in_turn == pytest.approx(sum(s["mean_ms"] for n, s in stages.items() if n != "save_latents"))
        assert 0 < result["E1"]["mean_ms"] != in_turn  # the product's own way
        assert result["E1"]["real_time_factor"] == pytest.approx(result["E1"]["mean_ms"] * 25 / 1000)
        # Everything before the first chunk, and no more than the whole video.
        before = 15 * (stages["visemes"]["mean_ms"] + stages["encode"]["mean_ms"])
        assert before < result["E1"]["first_frame_ms"] < 15 * in_turn
        assert result["chunk"]["frames"] == 8 and before + result["chunk"]["first_ms"] == pytest.approx(result["E1"]["first_frame_ms"])
        assert result["gflop"]["denoise"] > 0 and result["gflop"]["decode"] > 0
        assert result["floor_ms"] == pytest.approx(1000 * sum(result["gflop"].values()) / report["peak_gflops"])
        assert result["floor_share"] == pytest.approx(result["floor_ms"] / result["total_ms"])
        assert result["E2"]["bytes_per_frame"] >= 32 * 10 * 12 * 4
        assert result["megabytes"]["denoise"] > 0 and result["megabytes"]["decode"] > 0
    assert made == [(1, 8), *2 * [(1, 8)], *2 * [(2, 8)]]  # the first to warm up
    one, two = (result["gflop"] for result in report["results"])
    assert two["denoise"] >= 1.5 * one["denoise"] and two["decode"] == one["decode"] and report["runtime"] == "torch"
    assert report["reference"]["whole_crop_decode_ms"] > 0 and report["machine"]["threads"] >= 1
    assert Image.open(tmp_path / "quality_latency.png").size[0] > 300
    json.dumps(report, allow_nan=False)


def test_the_fastest_runtime_is_reported(inputs, monkeypatch):
    monkeypatch.setattr(benchmark, "installed_runtimes", lambda: ["torch", "openvino"])
    monkeypatch.setattr(benchmark, "load_runtime", lambda pipe, runtime, model: setattr(pipe, "runtime", runtime))
    report = benchmark.compare_runtimes(steps=(1,), chunk_size=8, **inputs)
    totals = {name: compared["results"][-1]["total_ms"] for name, compared in report["runtimes"].items()}
    assert set(totals) == {"torch", "openvino"} and report["results"][-1]["total_ms"] == min(totals.values()) == totals[report["runtime"]]


@pytest.mark.parametrize("make", [tiny_read_pipeline, tiny_asymtalker_pipeline])
def test_a_model_that_moves_the_whole_face_is_timed_too(inputs, tmp_path, monkeypatch, make):
    make().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(type(make()), "from_pretrained", lambda model, **_: make())
    result, = benchmark.run_benchmark(steps=(2,), chunk_size=4, model=str(tmp_path / "model"), **inputs)["results"]
    assert 0 < result["backbone_ms"] < result["mean_ms"] and (make is tiny_asymtalker_pipeline or result["total_ms"] == result["mean_ms"])
    chunk = result["chunk"]
    assert 0 < chunk["mean_ms"] <= chunk["slowest_ms"] and chunk["first_ms"] < result["E1"]["first_frame_ms"]
    assert chunk["slowest_real_time_factor"] == pytest.approx(chunk["slowest_ms"] / 160)


def test_chunks_in_closed_form():
    first, second = ({"denoise": [9.0, 1.0, 4.0, 99.0], "decode": [1.0, 1.0, 1.0, 99.0], "paste_back": [0.0, 0.5, 1.0, 99.0]},
                     {"denoise": [5.0, 2.0, 2.0, 99.0], "decode": [1.0, 1.0, 1.0, 99.0], "paste_back": [0.0, 0.5, 1.0, 99.0]})
    # Three chunks of four frames, and one of two, which is too short to be compared.
    assert benchmark.describe_chunks([first, second], [4, 4, 4, 2], 25) == pytest.approx({
        "frames": 4, "first_ms": 4 * 8, "mean_ms": 4 * (2.5 + 6 + 3.5 + 4) / 4, "slowest_ms": 24, "slowest_real_time_factor": 0.15})
    assert set(benchmark.describe_chunks([first], [14], 25)) == {"frames", "first_ms"}


def test_clock_divides_by_frames_and_keeps_the_stages_apart(monkeypatch):
    times = iter([0.0, 0.8, 1.0, 1.1])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(times))
    clock = benchmark.StageClock(tiny_pipeline().device)
    for stage, frames in (("denoise", 16), ("decode", 4)):
        with clock.measure(stage, frames):
            pass
    assert clock.samples["denoise"] == [pytest.approx(50)] and clock.samples["decode"] == [pytest.approx(25)]


def test_quality_of_each_number_of_steps_is_plotted_over_its_time(tmp_path):
    results = [{"steps": steps, "total_ms": 10.0 * steps, "quality": {"psnr_vae": 30 + steps, "lip_r": 0.7}} for steps in (1, 2, 4)]
    benchmark.plot_quality_latency(results, tmp_path / "both.png")
    benchmark.plot_quality_latency([{"steps": 1, "total_ms": 10.0}, {"steps": 2, "total_ms": 20.0}], tmp_path / "time.png")
    wide, narrow = (np.asarray(Image.open(tmp_path / name)) for name in ("both.png", "time.png"))
    assert wide.shape[1] == 2 * narrow.shape[1] and wide.std() > 0


def test_command(inputs, tmp_path, capsys):
    arguments = ["--image", inputs["image"], "--audio", inputs["audio"], "--json", tmp_path / "out.json", "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        cli.main(["benchmark", "--steps", "2,1", *map(str, arguments)])
    assert not end.value.code and [line.split()[0] for line in capsys.readouterr().out.splitlines()[-3:-1]] == ["1", "2"]
    assert [result["steps"] for result in json.loads((tmp_path / "out.json").read_text())["results"]] == [1, 2]
    for extra, message in ((("--steps", "two"), "--steps two"), (("--output", tmp_path / "none"), "not a folder")):
        with pytest.raises(SystemExit) as end:
            cli.main(["benchmark", *map(str, arguments), *map(str, extra)])
        assert end.value.code == 2 and message in capsys.readouterr().err
