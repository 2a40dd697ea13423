"""Weights that rest in their files: networks that have done their part in a video make room for those that still have to."""

import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import InvalidInputError
from .packed import Conv2d

# Their weights belong to the layer around them, which is what is called.
_CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.ParameterList)
# What a CPU multiplies in bfloat16 where it is told to (`models.precision`).
_MULTIPLYING = (nn.Linear, nn.Conv1d, nn.Conv2d)


class WeightFiles:
    """The files that a network's weights came from, and can come from again.

    Args:
        places: {name of a tensor in the state dict: its safetensors file}. dtype: of the floating-point ones in memory.
    """

    def __init__(self, network: nn.Module, places: Mapping[str, Path], dtype: torch.dtype):
        self.places, self.dtype = places, dtype
        self._read_from = {path: _version(path) for path in set(places.values())}
        self._layers: dict[str, list[str]] = defaultdict(list)
        for name in places:
            layer = name.rpartition(".")[0]
            while isinstance(network.get_submodule(layer), _CONTAINERS):
                layer = layer.rpartition(".")[0]
            self._layers[layer].append(name)
        self._resting: dict[str, RemovableHandle] = {}
        self._lock = threading.Lock()

    @property
    def is_resting(self) -> bool:
        """Whether any layer's weights are in the files alone."""
        return bool(self._resting)

    def rest(self, network: nn.Module) -> None:
        """Let go of all weights; a layer that is called reads its own again, unless it has kept them in another form."""
        for layer in self._layers:
            self._rest(network, layer)

    def _rest(self, network: nn.Module, layer: str) -> None:
        def wake(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            if not (isinstance(module, Conv2d) and module.is_packed_for(*arguments)):
                self._wake(network, layer, _computed_in(module, self.dtype))

        with self._lock:
            if layer not in self._resting:
                for name in self._layers[layer]:
                    _put(network, name, torch.empty_like(_get(network, name), device="meta"))
                self._resting[layer] = network.get_submodule(layer).register_forward_pre_hook(wake)

    def wake(self, network: nn.Module) -> None:
        """Read what rests, and again what is not as it was loaded."""
        self.rest(network)
        for layer in self._layers:
            self._wake(network, layer, self.dtype)

    def _wake(self, network: nn.Module, layer: str, dtype: torch.dtype) -> None:
        with self._lock, torch.inference_mode(False):
            if layer not in self._resting:  # another thread was first
                return
            for path in {self.places[name] for name in self._layers[layer]}:
                if _version(path) != self._read_from[path]:
                    raise InvalidInputError(f"{path.parent.name}/{path.name}: changed while it was in use")
                with safe_open(path, "pt") as file:
                    for name in self._layers[layer]:
                        if self.places[name] == path:
                            weight = file.get_tensor(name)
                            _put(network, name, weight.to(dtype if weight.is_floating_point() else weight.dtype, copy=True))
            self._resting.pop(layer).remove()
            module = network.get_submodule(layer)
            if isinstance(module, Conv2d):
                module.let_go = lambda: self._rest(network, layer)


def _computed_in(layer: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """The format that the layer's weights are about to be multiplied in: autocast would convert them at every call."""
    fast = torch.is_autocast_enabled("cpu") and isinstance(layer, _MULTIPLYING)
    return torch.get_autocast_dtype("cpu") if fast else dtype


def _get(network: nn.Module, name: str) -> torch.Tensor:
    owner, _, own = name.rpartition(".")
    return getattr(network.get_submodule(owner), own)


def _put(network: nn.Module, name: str, weight: torch.Tensor) -> None:
    owner, _, own = name.rpartition(".")
    module = network.get_submodule(owner)
    if own in module._parameters:
        module._parameters[own] = nn.Parameter(weight, requires_grad=False)
    else:
        module._buffers[own] = weight


def _version(path: Path) -> tuple[Any, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
