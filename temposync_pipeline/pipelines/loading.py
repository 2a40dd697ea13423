"""From a checkpoint's folder to the pipeline's components.

The classes come from the pipeline's own signature, never from a file, and no code of a repository is run: `model_index.json` must agree
with what is expected, or the checkpoint is refused.
"""

from collections.abc import Iterable, Mapping
from inspect import Parameter, signature
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, get_args, get_type_hints

import torch

from ..bases import ModelMixin
from ..checkpoints import checkpoint_folder, component_folder
from ..checkpoints.files import INDEX, weight_files
from ..checkpoints.schema import check_component, check_header, read_json
from ..errors import InvalidInputError
from ..files import called
from ..limits import MAX_WEIGHT
from ..terminal import shown

if TYPE_CHECKING:
    from diffusers import PipelineQuantizationConfig

DTypes: TypeAlias = torch.dtype | Mapping[str, torch.dtype]
# What diffusers' own loaders are told, beside `device_map`, `max_memory` and `quantization_config`.
LOADER_OPTIONS = ("low_cpu_mem_usage", "offload_folder", "offload_state_dict")
DeviceMap: TypeAlias = str | Mapping[str, int | str | torch.device]


def load_pipeline_parts(
    pipeline_class: type,
    name: str | PathLike,
    *,
    subfolders: Mapping[str, str],
    given: Iterable[str],
    dtype: DTypes = torch.float32,
    variant: str | None = None,
    device_map: str | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    quantization_config: "PipelineQuantizationConfig | None" = None,
    loader_options: Mapping[str, Any] | None = None,
    **hub_options,
) -> tuple[dict[str, Any], DeviceMap | None, Path]:
    """What `pipeline_class` is to be called with, where its components were put, and the folder that they come from.

    What can be wrong with the arguments and the files is found before the first component is loaded.

    Args:
        name: a bundled name, a directory, or org/name. subfolders: {component: folder} where they differ. given: arguments not to load.
        dtype: of all weights, or {component: dtype}, where "default" stands for those not named.
        device_map: "balanced", or the device for all components; max_memory: {device: bytes or "10GB"} for "balanced".
        quantization_config, loader_options: of diffusers; see `HubPipeline.from_pretrained`.
        variant, hub_options: see `checkpoints.hub.download_checkpoint`.

    Raises:
        InvalidInputError: a checkpoint that does not fit, damaged or non-finite weights. ConnectionError: the Hub cannot be reached.
    """
    loader_options = dict(loader_options or {})
    check_loader_options(device_map, quantization_config, loader_options)
    folder = checkpoint_folder(name, (), **hub_options)
    label = called(folder.absolute()) if Path(name).is_dir() else str(name)  # a message names no folders of this machine
    listed, settings = _read_index(pipeline_class, folder, label)
    given = set(given)
    required = {part for part in component_classes(pipeline_class) if signature(pipeline_class).parameters[part].default is Parameter.empty}
    if missing := sorted(required - given - set(listed)):
        raise InvalidInputError(f"{label}: {INDEX} lacks {', '.join(missing)}")
    listed = {part: part_class for part, part_class in listed.items() if part not in given}
    subfolders = {part: subfolders.get(part, part) for part in listed}
    folder = checkpoint_folder(name, subfolders.values(), variant=variant, **hub_options)
    folders = {part: component_folder(folder, subfolders[part]) for part in listed}
    placed = place_components(device_map, folders, max_memory)
    parts = {}
    for part, part_class in listed.items():
        part_dtype = dtype.get(part, dtype.get("default", torch.float32)) if isinstance(dtype, Mapping) else dtype
        options = loader_options | _quantization(quantization_config, part, part_class)
        parts[part] = load_component(
            part_class, folders[part], label, part_dtype, variant, (placed or {}).get(part), options)
    return settings | parts, device_map if device_map != "balanced" else placed, folder


def load_component(
    part_class: Any, folder: Path, label: str, dtype: torch.dtype = torch.float32, variant: str | None = None,
    device: int | str | None = None, options: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """One component from its folder, every file of which is checked first; `label` is what messages call the checkpoint.

    Raises InvalidInputError for a configuration that is not one of a `part_class` and for weights that do not fit it or are not finite.
    """
    try:
        return _load(part_class, folder, dtype, variant, device, options)
    except Exception as error:  # of json, safetensors, torch, diffusers or transformers: whatever a broken file leads to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(str(folder.parent), label)
        raise InvalidInputError(f"{label}: {folder.name!r} cannot be loaded: {reason}") from error


def check_loader_options(device_map: str | None, quantization_config: Any, loader_options: Mapping[str, Any]) -> None:
    """Raises InvalidInputError for what diffusers would refuse, as it would, but before anything is loaded."""
    if device_map is not None and device_map != "balanced":
        try:
            torch.device(device_map)
        except (RuntimeError, TypeError) as error:
            raise InvalidInputError(f'device_map: {device_map!r}, expected "balanced" or the name of a device') from error
    if device_map is not None and loader_options.get("low_cpu_mem_usage") is False:
        raise InvalidInputError("low_cpu_mem_usage=False cannot go with a device_map")
    if quantization_config is not None:
        from diffusers import PipelineQuantizationConfig

        if not isinstance(quantization_config, PipelineQuantizationConfig):
            raise InvalidInputError(f"quantization_config: a {type(quantization_config).__name__}, expected a PipelineQuantizationConfig")


def place_components(
    device_map: str | None, folders: Mapping[str, Path], max_memory: Mapping[int | str, int | str] | None
) -> dict[str, int | str] | None:
    """{component: device}: one for all, or, "balanced", spread over the accelerators by size; None where there is none to spread over."""
    if device_map is None:
        return None
    sizes = {part: sum(path.stat().st_size for path in folder.glob("*.safetensors")) for part, folder in folders.items()}
    if device_map != "balanced":
        return dict.fromkeys(folders, device_map)
    from accelerate.utils import get_max_memory
    from diffusers.pipelines.pipeline_loading_utils import _assign_components_to_devices

    memory = {device: size for device, size in get_max_memory(max_memory).items() if device != "cpu"}
    if not memory:
        return None
    largest_first = {part: sizes[part] for part in sorted(sizes, key=sizes.get, reverse=True) if sizes[part]}
    devices = _assign_components_to_devices(largest_first, dict(sorted(memory.items(), key=lambda item: item[1], reverse=True)))
    if "cpu" in devices:
        raise InvalidInputError(f"max_memory: no accelerator has room for {', '.join(devices['cpu'])}")
    return {part: device for device, parts in devices.items() for part in parts}


def _quantization(config: "PipelineQuantizationConfig | None", part: str, part_class: type) -> dict[str, Any]:
    """What the pipeline's quantization says of one component."""
    if config is None or not issubclass(part_class, torch.nn.Module):
        return {}
    own = config._resolve_quant_config(is_diffusers=issubclass(part_class, ModelMixin), module_name=part)
    return {} if own is None else {"quantization_config": own}


def component_classes(pipeline_class: type) -> dict[str, type]:
    """{name: class} of the constructor's arguments that are loaded from folders of their own, optional ones included."""
    hints = get_type_hints(pipeline_class.__init__)
    return {name: kind for name, hint in hints.items() for kind in (get_args(hint) or (hint,)) if hasattr(kind, "from_pretrained")}


def _read_index(pipeline_class: type, folder: Path, name: str) -> tuple[dict[str, type], dict[str, Any]]:
    """The components to load with their classes, and the plain settings, of model_index.json."""
    try:
        entries = {key: value for key, value in read_json(folder / INDEX).items() if not key.startswith("_")}
    except (OSError, InvalidInputError) as error:
        raise InvalidInputError(f"{name}: no readable {INDEX}") from error
    hints, classes = get_type_hints(pipeline_class.__init__), component_classes(pipeline_class)
    listed, settings = {}, {}
    for key, value in entries.items():
        if key not in hints:
            raise InvalidInputError(f"{name}: {INDEX} has {shown(key)}, which {pipeline_class.__name__} does not know; a newer version may")
        if key not in classes:
            settings[key] = _checked(value, hints[key], f"{name}: {key!r} in {INDEX}")
        elif not isinstance(value, list) or len(value) != 2 or value[1] not in (None, classes[key].__name__):
            raise InvalidInputError(f"{name}: {key!r} in {INDEX} is {shown(value)}, expected a {classes[key].__name__}")
        elif value[1] is not None:
            listed[key] = classes[key]
    return listed, settings


def _checked(value: Any, hint: Any, where: str) -> Any:
    expected = get_args(hint) or (hint,)
    if type(value) in expected or (type(value) is int and float in expected):
        return value
    raise InvalidInputError(f"{where} is {shown(value)}, expected {getattr(hint, '__name__', hint)}")


def _load(
    part_class: Any, folder: Path, dtype: torch.dtype, variant: str | None, device: int | str | None, options: Mapping[str, Any]
) -> Any:
    if not issubclass(part_class, torch.nn.Module):
        check_component(part_class, folder)
        return part_class.from_pretrained(folder, local_files_only=True)
    names = [path.name for path in folder.iterdir()]
    of_variant = weight_files(names, variant)
    weights = [folder / name for name in sorted({*(of_variant or weight_files(names)), *_shards(folder)} & {*names})]
    for path in weights:
        check_header(path)
    check_component(part_class, folder, weights)
    placement = {} if device is None else {"device_map": {"": device}}
    model, report = part_class.from_pretrained(
        folder, variant=variant if of_variant else None, dtype=dtype, use_safetensors=True, local_files_only=True,
        output_loading_info=True, **placement, **options)
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if wrong:
        raise ValueError(f"its weights do not fit its config.json ({len(wrong)} of them, {wrong[0]} first)")
    _check_weights(model)
    if isinstance(device, int):  # of several accelerators: what comes from another one is moved
        from accelerate import dispatch_model

        dispatch_model(model, device_map={"": device}, force_hooks=True)
    return model


def _check_weights(model: torch.nn.Module) -> None:
    """Raises ValueError for weights that are not finite, or so large that what is computed with them would not be."""
    for name, tensor in model.state_dict().items():
        if tensor.is_meta or not tensor.numel():
            continue
        if not tensor.isfinite().all():
            raise ValueError("weights that are not finite")
        if tensor.is_floating_point() and (largest := tensor.abs().max().float()) > MAX_WEIGHT:
            raise ValueError(f"weights of up to {largest:.1e} ({name}), above the limit of {MAX_WEIGHT:g}")


def _shards(folder: Path) -> set[str]:
    """The files that the indices in a folder name; raises ValueError for any but safetensors beside them, which a library would load."""
    shards: set[str] = set()
    for index in folder.glob("*.safetensors.index*.json"):
        named = read_json(index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
            raise ValueError(f"{index.name}: no list of shards")
        shards |= set(named.values())
    if any(Path(shard).name != shard for shard in shards):
        raise ValueError("a shard outside its folder")
    if not all(shard.endswith(".safetensors") for shard in shards):
        raise ValueError("a shard that is no safetensors file")
    return shards
