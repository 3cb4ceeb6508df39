"""Plain files: JSON in and out, hashes that tell one content from another, and what to say of a full disk."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mendiff.errors import InputError
from mendiff.images import write_bytes

LARGEST = 2**63 - 1
"""Whole number that JSON may hold here, either sign: torch takes no other."""
SEAL = "sha256"
"""The field of a JSON object that holds the hash of all others."""
FULL = (errno.ENOSPC, errno.EDQUOT)
PIECE = 2**20
"""Bytes that are read at once."""


class FullDiskError(InputError):
    """No room for what is being written.

    Args:
        sentence: for the user.
        number: the system's, of the error.
        filename: of the file that found no room, where it is known.
    """

    def __init__(self, sentence: str, number: int = errno.ENOSPC, filename: str | None = None) -> None:
        super().__init__(sentence)
        self.number, self.filename = number, filename


# ---- JSON --------------------------------------------------------------------------------------------


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


def write_json(path: Path, content: Any, what: str = "") -> None:
    """Write a JSON file, UTF-8 and indented, whole or not at all.

    Args:
        path: of the file.
        content: see as_json.
        what: see as_json; the path unless given.
    """
    write_bytes(path, (as_json(content, what or str(path), indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; numbers are finite, whole ones have at most 64 bits."""
    return parse_json(path.read_bytes(), str(path))


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


# ---- hashes ------------------------------------------------------------------------------------------


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal digits, read piece by piece."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def fingerprint(items: Iterable[object]) -> str:
    """SHA-256, in hexadecimal digits, of a collection of texts or numbers; their order does not matter.

    Of a data set's content seeds it tells what a model saw of it; one that occurs twice counts twice.
    """
    lines = sorted(str(item).encode("utf-8", "surrogateescape") for item in items)
    digest = hashlib.sha256()
    for line in lines:
        digest.update(len(line).to_bytes(8, "big") + line)
    return digest.hexdigest()


def fingerprint_of_files(paths: Iterable[str | Path]) -> str:
    """The fingerprint of some files' contents; neither their names nor their order matter."""
    return fingerprint(sha256_of(path) for path in paths)


# ---- writing -----------------------------------------------------------------------------------------


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a full disk or a limit on the size of files into a sentence that says what to do."""
    try:
        yield
    except (OSError, SafetensorError, FullDiskError) as error:
        # Of blocks in each other, the outermost knows what the user calls the folder.
        number = error.number if isinstance(error, FullDiskError) else _number_of(error)
        named = getattr(error, "filename", None)
        at = f" at {Path(os.fsdecode(named)).name}" if named else ""
        if number in FULL:
            home = next(one for one in folder.absolute().parents if one.exists())
            free = shutil.disk_usage(home).free / 1e9
            sentence = (
                f"{folder}: expected room on the disk, but it is full ({free:.1f} GB left){at}; make room or "
                "choose another place."
            )
        elif number == errno.EFBIG:
            sentence = (
                f"{folder}: expected that files may be as large as needed, but their size is limited here"
                f"{at} (see 'ulimit -f', and what the file system allows); raise the limit or choose another "
                "place."
            )
        else:
            raise
        raise FullDiskError(sentence, number or 0, named) from error


def _number_of(error: BaseException) -> int | None:
    """The system's number of an error; safetensors hides it in its message."""
    hidden = re.search(r"os error (\d+)", str(error))
    return int(hidden[1]) if hidden else getattr(error, "errno", None)
