import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.training import run_log
from temposync_pipeline.training.checkpointing import load_checkpoint, save_checkpoint, save_weights
from temposync_pipeline.training.loop import LoopConfig, learning_rate_at, precision_of
from temposync_pipeline.training.run_log import RunLog

from .tiny_components import tiny_vae
from .train_tiny import train

ROOT = Path(__file__).parent.parent


def curve(folder: Path) -> list[tuple[str, str]]:
    with open(folder / "log.csv", newline="") as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_killed_runs_resume_to_the_same_weights(tmp_path):
    """Really killed, just before and just after a checkpoint takes its place."""
    subprocess.run([sys.executable, "-m", "tests.train_tiny", tmp_path, "kill=4,before", "kill=5,after"], cwd=ROOT, check=True)
    assert load_checkpoint(tmp_path / "before" / "checkpoint")["step"] == 3
    assert load_checkpoint(tmp_path / "after" / "checkpoint")["step"] == 5
    weights = train(tmp_path / "uninterrupted")
    for name in ("before", "after"):
        assert equal(train(tmp_path / name, resume=True), weights)
        assert curve(tmp_path / name) == curve(tmp_path / "uninterrupted") and len(curve(tmp_path / name)) == 8


def test_the_clock_does_not_change_a_run_of_steps(tmp_path):
    seldom = train(tmp_path / "seldom", checkpoint_every_minutes=9.0, validate_every_minutes=9.0, max_minutes=1e-9)
    assert equal(train(tmp_path / "often"), seldom) and len(curve(tmp_path / "seldom")) == 1


def test_a_finished_run_resumes_with_nothing_to_do(tmp_path):
    weights, rows = train(tmp_path), curve(tmp_path)
    assert equal(train(tmp_path, resume=True), weights) and curve(tmp_path) == rows


def test_accumulated_batches_count_like_one_large_batch(tmp_path):
    whole, parts = (train(tmp_path / str(count), random=False, gradient_accumulation_steps=count) for count in (1, 4))
    for name in ("encode.weight", "decode.weight"):
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-6)
    assert float(curve(tmp_path / "4")[-1][1]) == pytest.approx(float(curve(tmp_path / "1")[-1][1]), rel=1e-4)


def test_half_a_file_is_never_read(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", {"step": 1})
    (tmp_path / "checkpoint" / "state.pt.staged").write_bytes(b"torn")
    assert load_checkpoint(tmp_path / "checkpoint") == {"step": 1}
    save_checkpoint(tmp_path / "checkpoint", {"step": 2})
    assert load_checkpoint(tmp_path / "checkpoint") == {"step": 2} and load_checkpoint(tmp_path / "nothing") is None
    vae = tiny_vae()
    for _ in range(2):
        save_weights(vae, tmp_path / "vae")
    assert equal(type(vae).from_pretrained(tmp_path / "vae").state_dict(), vae.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "vae"]


def test_the_log_grows_columns_and_forgets_what_was_lost(tmp_path):
    log = RunLog(tmp_path, 0)
    for step, row in ((1, {"loss": 3.0}), (2, {"loss": 2.0, "consistency": 1.0}), (3, {"loss": 1.0})):
        log.add({"step": step} | row)
    assert (tmp_path / "log.csv").read_text().split() == ["step,loss,consistency", "1,3,", "2,2,1", "3,1,"]
    RunLog(tmp_path, 2).add({"step": 4, "loss": 0.5})
    assert curve(tmp_path) == [("1", "3"), ("2", "2"), ("4", "0.5")]


def test_tensorboard_where_it_is_installed_and_a_line_where_not(tmp_path, monkeypatch, capsys):
    if run_log.find_spec("tensorboard"):
        train(tmp_path / "with", tensorboard=True)
        assert sum(path.stat().st_size for path in (tmp_path / "with" / "tensorboard").glob("events*")) > 500
    capsys.readouterr()
    monkeypatch.setattr(run_log, "find_spec", lambda name: None)
    train(tmp_path / "without", tensorboard=True)
    assert [line for line in capsys.readouterr().err.splitlines() if "TensorBoard is not installed" in line]
    assert len(curve(tmp_path / "without")) == 8 and not (tmp_path / "without" / "tensorboard").exists()


def test_the_learning_rate_warms_up_and_falls():
    config = LoopConfig(learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    assert learning_rate_at(0, 0, config) == pytest.approx(0.1) and learning_rate_at(0, 50, config) == 1
    assert learning_rate_at(0.5, 50, config) == pytest.approx(0.55) and learning_rate_at(1, 50, config) == pytest.approx(0.1)


@pytest.mark.parametrize(("settings", "able", "expected"), [
    ({}, True, "bf16"), ({}, False, "no"), ({"device": "cuda"}, False, "bf16"),
    ({"mixed_precision": "bf16"}, False, "bf16"), ({"mixed_precision": "no"}, True, "no")])
def test_a_cpu_that_would_only_imitate_bfloat16_trains_in_float32(monkeypatch, settings, able, expected):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)
    assert precision_of(LoopConfig(**settings)) == expected


@pytest.mark.parametrize("settings", [
    {"max_minutes": 0.0}, {"batch_size": 0}, {"gradient_accumulation_steps": 0}, {"mixed_precision": "fp7"}])
def test_settings_without_sense(settings):
    with pytest.raises(InvalidInputError):
        LoopConfig(**settings)


def test_a_checkpoint_that_is_damaged_or_of_another_model_is_told(tmp_path):
    train(tmp_path)
    state = tmp_path / "checkpoint" / "state.pt"
    whole = state.read_bytes()
    for content in (b"", b"text", whole[:len(whole) // 2], b"\x80\x04cos\nsystem\n."):
        state.write_bytes(content)
        with pytest.raises(InvalidInputError, match="state.pt: damaged, no checkpoint to go on from$"):
            train(tmp_path, resume=True)
    for other in ([1], {}, None):
        torch.save(other, state)
        with pytest.raises(InvalidInputError, match="state.pt: not the checkpoint of a training$"):
            train(tmp_path, resume=True)
    state.write_bytes(whole)
    torch.save(torch.load(state, weights_only=True) | {"model": {"another.weight": torch.zeros(3)}}, state)
    with pytest.raises(InvalidInputError, match="its checkpoint is of another model; without --resume the run begins anew$"):
        train(tmp_path, resume=True)
