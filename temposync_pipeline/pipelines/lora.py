"""LoRA adapters of the denoiser: a person's own way to move the mouth in a file of about 1 MB.

    pipe.load_lora_weights("runs/anna", adapter_name="anna")   # a folder, a file, a state dict, or org/name
    pipe.set_adapters("anna", 0.8)
    pipe.unload_lora_weights()

`set_adapters`, `disable_lora` and the rest are diffusers' (`LoraBaseMixin`). Needs peft: `pip install temposync-pipeline[lora]`.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..bases import LoraBaseMixin
from ..checkpoints.schema import check_header
from ..errors import InvalidInputError
from ..files import called, plain_write_errors
from ..limits import MAX_ADAPTER_CHANGE
from ..models.denoiser_temposync import TempoSyncDenoiser

COMPONENT = "denoiser"
WEIGHT_NAME, _METADATA = "pytorch_lora_weights.safetensors", "lora_adapter_metadata"  # as diffusers calls them
_TENSOR = re.compile(rf"{COMPONENT}\.(.+)\.lora_([AB])\.weight")
_STRONGEST = 10_000
# What an adapter's file says of itself that its tensors say, too, and what changes nothing once it is trained.
_OF_THE_TENSORS = {"r", "rank_pattern", "target_modules"}
_OF_NO_EFFECT = {"lora_dropout", "inference_mode", "init_lora_weights", "peft_type", "peft_version", "task_type", "revision",
                 "base_model_name_or_path", "auto_mapping"}
# What of a denoiser an adapter adapts: all that mixes channels, but for the layers at both ends.
TARGET_MODULES = ("conv1", "conv2", "modulation", "to_qkv", "to_out", "identity_embedding")


class LoraLoaderMixin(LoraBaseMixin):
    """diffusers' LoRA methods for a pipeline with a `denoiser`."""

    _lora_loadable_modules = [COMPONENT]

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | PathLike | dict[str, torch.Tensor], *, weight_name: str | None = None,
        **hub_options: Any,
    ) -> tuple[dict[str, torch.Tensor], dict | None]:
        """The tensors of an adapter ("denoiser.….lora_A.weight") and its metadata; only safetensors are ever read, those of the Hub only
        with their published hash.

        Raises InvalidInputError, and ConnectionError where the Hub cannot be reached.
        """
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, dict):
            return source, None
        path = _adapter_file(source, weight_name, **hub_options)
        try:
            check_header(path)
            with safe_open(path, "pt") as file:
                tensors, said = {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(_METADATA)  # noqa: SIM118
            return tensors, json.loads(said) if said else None
        except InvalidInputError:
            raise
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            raise InvalidInputError(f"{path.name}: no readable safetensors file of an adapter") from error

    def load_lora_weights(
        self, pretrained_model_name_or_path_or_dict: str | PathLike | dict[str, torch.Tensor], adapter_name: str | None = None,
        hotswap: bool = False, **options: Any,
    ) -> None:
        """Load an adapter into the denoiser and use it.

        Args:
            pretrained_model_name_or_path_or_dict: a file, a folder that `save_lora_weights` wrote, org/name on the Hub, or tensors.
            adapter_name: to tell several apart. hotswap: take the place of the adapter of that name.
            options: `weight_name`, `revision`, `subfolder`, `cache_dir`, `token`, `local_files_only`, `force_download`, as everywhere.

        Raises:
            InvalidInputError: peft is not installed, or the file is no adapter, damaged, or made for another denoiser.
        """
        check_peft()
        if self.runtime != "torch":  # type: ignore[attr-defined]
            raise InvalidInputError('adapters need runtime="torch"')
        source = pretrained_model_name_or_path_or_dict
        label = "the adapter" if isinstance(source, dict) else called(source)
        tensors, metadata = self.lora_state_dict(source, **options)
        denoiser: torch.nn.Module = self.denoiser  # type: ignore[attr-defined]
        try:
            settings = _peft_settings(_ranks(tensors, denoiser), {} if metadata is None else metadata)
            _check_change(tensors, settings, denoiser)
        except ValueError as error:
            raise InvalidInputError(f"{label}: {error}") from error
        try:
            self.denoiser.load_lora_adapter(  # type: ignore[attr-defined]
                tensors, prefix=COMPONENT, adapter_name=adapter_name, metadata=settings, _pipeline=self, hotswap=hotswap)
        except (RuntimeError, ValueError) as error:
            raise InvalidInputError(f"{label}: cannot be loaded: {str(error).splitlines()[0]}") from error

    def fuse_lora(self, components: Sequence[str] = (COMPONENT,), **options: Any) -> None:
        """Add the active adapters to the denoiser's own weights, which saves their time; arguments as in diffusers."""
        super().fuse_lora(components=list(components), **options)

    def unfuse_lora(self, components: Sequence[str] = (COMPONENT,), **options: Any) -> None:
        """Undo `fuse_lora`."""
        super().unfuse_lora(components=list(components), **options)

    @classmethod
    def save_lora_weights(
        cls, save_directory: str | PathLike, denoiser_lora_layers: dict[str, torch.Tensor] | torch.nn.Module,
        weight_name: str | None = None, denoiser_lora_adapter_metadata: dict | None = None,
    ) -> None:
        """Write an adapter's tensors (peft's `get_peft_model_state_dict(denoiser)`) as `pytorch_lora_weights.safetensors` into a folder."""
        cls._save_lora_weights(
            save_directory=save_directory, lora_layers={COMPONENT: denoiser_lora_layers},
            lora_metadata={COMPONENT: denoiser_lora_adapter_metadata}, weight_name=weight_name, safe_serialization=True)


def _adapter_file(
    source: str | PathLike, weight_name: str | None, *, subfolder: str | None = None, proxies: None = None, **hub_options: Any
) -> Path:
    """Where an adapter lies: a file, a folder's, or one of the Hub, which is fetched; raises InvalidInputError."""
    if unknown := sorted(set(hub_options) - {"revision", "cache_dir", "token", "local_files_only", "force_download"}):
        raise InvalidInputError(f"load_lora_weights does not know {', '.join(unknown)}")
    if weight_name is None and Path(source).is_file():
        folder, name = Path(source).parent, Path(source).name
    else:
        folder, name = Path(source), weight_name or WEIGHT_NAME
    if not name.endswith(".safetensors"):
        raise InvalidInputError(f"{name}: no readable safetensors file of an adapter, and no other kind is ever read")
    inside = f"{subfolder}/{name}" if subfolder else name
    if not folder.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        from ..checkpoints.hub import download_checkpoint

        folder = download_checkpoint(str(source), (), extra={inside.partition("/")[0]}, **hub_options)
    if not (folder / inside).is_file():
        raise InvalidInputError(f"{called(source)}: no readable safetensors file of an adapter ({inside})")
    return folder / inside


def _ranks(tensors: Mapping[str, torch.Tensor], denoiser: torch.nn.Module) -> dict[str, int]:
    """{layer: rank} of an adapter; raises ValueError where it does not fit the denoiser."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise ValueError("not a LoRA adapter of a TempoSync denoiser")
        if not tensor.is_floating_point():
            raise ValueError(f"weights of the kind {str(tensor.dtype).removeprefix('torch.')}, expected floating-point numbers")
        if not tensor.float().isfinite().all():
            raise ValueError("weights that are not finite")
        parts.setdefault(match[1], {})[match[2]] = tensor
    if not parts:
        raise ValueError("not a LoRA adapter of a TempoSync denoiser")
    ranks = {}
    for layer, pair in parts.items():
        shape = _weight_shape(denoiser, layer)
        if len(shape) < 2:
            raise ValueError(f"made for another denoiser, this one has no layer {ascii(layer)[:60]} to adapt")
        rank = len(pair["A"]) if "A" in pair and pair["A"].ndim else 0
        sizes = {"A": (rank, *shape[1:]), "B": (shape[0], rank, *[1] * (len(shape) - 2))}
        if not rank or {part: tuple(tensor.shape) for part, tensor in pair.items()} != sizes:
            raise ValueError("made for another denoiser, whose layers have other sizes")
        ranks[layer] = rank
    return ranks


def _check_change(tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any], denoiser: torch.nn.Module) -> None:
    """Raises ValueError where what an adapter adds to a layer is out of all proportion to the layer's own weights, or, where those are
    small, to what a fresh layer would have."""
    said = {key.removeprefix(f"{COMPONENT}."): value for key, value in settings.items()}
    for name, down in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match[2] != "A":
            continue
        a, b = (part.double().flatten(1) for part in (down, tensors[f"{COMPONENT}.{match[1]}.lora_B.weight"]))
        strength = said["lora_alpha"] / (len(a) ** 0.5 if said["use_rslora"] else len(a))
        # Root mean square of the product, which need not be made for it.
        added = strength * float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt()) / (len(b) * a.shape[1]) ** 0.5
        own = _typical_weight(denoiser.get_submodule(match[1]), a.shape[1])
        if not added <= MAX_ADAPTER_CHANGE * own:
            raise ValueError(f"adds {added / own:.1e} times a layer's own weights to it, above the limit of {MAX_ADAPTER_CHANGE:g} times")


def _typical_weight(module: torch.nn.Module, inputs: int) -> float:
    """Root mean square of a layer's weights, but at least that of a fresh one; of a quantised or offloaded layer that of a fresh one."""
    weight, fresh = getattr(getattr(module, "base_layer", module), "weight", None), (3 * inputs) ** -0.5
    if weight is None or weight.is_meta or not weight.is_floating_point():
        return fresh
    return max(fresh, float(weight.detach().float().square().mean().sqrt()))


def _weight_shape(denoiser: torch.nn.Module, layer: str) -> tuple[int, ...]:
    """Of a layer that may have an adapter already, and be quantised; () where there is no such layer."""
    try:
        module = denoiser.get_submodule(layer)
    except AttributeError:
        return ()
    if {"base_layer", "lora_A", "lora_B"} & {*layer.split(".")}:
        return ()
    module = getattr(module, "base_layer", module)
    if isinstance(module, torch.nn.Linear):
        return module.out_features, module.in_features
    return tuple(getattr(module, "weight", torch.empty(())).shape)


def _peft_settings(ranks: Mapping[str, int], metadata: Any) -> dict[str, Any]:
    """What peft is told of an adapter: layers and ranks are those of its tensors, only how strong they are may a file say.

    Raises ValueError for a setting that is neither that nor as peft has it by itself.
    """
    from peft import LoraConfig

    if not isinstance(metadata, dict):
        raise ValueError("its settings are no JSON object")
    said = {key.removeprefix(f"{COMPONENT}."): value for key, value in metadata.items()}
    usual = LoraConfig().to_dict() | {"loftq_config": {}, "init_lora_weights": True}
    for key, value in said.items():
        if key not in _OF_THE_TENSORS | _OF_NO_EFFECT | {"lora_alpha", "use_rslora"} and value and value != usual.get(key):
            raise ValueError(f"made with {ascii(key)[:60]}, which is not supported here")
    rank = max(ranks.values())
    strength, is_stabilised = said.get("lora_alpha", rank), said.get("use_rslora", False)
    if type(strength) not in (int, float) or not 0 <= strength <= _STRONGEST or type(is_stabilised) is not bool:
        raise ValueError(f"lora_alpha and use_rslora should be a number of 0 to {_STRONGEST} and true or false")
    layers = {f"^{re.escape(layer)}": number for layer, number in ranks.items() if number != rank}
    settings = {"r": rank, "lora_alpha": strength, "use_rslora": is_stabilised, "target_modules": sorted(ranks), "rank_pattern": layers}
    return {f"{COMPONENT}.{key}": value for key, value in settings.items()}


def add_lora(denoiser: TempoSyncDenoiser, rank: int) -> None:
    """Freeze a denoiser and give it a fresh adapter of that rank, which changes nothing yet, to be trained."""
    check_peft()
    from peft import LoraConfig

    denoiser.requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGET_MODULES)))


def save_lora(denoiser: TempoSyncDenoiser, folder: str | PathLike) -> None:
    """Write a denoiser's adapter, as `LoraLoaderMixin.load_lora_weights` reads it."""
    from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
    from peft.utils import get_peft_model_state_dict

    config = denoiser.peft_config["default"].to_dict()
    metadata = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    tensors = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(denoiser).items()}
    # Under a hidden name first, so that a file of this name is always whole.
    staged = f".{LORA_WEIGHT_NAME_SAFE}"
    try:
        with plain_write_errors(Path(folder)):
            LoraLoaderMixin.save_lora_weights(folder, tensors, staged, denoiser_lora_adapter_metadata=metadata)
        os.replace(Path(folder) / staged, Path(folder) / LORA_WEIGHT_NAME_SAFE)
    finally:
        (Path(folder) / staged).unlink(missing_ok=True)


def check_peft() -> None:
    """Raises InvalidInputError where peft is not installed."""
    from diffusers.utils import is_peft_available

    if not is_peft_available():
        raise InvalidInputError("LoRA adapters need peft: pip install temposync-pipeline[lora]")
