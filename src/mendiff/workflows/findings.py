"""Findings on disk: a row for every image as it is found, and a name of its own for what is drawn of it."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, TextIO

from mendiff.checkpoints.files import write_json
from mendiff.data.disk import short_name
from mendiff.data.found import find_images
from mendiff.data.found import left_out as images_left_out
from mendiff.errors import InputError
from mendiff.evaluation.tables import cell

COLUMNS = (
    *("image", "score", "threshold", "defective", "p_value", "stop_step"),
    *("heat_map", "reconstruction", "error"),
)
TABLE, CONTENT = "predictions.csv", "predictions.json"
MOST_REASONS = 5
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\\]")


class Findings:
    """What is found, kept as it comes: a killed run leaves the rows that it had.

    Args:
        folder: to write to.
        model: as the user named it.
        threshold: of all images.
        left_out: files that were passed over, and why.
    """

    def __init__(
        self, folder: Path, model: Path, threshold: float, left_out: Sequence[Mapping[str, str]]
    ) -> None:
        self._folder = folder
        self._head = {"model": str(model), "threshold": threshold}
        self._left_out = list(left_out)
        self._waiting: list[Mapping[str, Any]] = []
        self._file: TextIO | None = None
        self.rows: list[dict[str, Any]] = []
        self.unreadable: list[str] = []

    def add(self, row: dict[str, Any]) -> None:
        """A row with a score, or of an image without one, whose `error` says why."""
        if row["score"] is None:
            self.unreadable.append(row["error"])
        else:
            self.rows.append(row)
        self._waiting.append(row)
        if self.rows:  # before there is one, nothing is worth keeping
            self._append()

    def _append(self) -> None:
        if self._file is None:
            self.write(complete=False)
            self._file = (self._folder / TABLE).open(
                "w", encoding="utf-8", errors="backslashreplace", newline=""
            )
            csv.DictWriter(self._file, COLUMNS).writeheader()
        writer = csv.DictWriter(self._file, COLUMNS)
        writer.writerows({name: cell(value) for name, value in row.items()} for row in self._waiting)
        self._waiting.clear()
        self._file.flush()

    def __enter__(self) -> Findings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the table; where the block failed, write what was found as JSON, too."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        if error is not None and self.rows:
            with suppress(OSError):  # a full disk may be why
                self.write(complete=False)

    def write(self, complete: bool) -> dict[str, Any]:
        """Write all of it as JSON, too; gives what was written.

        Args:
            complete: whether all images were gone through; it says so only if all could be inspected as well.
        """
        whole = complete and not self.unreadable and not any(row["error"] for row in self.rows)
        content = {
            **self._head,
            "images": self.rows,
            "unreadable": self.unreadable,
            "left_out": self._left_out,
            "complete": whole,
        }
        write_json(self._folder / CONTENT, content)
        return content


def left_out(given: Sequence[Path]) -> list[dict[str, str]]:
    """The files below the given folders that are not inspected, and why."""
    return [
        {"path": str(path), "reason": reason}
        for one in given
        if one.is_dir()
        for path, reason in images_left_out(one)
    ]


def counted(left: Sequence[Mapping[str, str]]) -> str:
    """How many files were left out for which reason, the most frequent first."""
    reasons = Counter(one["reason"] for one in left).most_common()
    told = [f"{number} ({reason})" for reason, number in reasons[:MOST_REASONS]]
    if rest := sum(number for _, number in reasons[MOST_REASONS:]):
        told.append(f"{rest} for other reasons")
    return ", ".join(told)


def told(path: Path, what: str, error: Exception) -> str:
    """One sentence of what went wrong with an image."""
    if isinstance(error, InputError):
        return str(error)
    detail = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
    return f"{path}: {what} ({type(error).__name__}{': ' * bool(detail)}{detail.rstrip('.')})."


def name_images(images: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every image below the given files and folders, with the name of the PNG files that are written of it.

    Names stay apart on file systems that know no capitals or one form of Unicode, no name is a folder of
    another's, and what some file systems refuse is not in them: control characters, bytes that are no text,
    more than 255 bytes.
    """
    named = []
    for given in images:
        for path in find_images(given):
            relative = path.relative_to(given) if given.is_dir() else Path(path.name)
            named.append((path, "/".join(_safe(part) for part in relative.with_suffix("").parts)))
    folders = {_alike(str(above)) for _, name in named for above in PurePosixPath(name).parents}
    taken: set[str] = set()
    unique = []
    for path, name in named:
        names = (f"{name}.png" if number == 1 else f"{name}-{number}.png" for number in count(1))
        free = next(one for one in names if _alike(one) not in taken and _alike(one) not in folders)
        taken.add(_alike(free))
        unique.append((path, free))
    return unique


def _safe(part: str) -> str:
    return short_name(_UNSAFE.sub("_", unicodedata.normalize("NFC", part)))


def _alike(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
