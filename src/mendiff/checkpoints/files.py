"""File utilities: JSON, hashes, and messages for a full disk."""

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

from mendiff.data.images import whole_file
from mendiff.data.json_text import SEAL as SEAL
from mendiff.data.json_text import as_json as as_json
from mendiff.data.json_text import from_json as from_json
from mendiff.data.json_text import is_whole as is_whole
from mendiff.data.json_text import json_pieces as json_pieces
from mendiff.data.json_text import parse_json as parse_json
from mendiff.data.json_text import sealed as sealed
from mendiff.data.json_text import sha256_of_json as sha256_of_json
from mendiff.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
PIECE = 2**20
"""Block size for reading, in bytes."""


class FullDiskError(InputError):
    """The disk is full.

    Args:
        sentence: message for the user.
        number: errno of the system error.
        filename: the file that could not be written, if known.
    """

    def __init__(self, sentence: str, number: int = errno.ENOSPC, filename: str | None = None) -> None:
        super().__init__(sentence)
        self.number, self.filename = number, filename


# ---- JSON --------------------------------------------------------------------------------------------


def write_json(path: Path, content: Any, what: str = "") -> None:
    """Write an indented UTF-8 JSON file atomically.

    Args:
        path: path of the file.
        content: see json_pieces.
        what: see as_json; default: the path.
    """
    with whole_file(path) as file:
        for piece in json_pieces(content, what or str(path), indent=2):
            file.write(piece.encode())
        file.write(b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; numbers must be finite, integers must have at most 64 bits."""
    return parse_json(path.read_bytes(), str(path))


# ---- hashes ------------------------------------------------------------------------------------------


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal digits, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def fingerprint(items: Iterable[object]) -> str:
    """SHA-256, in hexadecimal digits, of a multiset of texts or numbers; independent of their order.

    The fingerprint of a data set's content seeds identifies its images.
    """
    lines = sorted(str(item).encode("utf-8", "surrogateescape") for item in items)
    digest = hashlib.sha256()
    for line in lines:
        digest.update(len(line).to_bytes(8, "big") + line)
    return digest.hexdigest()


def fingerprint_of_files(paths: Iterable[str | Path]) -> str:
    """The fingerprint of the contents of files; independent of their names and order."""
    return fingerprint(sha256_of(path) for path in paths)


# ---- writing -----------------------------------------------------------------------------------------


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Convert errors of a full disk or a file size limit to an error with advice."""
    try:
        yield
    except (OSError, SafetensorError, FullDiskError) as error:
        # With nested blocks, the outermost one knows the user's name of the folder.
        number = error.number if isinstance(error, FullDiskError) else _number_of(error)
        named = getattr(error, "filename", None)
        at = f" at {Path(os.fsdecode(named)).name}" if named else ""
        if number in FULL:
            home = next(parent for parent in folder.absolute().parents if parent.exists())
            free = shutil.disk_usage(home).free / 1e9
            sentence = (
                f"{folder}: expected free disk space, but the disk is full ({free:.1f} GB left){at}; free "
                "some space or choose another folder."
            )
        elif number == errno.EFBIG:
            sentence = (
                f"{folder}: expected no limit on the file size, but it is limited here"
                f"{at} (see 'ulimit -f' and the limits of the file system); raise the limit or choose "
                "another folder."
            )
        else:
            raise
        raise FullDiskError(sentence, number or 0, named) from error


def _number_of(error: BaseException) -> int | None:
    """The errno of an error; safetensors states it only in its message."""
    hidden = re.search(r"os error (\d+)", str(error))
    return int(hidden[1]) if hidden else getattr(error, "errno", None)
