"""Settings of a stage, from a YAML file and the command line to its dataclass `Config`."""

import math
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from ..errors import InvalidInputError
from ..files import read_bounded
from ..limits import MAX_CONFIG_BYTES

# YAML's anchors may make a short file a value without end.
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 100, 100


def read_settings(config: Path | None, settings: list[str]) -> dict[str, Any]:
    """The settings of a YAML file (None: none), then each KEY=VALUE; raises InvalidInputError for anything else."""
    values: dict[str, Any] = {}
    if config:
        values = _parsed(read_bounded(config, MAX_CONFIG_BYTES), config.name) or {}
        if not isinstance(values, dict):
            raise InvalidInputError(f"{config.name}: not a list of KEY: VALUE settings")
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InvalidInputError(f"--set {setting}: expected KEY=VALUE")
        values[key] = _parsed(value, f"--set {key}")
    return values


def _parsed(content: bytes | str, name: str) -> Any:
    """What YAML makes of it; raises InvalidInputError, naming the file or option."""
    try:
        return yaml.safe_load(content if isinstance(content, str) else content.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name}: a number of too many digits, a date that is none, or too many brackets") from error


def build_config(config_class: type, values: dict[str, Any]) -> Any:
    """An instance of the stage's dataclass, each value in the type of the default that it replaces; raises InvalidInputError.

    `max_minutes` alone ends the run by the clock, whatever the stage's default of `max_steps`.
    """
    known, kinds = {field.name: field.default for field in fields(config_class)}, get_type_hints(config_class)
    for key in values:
        if key not in known:
            close = get_close_matches(str(key), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
            raise InvalidInputError(f"{key}: not a setting of this stage; {hint}")
    if "max_minutes" in values:
        values = {"max_steps": 0} | values  # a stage's own number of steps gives way
    config = config_class(**{
        key: _as_collection(kinds[key], key, value) if get_origin(kinds[key]) in (dict, list) else _as_type(known[key], key, value)
        for key, value in values.items()})
    if "max_steps" in values and config.max_steps == 0 and "max_minutes" not in values:
        raise InvalidInputError("max_steps: 0 leaves the end to max_minutes, so set that as well")
    return config


def _as_collection(hint: Any, key: str, value: Any) -> Any:
    """A list of names, or a dictionary of shares, of its hint's types; raises InvalidInputError for shares that draw nothing."""
    kind, parts = get_origin(hint), [part() for part in get_args(hint)]
    if not isinstance(value, kind):
        expected = "names, as [one, another]" if kind is list else "shares, as {one: 0.4, another: 0.6}"
        raise InvalidInputError(f"{key}: {_SHORT.repr(value)}, expected {expected}")
    if kind is list:
        return [_as_type(parts[0], key, each) for each in value]
    shares = {_as_type(parts[0], key, name): _as_type(parts[1], f"{key}, {name}", share) for name, share in value.items()}
    if not all(0 <= share < math.inf for share in shares.values()) or not any(shares.values()):
        raise InvalidInputError(f"{key}: {_SHORT.repr(shares)}, expected shares of at least 0, and one above it")
    return shares


def _as_type(default: Any, key: str, value: Any) -> Any:
    """`value` as `default`'s type: YAML reads 1e-3 as text, 1 as a whole number, a tuple as a list, a bare no as False
    and nothing as None."""
    wanted = type(default)
    if wanted is str and value in (False, None):
        return "" if value is None else "no"
    if wanted not in (bool, int, float, str, tuple) or isinstance(value, wanted) and not isinstance(value, (bool, float)):
        return value
    try:
        if (wanted is bool) != isinstance(value, bool) or wanted is str and isinstance(value, (list, dict)):
            raise ValueError
        if wanted is int and float(value) != int(float(value)):
            raise ValueError
        if wanted is float and math.isnan(float(value)):
            raise ValueError
        return wanted(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"{key}: {_SHORT.repr(value)}, expected {wanted.__name__}") from error
