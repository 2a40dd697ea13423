import pytest
import torch

from temposync_pipeline import InvalidInputError, TempoSyncPipeline
from temposync_pipeline.models.denoiser_temposync import TempoSyncDenoiser
from temposync_pipeline.training import averaging
from temposync_pipeline.training.checkpointing import save_weights

from .tiny_components import tiny_denoiser, tiny_pipeline


def test_the_command_writes_the_mean_of_the_weights(tmp_path, monkeypatch):
    first, second = tiny_denoiser(residual_scale=0.5), tiny_denoiser()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(2.0)
    for name, denoiser in (("a", first), ("b", second)):
        save_weights(denoiser, tmp_path / name / "denoiser")
    monkeypatch.setattr("sys.argv", ["averaging", "--inputs", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "mean")])
    averaging.main()
    mean = TempoSyncDenoiser.from_pretrained(tmp_path / "mean", subfolder="denoiser")
    assert mean.config.residual_scale == 0.5
    assert str(tmp_path) not in (tmp_path / "mean" / "denoiser" / "config.json").read_text()
    assert sorted(path.name for path in (tmp_path / "mean").iterdir()) == ["denoiser"]
    for between, low in zip(mean.parameters(), first.parameters(), strict=True):
        assert torch.allclose(between, low + 1, atol=1e-5)


def test_a_base_makes_the_mean_a_whole_checkpoint(tmp_path, monkeypatch):
    base = tiny_pipeline()
    base.register_to_config(viseme_smoothing=0.8)
    base.save_pretrained(tmp_path / "base")
    save_weights(tiny_denoiser(residual_scale=0.5), tmp_path / "a" / "denoiser")
    monkeypatch.setattr("sys.argv", ["averaging", "--inputs", str(tmp_path / "a"), "--output", str(tmp_path / "mean"),
                                     "--base", str(tmp_path / "base")])
    averaging.main()
    whole = TempoSyncPipeline.from_pretrained(tmp_path / "mean")
    assert whole.denoiser.config.residual_scale == 0.5 and whole.config.viseme_smoothing == 0.8


def test_different_shapes_have_no_mean():
    with pytest.raises(InvalidInputError, match="shapes"):
        averaging.average([tiny_denoiser(), tiny_denoiser(mid_layers=2)])
