"""Reads and writes JSON without NaN, infinity and integers beyond 64 bits."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mendiff.errors import InputError

LARGEST = 2**63 - 1
"""Largest absolute value of integers; torch does not accept larger integers."""
SEAL = "sha256"
"""Field of a JSON object with the hash of all other fields."""


def as_json(content: Any, what: str, indent: int | None = None) -> str:
    """Convert plain data to JSON.

    Args:
        content: dictionaries, lists, texts, numbers, booleans and None.
        what: name of the destination, for messages.
        indent: spaces per level; None writes one line.

    Raises:
        InputError: for NaN and infinity, which JSON does not have; undefined metrics are None.
    """
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError as error:
        found = next(_not_finite(content, ""), None)
        if found is None:
            raise
        raise InputError(
            f"{what}: expected finite numbers to write, got {found[1]}{found[0] and f' as {found[0]}'}."
        ) from error


def json_pieces(content: Any, what: str, indent: int | None = None) -> Iterator[str]:
    """The text of as_json in pieces. A value of the object that is an iterator is a list, one item at a time.

    Lists of any length are written without a copy in memory.
    """
    streamed = isinstance(content, Mapping) and any(isinstance(one, Iterator) for one in content.values())
    if not streamed:
        yield as_json(content, what, indent)
        return
    breaks = ["" if indent is None else "\n" + " " * indent * level for level in range(3)]
    comma = ", " if indent is None else ","
    for number, (key, value) in enumerate(content.items()):
        yield f"{comma if number else '{'}{breaks[1]}{json.dumps(key)}: "
        if not isinstance(value, Iterator):
            yield as_json(value, what, indent).replace("\n", breaks[1])
            continue
        empty = True
        for item in value:
            text = as_json(item, what, indent).replace("\n", breaks[2])
            yield f"{'[' if empty else comma}{breaks[2]}{text}"
            empty = False
        yield "[]" if empty else f"{breaks[1]}]"
    yield breaks[0] + "}"


def parse_json(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object; see from_json. `what` names the source in messages."""
    try:
        data = from_json(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{what}: expected JSON, but it is damaged ({reason}).") from error
    if not isinstance(data, dict):
        raise InputError(f"{what}: expected a JSON object, got a {type(data).__name__}.")
    return data


def from_json(text: str | bytes) -> Any:
    """Parse JSON; bytes are UTF-8.

    Raises ValueError or RecursionError for damaged JSON, NaN, infinity, and numbers that are too large for a
    float or for 64 bits.
    """
    text = text.decode() if isinstance(text, bytes) else text
    return json.loads(text, parse_constant=_refuse, parse_float=_float, parse_int=_int)


def sealed(content: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Add a hash of all fields to a JSON object, which detects changes; see is_whole.

    Args:
        content: see as_json.
        what: see as_json.
    """
    text = as_json(content, what)
    try:
        plain = from_json(text)  # as it will be read, so that the hashes agree
    except ValueError as error:
        raise InputError(f"{what}: expected values that JSON can represent ({error}).") from error
    return {**plain, SEAL: _hash_of(plain)}


def sha256_of_json(content: Any, what: str) -> str:
    """SHA-256 (hexadecimal) of plain data as JSON, independent of the order of fields."""
    return _hash_of(from_json(as_json(content, what)))


def is_whole(content: Mapping[str, Any]) -> bool:
    """Whether a sealed object is unchanged; whitespace and the order of fields do not matter."""
    return content.get(SEAL) == _hash_of({key: value for key, value in content.items() if key != SEAL})


def _hash_of(content: Any) -> str:
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()


def _not_finite(value: Any, path: str) -> Iterator[tuple[str, float]]:
    """Every NaN and infinity: its position and value."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        yield from _not_finite(item, f"{path}.{key}" if path else str(key))


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
