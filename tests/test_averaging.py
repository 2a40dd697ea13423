import pytest
import torch

from temposync_pipeline import InvalidInputError
from temposync_pipeline.models.denoiser_temposync import TempoSyncDenoiser
from temposync_pipeline.training import averaging
from temposync_pipeline.training.checkpointing import save_weights

from .tiny_components import tiny_denoiser


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
    for between, low in zip(mean.parameters(), first.parameters(), strict=True):
        assert torch.allclose(between, low + 1, atol=1e-5)


def test_different_shapes_have_no_mean():
    with pytest.raises(InvalidInputError, match="shapes"):
        averaging.average([tiny_denoiser(), tiny_denoiser(mid_layers=2)])
