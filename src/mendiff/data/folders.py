"""Folders of a data set by name, in any Unicode normalisation and, if that is unambiguous, in any case."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from mendiff.data.image_files import ignore_reason
from mendiff.data.names import same_name


def subfolders(folder: Path) -> list[Path]:
    """Sub-folders that may hold images of parts, sorted; empty if the folder does not exist."""
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not ignore_reason(p)]


def inside(folder: Path, *parts: str) -> Path:
    """Path of a file or folder in a folder, in any form of its name; as given if it does not exist."""
    for part in parts:
        if not (folder / part).exists() and folder.is_dir():
            entries = sorted(folder.iterdir())
            equal = [path for path in entries if same_name(path.name) == same_name(part)]
            equal = equal or [path for path in entries if folded(path.name) == folded(part)]
            folder = equal[0] if equal else folder / part
        else:
            folder = folder / part
    return folder


def own_name(folder: Path) -> str:
    """A folder's name, also for `.` and `..`."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def folded(name: str) -> str:
    """A name for comparisons without case and Unicode form."""
    return same_name(name).casefold()


def contains(folder: Path, pattern: str) -> bool:
    """Whether a folder contains a path such as test/*/rgb, in any case; `*` does not match hidden files.

    All but the last part are folders. A single name is compared with its case.
    """
    if "/" not in pattern:
        return (folder / pattern).is_dir()
    return _contains(folder, pattern)


def _contains(folder: Path, pattern: str) -> bool:
    head, _, rest = pattern.partition("/")
    if not folder.is_dir():
        return False
    if "*" not in head:
        found = inside(folder, head)
        return _contains(found, rest) if rest else found.exists()
    names = (path for path in folder.iterdir() if fnmatchcase(folded(path.name), folded(head)))
    shown = (path for path in names if not path.name.startswith("."))
    if not rest:
        return any(True for _ in shown)
    return any(path.is_dir() and not ignore_reason(path) and _contains(path, rest) for path in shown)
