"""Plain files: hashes that tell one content from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

PIECE = 2**20
"""Bytes that are read at once."""


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
