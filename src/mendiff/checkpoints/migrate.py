"""Migration of the config.json of model folders from earlier versions."""

from __future__ import annotations

import copy
from typing import Any

from mendiff.errors import InputError
from mendiff.methods.base import find_method

OLDEST = 1
FIELDS_1 = ("format", "version", "mendiff", "method", "config", "info")
ALWAYS = ("image_size", "crop", "training")
"""Config fields that all methods had in version 1."""
WITHOUT_EFFECT = (
    *("turn", "hint_anomalies", "feature_weight", "stop_rate", "codec.train", "guide.initial_fusion"),
    *(f"synthesis.{name}" for name in ("threshold", "max_exponent", "max_blend", "grid")),
    *("gradient.first_beta", "gradient.last_beta"),
)
"""Options of version 2 that are gone, of training and calibration: a fitted model needs none of them."""
ONLY = {"readout.combine": "sum", "gradient.schedule": "constant"}
"""Options of version 2 that are gone, and their only value that a model can still be opened with."""
MOST_VARIANTS = 2**31 / 1e9
"""Gigabytes that version 2 kept of GLAD's variants."""


def migrated(config: dict[str, Any], where: str) -> dict[str, Any]:
    """Convert the content of a config.json of any earlier version to the current one; writes nothing.

    Args:
        config: content of a version from OLDEST on.
        where: the folder, for messages.
    """
    if config["version"] == 1:
        config = _from_1(config, where)
    return _from_2(config, where) if config["version"] == 2 else config


def _from_1(config: dict[str, Any], where: str) -> dict[str, Any]:
    """Migrate version 1, which has no hashes: only the field names can be checked.

    Missing fields of a method take their defaults, because some fields were added during version 1. Fields
    that all methods share must be present.
    """
    strange = sorted(config.keys() - set(FIELDS_1))
    if strange:
        raise InputError(
            f"{where}: config.json: expected the fields {', '.join(FIELDS_1)}, got {strange[0]!r}; it was "
            "changed: copy the model folder again, or fit it again."
        )
    known = config.get("config")
    missing = [name for name in ALWAYS if isinstance(known, dict) and name not in known]
    if missing:
        raise InputError(f"{where}: config.json: config lacks the field {missing[0]!r}; fit the model again.")
    return {**config, "version": 2, "files": {}}


def _from_2(config: dict[str, Any], where: str) -> dict[str, Any]:
    """Version 3 has the same names in the configs of all methods, and fewer options."""
    settings = copy.deepcopy(config["config"])
    if isinstance(settings, dict):
        for name in WITHOUT_EFFECT:
            _taken(settings, name)
        for name, only in ONLY.items():
            value = _taken(settings, name, only)
            if value != only:
                raise InputError(
                    f"{where}: config.json: config.{name}: expected {only!r}, the only choice that is left, "
                    f"got {value!r}; fit the model again."
                )
        if config["method"] == "diad":
            settings.pop("synthesis", None)
        _convert_values(settings)
        kind = find_method(config["method"], f"{where}: config.json: method").Config
        for old, new in kind.RENAMED.items():
            value = _taken(settings, old, ...)
            if value is not ...:
                _put(settings, new, value)
    return {**config, "version": 3, "config": settings}


def _convert_values(settings: dict[str, Any]) -> None:
    """Values of version 2 in the types of today's fields, still under their old names."""
    if type(settings.get("start")) is int:
        settings["start"] = [settings["start"]]
    if isinstance(settings.get("by_place"), bool):
        settings["by_place"] = None if settings["by_place"] else 0
    for group, name in (("readout", "enlarge"), ("training", "cache_latents")):
        inside = settings.get(group)
        if isinstance(inside, dict) and isinstance(inside.get(name), bool):
            inside[name] = int(inside[name])
            if name == "cache_latents" and settings.get("variants"):
                inside[name] = MOST_VARIANTS


def _taken(settings: dict[str, Any], dotted: str, missing: Any = None) -> Any:
    """Take a value out of nested dictionaries by its dotted name; `missing` where there is none."""
    *parents, last = dotted.split(".")
    place: Any = settings
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    return place.pop(last, missing) if isinstance(place, dict) else missing


def _put(settings: dict[str, Any], dotted: str, value: Any) -> None:
    """Put a value into nested dictionaries by its dotted name."""
    *parents, last = dotted.split(".")
    place: Any = settings
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if isinstance(place, dict):
        place[last] = value
