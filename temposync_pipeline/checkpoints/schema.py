"""What the files of a checkpoint may say, checked before a library acts on it.

A config.json holds what the constructor of its class takes, in the types written there, and nothing else: libraries know further keys, some
of which name code to fetch and run. Weights must have the shapes that such a model has, which is found out without taking memory for it.
"""

import json
import math
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from safetensors import safe_open

from .. import startup
from ..errors import InvalidInputError
from ..files import check_is_file, read_bounded
from ..limits import MAX_CONFIG_BYTES, MAX_HEADER_BYTES, MAX_LAYERS
from ..terminal import shown

# What the libraries write into every config.json beside the constructor's arguments.
_WRITTEN = {"_class_name", "_diffusers_version", "_name_or_path"}
_WRITTEN_BY_TRANSFORMERS = {"architectures", "dtype", "model_type", "torch_dtype", "transformers_version"}
_LARGEST, _MOST_ENTRIES, _LONGEST = 10**6, 4096, 1000
_COUNTED = ("layers", "blocks")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises InvalidInputError, naming the file, for anything else, and OSError."""
    content = read_bounded(path, MAX_CONFIG_BYTES)
    try:
        value = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path.name}: not JSON") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path.name}: a number of too many digits, or too many brackets") from error
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path.name}: not a JSON object")
    return value


def check_header(path: Path) -> None:
    """Raises InvalidInputError where a safetensors file has a header above the limit (the format allows 100 MB), and OSError."""
    check_is_file(path)
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if MAX_HEADER_BYTES < size <= path.stat().st_size:  # one that is not there is for safetensors to notice
        raise InvalidInputError(f"{path.name}: a header of {size} bytes, above the limit of {MAX_HEADER_BYTES}")


def check_component(part_class: Any, folder: Path, weights: Iterable[Path] = ()) -> None:
    """Raises InvalidInputError where a component's config.json or its safetensors, by their headers, are not those of a `part_class`."""
    path = folder / getattr(part_class, "config_name", "config.json")
    config = read_json(path)
    if hasattr(part_class, "config_class") and part_class.config_class is not None:
        _check_transformers_config(part_class, config, path.name)
        return
    arguments = _check_diffusers_config(part_class, config, path.name)
    if weights:
        _check_shapes(part_class, arguments, weights)


def _check_diffusers_config(part_class: Any, config: dict[str, Any], name: str) -> dict[str, Any]:
    """The constructor's arguments among the config."""
    if config.get("_class_name", part_class.__name__) != part_class.__name__:
        raise InvalidInputError(f"{name}: for a {shown(config['_class_name'])}, expected a {part_class.__name__}")
    hints = get_type_hints(part_class.__init__)
    arguments = {key: value for key, value in config.items() if key not in _WRITTEN}
    for key, value in arguments.items():
        if key not in hints:
            raise InvalidInputError(f"{name}: {shown(key)}, which {part_class.__name__} does not know; a newer version may")
        if not _fits(value, hints[key]):
            expected = hints[key] if get_args(hints[key]) else hints[key].__name__
            raise InvalidInputError(f"{name}: {key!r} is {shown(value)}, expected {expected}")
        _check_count(name, key, value)
    return arguments


def _check_transformers_config(part_class: Any, config: dict[str, Any], name: str) -> None:
    """The class's own types are checked by transformers; what it would go and look for is not let through to it."""
    from . import BUNDLED, bundled_path

    # Versions of transformers differ in what they write: the bundled checkpoint's keys are known, too.
    bundled = json.loads((bundled_path(BUNDLED[0]) / "viseme_classifier" / name).read_text(encoding="utf-8"))
    # Where transformers is done without (`startup.lean`), nothing acts on a key but ours.
    known = config if startup.lean else {key for key in {*part_class.config_class().to_dict(), *bundled} if not key.startswith("_")}
    for key, value in config.items():
        if key not in {*known} | _WRITTEN | _WRITTEN_BY_TRANSFORMERS:
            raise InvalidInputError(f"{name}: {shown(key)}, which {part_class.__name__} does not know; a newer version may")
        if not _is_plain(value):
            raise InvalidInputError(f"{name}: {key!r} is {shown(value)}, which is no plain value")
        _check_count(name, key, value)


def _check_count(name: str, key: str, value: Any) -> None:
    counts = value if isinstance(value, list) else [value]
    if any(word in key for word in _COUNTED) and any(isinstance(count, int) and count > MAX_LAYERS for count in counts):
        raise InvalidInputError(f"{name}: {key!r} is {shown(value)}, above the limit of {MAX_LAYERS}")


def _check_shapes(part_class: Any, arguments: dict[str, Any], weights: Iterable[Path]) -> None:
    import torch  # not above: the names of checkpoints are looked at before torch is loaded

    with torch.device("meta"):
        expected = {key: list(tensor.shape) for key, tensor in part_class(**arguments).state_dict().items()}
    for path in weights:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                shape = file.get_slice(key).get_shape()
                if key in expected and shape != expected[key]:
                    raise InvalidInputError(f"{path.name}: {shown(key)} has the shape {shape}, its config.json wants {expected[key]}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a JSON file is what a constructor's argument is annotated with."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if hint is type(None) or hint is bool or hint is str:
        return isinstance(value, hint) and _is_plain(value)
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool) and _is_plain(value)
    if kind in (tuple, list) and isinstance(value, list) and len(value) <= _MOST_ENTRIES:
        if kind is list or inner[-1] is Ellipsis:
            return all(_fits(each, inner[0]) for each in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if kind is dict and isinstance(value, dict) and len(value) <= _MOST_ENTRIES:
        return all(_fits(key, inner[0]) and _fits(each, inner[1]) for key, each in value.items())
    return False


def _is_plain(value: Any) -> bool:
    """None, a truth value, a short text, a finite number of reasonable size, or a list of those."""
    if isinstance(value, list):
        return len(value) <= _MOST_ENTRIES and all(not isinstance(each, list) and _is_plain(each) for each in value)
    if isinstance(value, (int, float)):
        return math.isfinite(value) and abs(value) <= _LARGEST
    return value is None or isinstance(value, str) and len(value) <= _LONGEST
