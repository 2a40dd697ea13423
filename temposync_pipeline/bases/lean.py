"""Stand-ins for what our classes inherit from diffusers and transformers, reduced to loading a checkpoint and computing with it.

The names are the libraries' own. Weights are mapped from the file; nothing is initialised that is loaded.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import nn

from ..checkpoints.files import weight_files
from .resting import WeightFiles


class Config(dict):
    """Settings by key or by attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class ConfigMixin:
    """`config`, from the constructor's arguments or from a JSON file."""

    config_name = "config.json"
    config: Config

    def register_to_config(self, **settings: Any) -> None:
        self.config = Config(getattr(self, "config", {}) | settings)

    @classmethod
    def load_config(cls, folder: str | PathLike, subfolder: str = "", **_: Any) -> dict[str, Any]:
        return json.loads((Path(folder) / subfolder / cls.config_name).read_text(encoding="utf-8"))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        known = inspect.signature(cls).parameters
        return cls(**{name: value for name, value in config.items() if name in known})


def register_to_config(init: Callable) -> Callable:
    """Decorator of a constructor whose arguments become the `config`."""

    @wraps(init)
    def wrapped(self, *arguments: Any, **named: Any) -> None:
        bound = inspect.signature(init).bind(self, *arguments, **named)
        bound.apply_defaults()
        given = dict(list(bound.arguments.items())[1:])
        if isinstance(self, nn.Module):
            nn.Module.__init__(self)  # attributes of a module that is not initialised yet would be refused
        self.register_to_config(**given)
        init(self, *arguments, **named)

    return wrapped


def _read_weights(paths: Iterable[Path]) -> tuple[dict[str, torch.Tensor], dict[str, Path]]:
    """Tensors that lie in the files, mapped, not read; and the file of each."""
    tensors, places = {}, {}
    for path in paths:
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
            places |= dict.fromkeys(file.keys(), path)
    return tensors, places


class LoadedModule(nn.Module):
    """A network whose weights come from safetensors beside its config.json."""

    weight_files: WeightFiles | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.weight_files.dtype if self.weight_files else next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return group_offload_device(self) or next(self.parameters()).device

    def rest(self) -> None:
        """Leave the weights in their files until they are used again; of networks on a CPU alone."""
        if self.weight_files and self.device.type == "cpu":
            self.weight_files.rest(self)

    def state_dict(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        if self.weight_files and self.weight_files.is_resting:
            self.weight_files.wake(self)
        return super().state_dict(*arguments, **named)

    @classmethod
    def _from_settings(cls, settings: Mapping[str, Any]) -> Self:
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls, folder: str | PathLike, subfolder: str = "", *, variant: str | None = None, dtype: torch.dtype = torch.float32,
        output_loading_info: bool = False, **_: Any,
    ) -> Any:
        folder = Path(folder) / subfolder
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            model = cls._from_settings(settings)
        names = [path.name for path in folder.iterdir()]
        found, places = _read_weights(folder / name for name in weight_files(names, variant) or weight_files(names))
        expected = model.state_dict()
        report = {
            "missing_keys": sorted(set(expected) - set(found)), "unexpected_keys": sorted(set(found) - set(expected)),
            "mismatched_keys": [name for name in expected if name in found and expected[name].shape != found[name].shape]}
        if not any(report.values()):
            weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in found.items()}
            model.load_state_dict(weights, assign=True)
            model.weight_files = WeightFiles(model, places, dtype)
        elif not output_loading_info:
            raise ValueError(f"{folder.name}: its weights do not fit its config.json")
        model.eval()
        return (model, report) if output_loading_info else model


class ModelMixin(LoadedModule):
    """A model of diffusers' kind."""

    @classmethod
    def _from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls.from_config(settings)  # type: ignore[attr-defined]


class PreTrainedModel(LoadedModule):
    """A model of transformers' kind, whose constructor takes a `config_class`."""

    config_class: type

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    @classmethod
    def _from_settings(cls, settings: Mapping[str, Any]) -> Self:
        known = inspect.signature(cls.config_class).parameters
        return cls(cls.config_class(**{name: value for name, value in settings.items() if name in known}))

    def post_init(self) -> None:
        """Nothing to initialise."""


class SchedulerMixin:
    """A sampler with a scheduler_config.json."""

    config_name = "scheduler_config.json"

    @classmethod
    def from_pretrained(cls, folder: str | PathLike, **_: Any) -> Self:
        return cls.from_config(json.loads((Path(folder) / cls.config_name).read_text(encoding="utf-8")))  # type: ignore[attr-defined]


class DiffusionPipeline(ConfigMixin):
    """Components by name, all on one device."""

    def register_modules(self, **modules: Any) -> None:
        self._components = modules
        for name, module in modules.items():
            setattr(self, name, module)

    @property
    def components(self) -> dict[str, Any]:
        return dict(self._components)

    @property
    def device(self) -> torch.device:
        return next(module.device for module in self._components.values() if isinstance(module, nn.Module))

    _execution_device = device

    def to(self, device: str | torch.device) -> Self:
        for module in self._components.values():
            if isinstance(module, nn.Module):
                module.to(device)
        return self

    def set_progress_bar_config(self, **settings: Any) -> None:
        self._progress_bar_config = settings

    def maybe_free_model_hooks(self) -> None:
        """Nothing is offloaded."""


class AttentionModuleMixin:
    """Attention whose arithmetic a processor does."""

    def set_processor(self, processor: Callable) -> None:
        self.processor = processor


class AttentionMixin:
    """Nothing to choose between."""


class PeftAdapterMixin:
    """No adapters."""


class LoraBaseMixin:
    """No adapters."""


class BaseOutput:
    """A dataclass."""


class ModelOutput:
    """A dataclass."""


def strict(config_class: type) -> type:
    """Types are checked where a checkpoint is published."""
    return config_class


def apply_forward_hook(method: Callable) -> Callable:
    """Nothing is offloaded."""
    return method


def group_offload_device(model: nn.Module) -> torch.device | None:
    """Where a network computes whose weights rest in their files; None for others."""
    files = getattr(model, "weight_files", None)
    return torch.device("cpu") if files is not None and files.is_resting else None


def rest_weights(components: Iterable[Any]) -> None:
    """Leave the weights of all networks in their files until they are used again."""
    for network in components:
        if isinstance(network, LoadedModule):
            network.rest()


def dispatch_attention_fn(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
    """Softmax attention of [B, N, heads, D]."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
