"""Finds the images of parts below a folder, and the reasons why other files are ignored."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mendiff.data.names import is_system_folder
from mendiff.data.opening import ARRAY, IMAGES
from mendiff.data.outputs import any_output_kind
from mendiff.data.reading import further_frames, is_image
from mendiff.errors import InputError

NO_IMAGE = "no image"
"""Reason for files such as readme.txt, which are not reported."""
COMPANIONS = (
    *(".cfg", ".csv", ".db", ".doc", ".docx", ".gz", ".htm", ".html", ".ini", ".ipynb", ".js", ".json"),
    *(".jsonl", ".log", ".md", ".md5", ".parquet", ".pdf", ".pkl", ".ply", ".py", ".rar", ".rtf", ".sh"),
    *(".safetensors", ".sha256", ".tar", ".toml", ".tsv", ".txt", ".url", ".xls", ".xlsx", ".xml", ".yaml"),
    *(".yml", ".zip"),
)
"""Lower-case extensions of files that are often stored next to images."""
PICTURED = ("findings", "a run", "a check")
"""Output of mendiff that contains images of parts."""


class NoImagesError(InputError):
    """A folder without any image."""


@dataclass(frozen=True)
class _Folder:
    """A folder to visit, and the reason why its images are ignored; empty if they are not."""

    path: Path
    reason: str = ""


def find_images(path: Path) -> list[Path]:
    """List the image files below a folder, sorted, including sub-folders and links; a file returns itself.

    Hidden files, system folders (@eaDir, __MACOSX), folders that mendiff wrote, and files whose extension
    (in any case) is not in `IMAGES` are ignored, and so are NPY files beside other images; `left_out` lists
    them. Raises InputError if there are no images.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; give an image or a folder of images.")
    what = any_output_kind(path)
    if what in PICTURED:
        raise InputError(
            f"{path}: expected images of parts, got {what} that mendiff wrote; give another folder."
        )
    found = sorted(file for file, reason in _listed(path) if not reason)
    if not found:
        allowed = ", ".join(sorted(e.lstrip(".") for e in IMAGES))
        raise NoImagesError(
            f"{path}: no images found; expected files of type {allowed}{found_instead(path)}."
        )
    return found


def left_out(path: Path) -> list[tuple[Path, str]]:
    """Files, links and frames below a folder that `find_images` ignores, with the reason, sorted.

    Reasons are texts such as "type .heic", "hidden", "system folder @eaDir", "findings that mendiff wrote",
    "broken link", "2 further frames", or NO_IMAGE for files such as readme.txt.
    """
    if not path.is_dir():
        frames = further_frames(path) if path.is_file() else 0
        return [(path, _frames(frames))] if frames else []
    ignored = []
    for file, reason in _listed(path):
        frames = 0 if reason else further_frames(file)
        if reason or frames:
            ignored.append((file, reason or _frames(frames)))
    return sorted(ignored)


def ignore_reason(folder: Path) -> str:
    """Why the images in a folder are ignored, by its name or content; empty if they are not."""
    if folder.name.startswith("."):
        return "hidden"
    if is_system_folder(folder.name):
        return f"system folder {folder.name}"
    what = any_output_kind(folder)
    return f"{what.removeprefix('a ')} that mendiff wrote" if what else ""


def _frames(count: int) -> str:
    return f"{count} further frame{'s' * (count > 1)}"


def _listed(root: Path) -> list[tuple[Path, str]]:
    """See _walk. NPY files count in folders without other images only: elsewhere they are rarely images."""
    files = list(_walk(root))
    if all(reason or file.suffix.lower() == ARRAY for file, reason in files):
        return files
    return [
        (file, f"type {ARRAY}" if not reason and file.suffix.lower() == ARRAY else reason)
        for file, reason in files
    ]


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder once, with the reason why it is ignored.

    Links to folders come last, so that files are found under their own names first.
    """
    folders, links = [_Folder(root)], list[_Folder]()
    seen: set[tuple[int, int]] = set()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if not _is_new(folder.path, seen):
            yield folder.path, "a link to a folder that has been read"
            continue
        try:
            with os.scandir(folder.path) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except PermissionError:
            yield folder.path, "a folder without read permission"
            continue
        for entry in inside:
            path = folder.path / entry.name
            if entry.is_dir():
                below = _Folder(path, folder.reason or ignore_reason(path))
                (links if entry.is_symlink() else folders).append(below)
            elif entry.is_file():
                yield path, _reason(path, folder.reason)
            else:
                yield path, "broken link" if entry.is_symlink() else NO_IMAGE


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder was not seen before; it is recorded as seen."""
    status = folder.stat()
    key = status.st_dev, status.st_ino
    new = key not in seen
    seen.add(key)
    return new


def _reason(path: Path, folder: str) -> str:
    """Why a file is ignored; empty for an image of a part."""
    ending, hidden = path.suffix.lower(), path.name.startswith(".")
    if ending in IMAGES:
        return folder or ("hidden" if hidden else "")
    if hidden or folder or ending in COMPANIONS:
        return NO_IMAGE
    if ending:
        return f"type {ending}"
    return "image without an extension" if is_image(path) else NO_IMAGE


def found_instead(path: Path) -> str:
    """Ignored files of a folder without images, for the end of a message; empty if there are none."""
    reasons = Counter(reason for _, reason in left_out(path) if reason != NO_IMAGE)
    return f", found {_counted(reasons)}" if reasons else ""


def _counted(reasons: Counter[str]) -> str:
    """Reasons with counts, the most frequent first: "30 of type .heic, 2 hidden"."""
    parts = []
    for reason, count in reasons.most_common():
        prefix = "of " if reason.startswith("type ") else ""
        parts.append(f"{count} {prefix}{reason}" if not reason[0].isdigit() else f"{count} with {reason}")
    return ", ".join(parts)
