"""Model folders of earlier versions: what their config.json said, as today's says it."""

from __future__ import annotations

from typing import Any

from mendiff.errors import InputError

OLDEST = 1
FIELDS_1 = ("format", "version", "mendiff", "method", "config", "info")
ALWAYS = ("image_size", "crop", "training")
"""What every method's config had from the first day on."""


def migrated(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The content of a config.json of any version up to today's, as today's has it; nothing is written.

    Args:
        config: of a version from OLDEST on.
        where: for messages: the folder.
    """
    return _from_1(config, where) if config["version"] == 1 else config


def _from_1(config: dict[str, Any], where: str) -> dict[str, Any]:
    """Version 1 has no hashes, so what can be told by the fields alone is checked here.

    Fields of a method's own that are missing take their defaults, as they always did: version 1 was also
    written before some of them came up. What every method's config has was always there.
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
