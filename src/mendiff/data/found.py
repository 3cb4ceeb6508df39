"""Which files below a folder are images of parts, and which are passed over, with the reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mendiff.data.made import is_made
from mendiff.data.names import is_system_folder
from mendiff.data.reading import EXTENSIONS, further_frames, is_image
from mendiff.errors import InputError

NO_IMAGE = "no image"
"""Why readme.txt and the like are passed over: nobody takes them for images of parts."""
COMPANIONS = (
    *(".cfg", ".csv", ".db", ".doc", ".docx", ".gz", ".htm", ".html", ".ini", ".ipynb", ".js", ".json"),
    *(".jsonl", ".log", ".md", ".md5", ".parquet", ".pdf", ".pkl", ".ply", ".py", ".rar", ".rtf", ".sh"),
    *(".safetensors", ".sha256", ".tar", ".toml", ".tsv", ".txt", ".url", ".xls", ".xlsx", ".xml", ".yaml"),
    *(".yml", ".zip"),
)
"""What may lie beside images, in small letters."""


PICTURED = ("findings", "a run")
"""What mendiff writes with pictures of parts in it."""


class NoImagesError(InputError):
    """A folder without any image."""


@dataclass(frozen=True)
class _Place:
    """A folder on the walk, and why its images are passed over; empty for no reason."""

    path: Path
    reason: str = ""


def find_images(path: Path) -> list[Path]:
    """List the image files under a folder, sorted, sub-folders and links included; a file gives itself.

    Passed over are hidden files and folders, what operating systems and file servers keep for themselves
    (@eaDir, __MACOSX), folders that mendiff wrote, and files whose extension is not in `EXTENSIONS`, in
    either case; `left_out` names them. Raises InputError where there is nothing.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; give an image or a folder of images.")
    what = is_made(path)
    if what in PICTURED:
        raise InputError(
            f"{path}: expected images of parts, got {what} that mendiff wrote; give another folder."
        )
    found = sorted(one for one, reason in _walk(path) if not reason)
    if not found:
        allowed = ", ".join(sorted(e.lstrip(".") for e in EXTENSIONS))
        raise NoImagesError(f"{path}: no images found; expected files of type {allowed}{instead(path)}.")
    return found


def left_out(path: Path) -> list[tuple[Path, str]]:
    """What `find_images` passes over below a folder, with the reason, sorted: files, links and frames.

    Reasons are for people, and equal for equal cases: "type .heic", "hidden", "system folder @eaDir",
    "findings that mendiff wrote", "broken link", "2 further frames", or NO_IMAGE for what nobody takes for an
    image, such as readme.txt.
    """
    if not path.is_dir():
        frames = further_frames(path) if path.is_file() else 0
        return [(path, _frames(frames))] if frames else []
    passed = []
    for one, reason in _walk(path):
        frames = 0 if reason else further_frames(one)
        if reason or frames:
            passed.append((one, reason or _frames(frames)))
    return sorted(passed)


def passed_over(folder: Path) -> str:
    """Why the images in a folder are passed over, by its name and what mendiff left in it; empty for no."""
    if folder.name.startswith("."):
        return "hidden"
    if is_system_folder(folder.name):
        return f"system folder {folder.name}"
    what = is_made(folder)
    return f"{what.removeprefix('a ')} that mendiff wrote" if what else ""


def _frames(count: int) -> str:
    return f"{count} further frame{'s' * (count > 1)}"


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder once, with the reason for which it is passed over.

    Links to folders come last, so that what is there without a link is found under its own name.
    """
    places, links = [_Place(root)], list[_Place]()
    seen: set[tuple[int, int]] = set()
    while places or links:
        place = places.pop() if places else links.pop(0)
        if not _is_new(place.path, seen):
            yield place.path, "a link to a folder that is read already"
            continue
        try:
            with os.scandir(place.path) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except PermissionError:
            yield place.path, "a folder that may not be read"
            continue
        for entry in inside:
            path = place.path / entry.name
            if entry.is_dir():
                below = _Place(path, place.reason or passed_over(path))
                (links if entry.is_symlink() else places).append(below)
            elif entry.is_file():
                yield path, _reason(path, place.reason)
            else:
                yield path, "broken link" if entry.is_symlink() else NO_IMAGE


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder is not among those seen; it is from now on."""
    status = folder.stat()
    key = status.st_dev, status.st_ino
    new = key not in seen
    seen.add(key)
    return new


def _reason(path: Path, folder: str) -> str:
    """Why a file is passed over; empty for an image of a part."""
    ending, hidden = path.suffix.lower(), path.name.startswith(".")
    if ending in EXTENSIONS:
        return folder or ("hidden" if hidden else "")
    if hidden or folder or ending in COMPANIONS:
        return NO_IMAGE
    if ending:
        return f"type {ending}"
    return "image without an extension" if is_image(path) else NO_IMAGE


def instead(path: Path) -> str:
    """What a folder without images holds, for the end of a message; empty where that is nothing to tell."""
    reasons = Counter(reason for _, reason in left_out(path) if reason != NO_IMAGE)
    return f", found {_counted(reasons)}" if reasons else ""


def _counted(reasons: Counter[str]) -> str:
    """Reasons with their numbers, the most frequent first: "30 of type .heic, 2 hidden"."""
    parts = []
    for reason, count in reasons.most_common():
        linked = "of " if reason.startswith("type ") else ""
        parts.append(f"{count} {linked}{reason}" if not reason[0].isdigit() else f"{count} with {reason}")
    return ", ".join(parts)
