"""Networks of diffusers from settings that a person may have typed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from inspect import signature
from typing import Any

from mendiff.errors import InputError
from mendiff.nets.half_training import lay_out

LARGEST = 2**16
"""Number of channels, layers or tokens that a network may have."""


def build(kind: type, settings: Mapping[str, Any], where: str) -> Any:
    """A network of diffusers, with fresh weights.

    Args:
        kind: its class.
        settings: of its constructor; names that begin with "_", as its config files have them, are left out.
        where: for messages: the config field that holds them.

    Raises InputError for a name that the class doesn't know, which diffusers itself would leave out, for
    settings that don't go together, and for sizes beyond LARGEST, which would fill any memory.
    """
    large = next((name for name, value in settings.items() if _largest(value) > LARGEST), None)
    if large is not None:
        raise InputError(f"{where}.{large}: expected numbers up to {LARGEST}, got {settings[large]}.")
    given = {name: value for name, value in settings.items() if not name.startswith("_")}
    known = list(signature(kind.__init__).parameters)[1:]  # type: ignore[misc]  # its own, not another's
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
            f"{where}: expected settings that make a {kind.__name__}, got some that do not ({reason})."
        ) from error
    lay_out(network)
    return network


def _largest(value: Any) -> int:
    """The largest whole number among a setting's values."""
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int) else 0
