"""Plain files: JSON in and out, hashes that tell one content from another, and what to say of a full disk."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mendiff.data.images import write_bytes
from mendiff.data.json_text import SEAL as SEAL
from mendiff.data.json_text import as_json as as_json
from mendiff.data.json_text import from_json as from_json
from mendiff.data.json_text import is_whole as is_whole
from mendiff.data.json_text import parse_json as parse_json
from mendiff.data.json_text import sealed as sealed
from mendiff.data.json_text import sha256_of_json as sha256_of_json
from mendiff.errors import InputError

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
