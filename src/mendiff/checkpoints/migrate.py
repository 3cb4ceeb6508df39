"""Migration of the config.json of model folders from earlier versions."""

from __future__ import annotations

from typing import Any

from mendiff.errors import InputError

OLDEST = 1
FIELDS_1 = ("format", "version", "mendiff", "method", "config", "info")
ALWAYS = ("image_size", "crop", "training")
"""Config fields that all methods had in version 1."""


def migrated(config: dict[str, Any], where: str) -> dict[str, Any]:
    """Convert the content of a config.json of any earlier version to the current one; writes nothing.

    Args:
        config: content of a version from OLDEST on.
        where: the folder, for messages.
    """
    return _from_1(config, where) if config["version"] == 1 else config


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
