"""Convolutions whose weights are kept in the CPU's own order: the same numbers, for as long as it was meant."""

import numpy as np
import pytest
import torch
from torch import nn

from temposync_pipeline.bases import lean
from temposync_pipeline.bases import packed as packing
from temposync_pipeline.bases.packed import Conv2d, PackedWeights
from temposync_pipeline.models.precision import has_fast_bfloat16

from .tiny_components import picture, tiny_pipeline

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a torch without oneDNN packs nothing")

LAYERS = [dict(kernel_size=3, padding=1), dict(kernel_size=4, stride=2, padding=1), dict(kernel_size=1, bias=False),
          dict(kernel_size=3, groups=4, dilation=2, padding=2), dict(kernel_size=3, padding="same"),
          dict(kernel_size=3, padding=1, padding_mode="reflect")]


def network(**settings) -> Conv2d:
    torch.manual_seed(0)
    return Conv2d(16, 24, **settings).eval()


@pytest.fixture
def asked(monkeypatch):
    """Layers whose weights were packed."""
    packed, pack = [], packing._pack
    monkeypatch.setattr(packing, "_pack", lambda layer, *form: packed.append(layer) or pack(layer, *form))
    return packed


@pytest.mark.parametrize("settings", LAYERS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@torch.inference_mode()
def test_the_numbers_are_those_of_torch(asked, settings, memory_format):
    layer, weights = network(**settings), PackedWeights()
    for count in (1, 3, 9):
        x = torch.randn(count, 16, 10, 12).contiguous(memory_format=memory_format)
        with weights.in_use():
            packed = layer(x)
        assert packed.dtype == torch.float32 and torch.allclose(packed, nn.Conv2d.forward(layer, x), atol=1e-5)
    assert len(asked) == (0 if settings.keys() & {"padding_mode"} or settings.get("padding") == "same" else 1)


@pytest.mark.skipif(not has_fast_bfloat16(), reason="a CPU without bfloat16")
@torch.inference_mode()
def test_the_numbers_are_those_of_torch_in_bfloat16(asked):
    layer, weights, x = network(kernel_size=3, padding=1), PackedWeights(), torch.randn(2, 16, 10, 12)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        with weights.in_use():
            packed = layer(x)
    assert packed.dtype == expected.dtype == torch.bfloat16 and torch.allclose(packed.float(), expected.float(), atol=0.02)
    with weights.in_use():
        assert layer(x).dtype == torch.float32 and len(asked) == 2  # in either precision


@torch.inference_mode()
def test_one_frame_is_the_same_alone_and_among_others(asked):
    layer, x = network(kernel_size=3, padding=1), torch.randn(9, 16, 10, 12).contiguous(memory_format=torch.channels_last)
    with PackedWeights().in_use():
        together = layer(x)
        for index in range(9):
            assert torch.equal(layer(x[index:index + 1]), together[index:index + 1])
    assert len(asked) == 1


def test_weights_are_packed_once_and_as_they_were(asked):
    layer, weights, x = network(kernel_size=3, padding=1), PackedWeights(), torch.randn(2, 16, 10, 12)
    with torch.inference_mode(), weights.in_use():
        first = layer(x)
        assert layer.is_packed_for(x) and not layer.is_packed_for(x.double()) and len(asked) == 1
        layer(x)
        assert len(asked) == 1
    with torch.no_grad():
        layer.weight.zero_()
    with torch.inference_mode():
        with weights.in_use():
            assert torch.equal(layer(x), first)
        with PackedWeights().in_use():
            assert (layer(x) == layer.bias[:, None, None]).all() and len(asked) == 2
        assert not layer.is_packed_for(x) and (layer(x) == layer.bias[:, None, None]).all()


def test_what_is_trained_traced_or_counted_is_left_to_torch(asked):
    layer, x = network(kernel_size=3, padding=1), torch.randn(2, 16, 10, 12)
    with PackedWeights().in_use():
        layer(x).sum().backward()
        assert layer.weight.grad.abs().sum() > 0
        with torch.no_grad(), PackedWeights(packing=False).in_use():
            layer(x)
        program = torch.export.export(layer, (x,), strict=False)
    assert not asked and "mkldnn" not in program.graph_module.code


def test_resting_weights_are_not_read_again(tmp_path, asked):
    class Network(lean.ModelMixin, lean.ConfigMixin):
        @lean.register_to_config
        def __init__(self):
            self.layer = Conv2d(16, 24, 3)

    from safetensors.torch import save_file

    save_file({"layer." + name: value for name, value in network(kernel_size=3).state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    resting, weights, x = Network.from_pretrained(tmp_path), PackedWeights(), torch.randn(2, 16, 10, 12)
    with torch.inference_mode():
        expected = resting.layer(x)
        resting.rest()
        with weights.in_use():
            assert torch.allclose(resting.layer(x), expected, atol=1e-5) and resting.layer.weight.is_meta
            (tmp_path / "model.safetensors").rename(tmp_path / "gone.safetensors")
            resting.layer(x)
            assert len(asked) == 1
        (tmp_path / "gone.safetensors").rename(tmp_path / "model.safetensors")
        assert torch.equal(resting.layer(x), expected) and not resting.layer.weight.is_meta


@pytest.mark.torch_only("torch's weights are packed")
def test_a_call_packs_what_it_repeats_and_frames_are_as_without(asked):
    pipe = tiny_pipeline()

    def frames() -> np.ndarray:
        return np.concatenate(list(pipe.stream(picture(), (np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000), 2,
                                               torch.Generator().manual_seed(0), chunk_size=8, mouth_amplitude=3.0)))

    packed, layers = frames(), len(asked)
    assert layers > 10
    again = frames()
    assert len(asked) == 2 * layers and np.array_equal(packed, again)  # a call's weights are its own
    with torch.backends.mkldnn.flags(enabled=False):
        plain = frames()
    assert len(asked) == 2 * layers and np.abs(packed.astype(int) - plain).max() <= 1
