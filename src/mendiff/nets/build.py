"""Builds diffusers networks from user settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from inspect import signature
from typing import Any

from mendiff.errors import InputError
from mendiff.nets.half_training import lay_out

LARGEST = 2**16
"""Largest allowed number of channels, layers or tokens."""


def build(kind: type, settings: Mapping[str, Any], where: str) -> Any:
    """Build a diffusers network with random weights.

    Args:
        kind: class of the network.
        settings: constructor arguments; names that begin with "_" (from config files) are ignored.
        where: name of the config field, for messages.

    Raises InputError for unknown names (diffusers itself would ignore them), for incompatible settings, and
    for sizes above LARGEST, which would exhaust the memory.
    """
    large = next((name for name, value in settings.items() if _largest(value) > LARGEST), None)
    if large is not None:
        raise InputError(f"{where}.{large}: expected numbers up to {LARGEST}, got {settings[large]}.")
    given = {name: value for name, value in settings.items() if not name.startswith("_")}
    known = list(signature(kind.__init__).parameters)[1:]  # type: ignore[misc]  # the constructor of this class
    unknown = sorted(given.keys() - known)
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]}?" if close else f" ({', '.join(known)})."
        raise InputError(
            f"{where}: expected settings of diffusers' {kind.__name__}, got {unknown[0]!r}{hint}"
        )
    try:
        network = kind(**given)
    except (TypeError, ValueError, ArithmeticError, LookupError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(
            f"{where}: expected valid settings of a {kind.__name__}, got invalid ones ({reason})."
        ) from error
    lay_out(network)
    return network


def _largest(value: Any) -> int:
    """The largest integer among a setting's values."""
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int) else 0
