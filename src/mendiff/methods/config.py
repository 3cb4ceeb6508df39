"""Strict conversion of config dataclasses to JSON-compatible dictionaries and back."""

from __future__ import annotations

import copy
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mendiff.errors import InputError

Config = TypeVar("Config")
LARGEST = 2**63 - 1
"""Largest absolute value of an integer field, torch's int64."""


def config_to_dict(config: Any) -> dict[str, Any]:
    """Convert a config dataclass or a mapping to nested dictionaries; tuples become lists, as in JSON."""
    plain: dict[str, Any] = _plain(config)
    return plain


def config_from_dict(kind: type[Config], data: Any, where: str = "config") -> Config:
    """Build the config dataclass `kind` from nested dictionaries; missing fields have their defaults.

    Args:
        kind: a frozen dataclass of numbers, strings, booleans, tuples, dictionaries and dataclasses.
        data: field names to values.
        where: path of the field, for messages.

    Raises:
        InputError: for an unknown or missing field, a wrong type, and a number that is not finite or has more
            than 64 bits.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: expected a group of fields, got {data!r}.")
    hints = _hints_of(kind)  # type: ignore[arg-type]
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(names))
    if unknown:
        _refuse_renamed(kind, unknown[0])
        raise InputError(f"{where}: expected some of {', '.join(names)}, got {unknown[0]!r}.")
    missing = [field.name for field in fields(kind) if field.name not in data and _is_required(field)]  # type: ignore[arg-type]
    if missing:
        raise InputError(f"{where}: expected the field {missing[0]!r}, but it is missing.")
    values = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    return kind(**values)


@cache
def _hints_of(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    return get_type_hints(kind)


def _refuse_renamed(kind: type, name: str) -> None:
    """Raise InputError with the current name of a field for its name in an earlier version."""
    new = getattr(kind, "RENAMED", {}).get(name)
    if new:
        raise InputError(f"{name}: expected {new}; the field was renamed.")


def _is_required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a config with some fields replaced, by dotted name: {"training.steps": 100}."""
    data = config_to_dict(config)
    for dotted, value in changes.items():
        _refuse_renamed(type(config), dotted)
        *parents, last = dotted.split(".")
        group: Any = data
        for parent in parents:
            group = group.get(parent) if isinstance(group, dict) else None
        if not isinstance(group, dict):
            raise InputError(f"--set: expected a field of the config such as training.steps, got {dotted!r}.")
        group[last] = copy.deepcopy(value)  # a later change may modify it
    return config_from_dict(type(config), data)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:  # the dataclass checks the choice
        return _convert(str, value, where)
    if hint is Any:
        return _checked(value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _convert(inner, value, where)
    if is_dataclass(hint):
        return config_from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list such as [1, 2], got {value!r}.")
        return origin(_convert(arguments[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a mapping, got {value!r}.")
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        _check_number(value, where)
        return float(value)
    if hint is str and isinstance(value, bool):
        raise InputError(
            f"{where}: expected a text, got {str(value).lower()} (yes, no, on and off mean true and false)."
        )
    if type(value) is not hint:
        raise InputError(f"{where}: expected {hint.__name__}, got {value!r}.")
    _check_number(value, where)
    return value


def _checked(value: Any, where: str) -> Any:
    """JSON-compatible data of any type, checked."""
    if isinstance(value, Mapping):
        return {str(key): _checked(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_checked(item, where) for item in value]
    if value is not None and not isinstance(value, str | bool | int | float):
        raise InputError(f"{where}: expected a text, a number, true, false or a list, got {value!r}.")
    _check_number(value, where)
    return value


def _check_number(value: Any, where: str) -> None:
    """Raise InputError for integers beyond 64 bits and for infinity and nan."""
    if isinstance(value, int) and abs(value) > LARGEST:
        digits = value.bit_length() * 0.30103
        raise InputError(f"{where}: expected a number of at most 18 digits, got one of {math.ceil(digits)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: expected a finite number, got {value}.")
