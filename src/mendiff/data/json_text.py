"""JSON as text, all that the package writes and reads: no NaN, no infinity, no number beyond 64 bits."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mendiff.errors import InputError

LARGEST = 2**63 - 1
"""Whole number that JSON may hold here, either sign: torch takes no other."""
SEAL = "sha256"
"""The field of a JSON object that holds the hash of all others."""


def as_json(content: Any, what: str, indent: int | None = None) -> str:
    """JSON of plain data; all that the package writes or prints comes from here.

    Args:
        content: dictionaries, lists, texts, numbers, booleans and None.
        what: for messages: where it goes.
        indent: spaces per level; None writes one line.

    Raises:
        InputError: for NaN and infinity, which JSON has not: a metric that does not exist is None.
    """
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError as error:
        place = next(_not_finite(content, ""), None)
        if place is None:
            raise
        raise InputError(
            f"{what}: expected finite numbers to write, got {place[1]}{place[0] and f' as {place[0]}'}."
        ) from error


def parse_json(text: str | bytes, what: str) -> dict[str, Any]:
    """The JSON object in a text; see read_json and from_json. `what` is for messages: where it comes from."""
    try:
        data = from_json(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{what}: expected JSON, but it is damaged ({reason}).") from error
    if not isinstance(data, dict):
        raise InputError(f"{what}: expected a JSON object, got a {type(data).__name__}.")
    return data


def from_json(text: str | bytes) -> Any:
    """What JSON says, in UTF-8 where it is bytes.

    Raises ValueError or RecursionError for what is damaged, also for NaN, infinity, and numbers that no float
    or 64 bits can hold.
    """
    text = text.decode() if isinstance(text, bytes) else text
    return json.loads(text, parse_constant=_refuse, parse_float=_float, parse_int=_int)


def sealed(content: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A JSON object with a field more: the hash of all others, by which a change shows; see is_whole.

    Args:
        content: see as_json.
        what: see as_json.
    """
    text = as_json(content, what)
    try:
        plain = from_json(text)  # as it will be read, so that the hash is that of what will be read
    except ValueError as error:
        raise InputError(f"{what}: expected what JSON can hold ({error}).") from error
    return {**plain, SEAL: _hash_of(plain)}


def sha256_of_json(content: Any, what: str) -> str:
    """SHA-256, in hexadecimal digits, of what JSON says of plain data, whatever the order of its fields."""
    return _hash_of(from_json(as_json(content, what)))


def is_whole(content: Mapping[str, Any]) -> bool:
    """Whether a sealed object is as it was when it was sealed; how the file is laid out does not matter."""
    return content.get(SEAL) == _hash_of({key: value for key, value in content.items() if key != SEAL})


def _hash_of(content: Any) -> str:
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()


def _not_finite(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Every number that JSON has not: where it stands, and what it is."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    inside: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list | tuple):
        inside = enumerate(value)
    for key, one in inside:
        yield from _not_finite(one, f"{place}.{key}" if place else str(key))


def _refuse(constant: str) -> None:
    raise ValueError(f"got {constant} as a number")


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"got the number {digits[:20]}, which is too large")
    return number


def _int(digits: str) -> int:
    if len(digits) > len(str(-LARGEST)) or abs(int(digits)) > LARGEST:
        raise ValueError(f"got a whole number of {len(digits.lstrip('-'))} digits, which is too large")
    return int(digits)
