"""Settings of a training stage, from a YAML file and the command line."""

import pytest

from temposync_pipeline.training import aligner, sync
from temposync_pipeline.training.autoencoder import Config
from temposync_pipeline.training.settings import build_config, read_settings


def test_training_settings(tmp_path):
    (tmp_path / "settings.yaml").write_text("learning_rate: 1e-3\nbatch_size: 4\nmax_minutes: 2\n")
    values = read_settings(tmp_path / "settings.yaml", ["batch_size=8", "resume=true", "sources={portraits: 1}"])
    config = build_config(Config, values)
    assert (config.learning_rate, config.batch_size, config.max_minutes, config.resume) == (1e-3, 8, 2.0, True)
    assert build_config(aligner.Config, {"speaking": None}).speaking == ""
    assert isinstance(config.max_minutes, float) and config.sources == {"portraits": 1}
    assert build_config(sync.Config, {}).max_steps > 0 and build_config(sync.Config, {"max_minutes": 1}).max_steps == 0
    assert build_config(sync.Config, {"max_minutes": 1, "max_steps": 7}).max_steps == 7


@pytest.mark.parametrize(("arguments", "message"), [
    (("nothing",), "nothing: not a stage (aligner, autoencoder, decoder, inner_mouth, voice, visemes, ear, identity, sync, lips, "
                   "teacher, student, temporal, speech, read, asym_teacher, asym_student)"),
    (("autoencoder", "--set", "zzz=3"), "zzz: not a setting of this stage; there are batch_size, "),
    (("autoencoder", "--set", "max_step=3"), "max_step: not a setting of this stage; did you mean 'max_steps'?"),
    (("student", "--init", "temposync-tiny"), "train student needs data to train on; say where it is with --data"),
    (("autoencoder", "--set", "max_steps=0"), "max_steps: 0 leaves the end to max_minutes, so set that as well"),
    (("autoencoder", "--set", "max_steps=0", "--set", "max_minutes=0"), "neither max_steps nor max_minutes says when to end"),
    (("autoencoder", "--set", "max_steps=-5"), "max_steps -5, max_minutes 30: neither can be negative"),
    (("autoencoder", "--set", f"seed={2**32}"), f"seed: {2**32}, outside the limits of 0 to {2**32 - 1}"),
    (("autoencoder", "--set", "batch_size=many"), "batch_size: 'many', expected int"),
    (("autoencoder", "--set", "batch_size=1.5"), "batch_size: 1.5, expected int"),
    (("autoencoder", "--set", "batch_size"), "expected KEY=VALUE"),
    (("autoencoder", "--set", "batch_size=[1"), "not YAML"),
    (("autoencoder", "--set", f"batch_size={'9' * 5000}"), "--set batch_size: a number of too many digits"),
    (("autoencoder", "--set", f"batch_size={'[' * 5000}"), "a date that is none, or too many brackets"),
    (("autoencoder", "--set", "batch_size=.inf"), "batch_size: inf, expected int"),
    (("autoencoder", "--set", "sources=3"), "sources: 3, expected shares, as {one: 0.4, another: 0.6}"),
    (("autoencoder", "--set", "sources={portraits: many}"), "sources, portraits: 'many', expected float"),
    (("autoencoder", "--set", "sources={portraits: 0}"), "sources: {'portraits': 0.0}, expected shares of at least 0, and one above it"),
    (("autoencoder", "--set", "window=100"), "window: 100, expected a multiple of 16 from 16 to 128"),
    (("visemes", "--set", "voices=anna"), "voices: 'anna', expected names, as [one, another]"),
    (("visemes", "--set", "grid_train=[[1]]"), "grid_train: [1], expected str"),
    (("visemes", "--set", "crop_seconds=.nan"), "crop_seconds: nan, expected float"),
    (("aligner", "--set", "learning_rate=-1"), "learning_rate: -1.0, expected 0 or more"),
    (("aligner", "--set", "threads=-1"), "threads: -1, expected 0 to 1024"),
    (("aligner", "--set", "device=abacus"), "--device abacus: not available here"),
    (("aligner", "--set", "data=[1]"), "[1]: no such file"),
    (("aligner", "--set", "output={a: 1}"), "train aligner needs data"),
    (("autoencoder", "--data", "/nowhere/at/all"), "no such file"),
    (("autoencoder", "--device", "abacus"), "not available here"),
])
def test_training_mistakes(tmp_path, command_line, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = command_line("train", *arguments)
    assert code == 2 and len(err) == 1 and message in err[0]
