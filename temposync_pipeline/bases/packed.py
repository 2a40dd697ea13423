"""Convolutions whose weights a CPU brings into its own order once for many calls.

oneDNN, by which torch convolves on a CPU, wants weights in an order of its own, into which they are brought at every call, and autocast
converts them at every call, too: for few frames that takes longer than some of the layers themselves.  While a `PackedWeights` is in use,
those of `Conv2d` are kept as they are multiplied.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

# Pictures for which the order of weights is chosen: that for a single one would be slow for several.
_USUAL_BATCH = 8

_current: ContextVar["PackedWeights | None"] = ContextVar("packed weights", default=None)
_Convolution = Callable[[torch.Tensor], torch.Tensor]


class PackedWeights:
    """Weights of the layers that are called while this is in use, as they were at the first call: to be kept no longer than they stay.

    Without `packing` layers compute as torch's do: for who looks into them.
    """

    def __init__(self, packing: bool = True) -> None:
        self._packing = packing
        self._convolutions: dict[tuple[Conv2d, torch.dtype], _Convolution | None] = {}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Block in which this thread's `Conv2d` layers compute with these."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def convolution(self, layer: "Conv2d", x: torch.Tensor) -> _Convolution | None:
        """The layer with packed weights, for inputs like x [B, C, H, W]; None where nothing is to be packed."""
        if not self._packing or torch.is_grad_enabled() or type(x) is not torch.Tensor or x.device.type != "cpu":
            return None
        if (key := (layer, _precision_of(x))) not in self._convolutions:
            can_pack = x.dim() == 4 and layer.weight.device.type == "cpu" and _onednn_computes(layer, key[1])
            self._convolutions[key] = _pack(layer, x.shape, key[1]) if can_pack else None
            if can_pack:
                layer.let_go()
        return self._convolutions[key]

    def holds(self, layer: "Conv2d", x: torch.Tensor) -> bool:
        """Whether it has what the layer computes x with."""
        return self._convolutions.get((layer, _precision_of(x))) is not None


class Conv2d(nn.Conv2d):
    """torch's layer; on a CPU, while a `PackedWeights` is in use, it computes with that, to the same numbers but for rounding.

    Attributes:
        let_go: is called when its weights have been packed; they are not needed for what `is_packed_for` says.
    """

    let_go: Callable[[], None] = staticmethod(lambda: None)

    def is_packed_for(self, x: torch.Tensor) -> bool:
        """Whether a `PackedWeights` in use has what it takes."""
        packed = _current.get()
        return packed is not None and packed.holds(self, x)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        packed = None if torch.compiler.is_compiling() else _current.get()
        convolution = packed and packed.convolution(self, input)
        return convolution(input) if convolution else super().forward(input)


def _precision_of(x: torch.Tensor) -> torch.dtype:
    """What a layer computes x in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _onednn_computes(layer: nn.Conv2d, dtype: torch.dtype) -> bool:
    """Whether torch was built with oneDNN, and that computes this at least as fast as torch."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return False
    return dtype == torch.float32 or dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _pack(layer: nn.Conv2d, shape: torch.Size, dtype: torch.dtype) -> _Convolution:
    """Convolves any number of inputs [B, C, H, W] of this shape, by operations that torch has for its own compiler."""
    geometry = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
    bias = None if layer.bias is None else layer.bias.to(dtype)
    weight = torch.ops.mkldnn._reorder_convolution_weight(layer.weight.to(dtype), *geometry, [_USUAL_BATCH, *shape[1:]])
    return lambda x: torch.ops.mkldnn._convolution_pointwise(x.to(dtype), weight, bias, *geometry, "none", [], "")
