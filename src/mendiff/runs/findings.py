"""Results of `predict` on disk: a row per image, written immediately, and unique names for pictures."""

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
from mendiff.data.image_files import find_images
from mendiff.data.image_files import left_out as images_left_out
from mendiff.data.json_text import as_json
from mendiff.errors import InputError
from mendiff.evaluation.tables import cell
from mendiff.model import Model
from mendiff.types import Detection

COLUMNS = (
    *("image", "score", "threshold", "defective", "p_value", "stop_step"),
    *("heat_map", "reconstruction", "mask", "raw_map", "regions", "width", "height", "error"),
)
"""Of the table and of every row; in the table, `regions` is their number."""
TABLE, CONTENT = "predictions.csv", "predictions.json"
LINES, COCO = "predictions.jsonl", "predictions.coco.json"
MOST_REASONS = 5
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\\]")


class Findings:
    """Collects results and writes every row immediately, so that a killed run keeps its rows.

    Args:
        folder: to write to.
        model: path as the user named it.
        threshold: of the model.
        left_out: skipped files with reasons.
    """

    def __init__(
        self, folder: Path, model: Path, threshold: float, left_out: Sequence[Mapping[str, str]]
    ) -> None:
        self._folder = folder
        self._head = {"model": str(model), "threshold": threshold}
        self._left_out = list(left_out)
        self._waiting: list[Mapping[str, Any]] = []
        self._file: TextIO | None = None
        self._lines: TextIO | None = None
        self.rows: list[dict[str, Any]] = []
        self.unreadable: list[str] = []

    def add(self, row: dict[str, Any]) -> None:
        """Add a row; without a score, its `error` states the reason."""
        if row["score"] is None:
            self.unreadable.append(row["error"])
        else:
            self.rows.append(row)
        self._waiting.append(row)
        if self.rows:  # files are written from the first score on
            self._append()

    def _append(self) -> None:
        if self._file is None:
            self.write(complete=False)
            self._file = (self._folder / TABLE).open(
                "w", encoding="utf-8", errors="backslashreplace", newline=""
            )
            csv.DictWriter(self._file, COLUMNS).writeheader()
            self._lines = (self._folder / LINES).open("w", encoding="utf-8")
        assert self._lines is not None
        writer = csv.DictWriter(self._file, COLUMNS)
        for row in self._waiting:
            count = None if row["regions"] is None else len(row["regions"])
            writer.writerow({name: cell(value) for name, value in {**row, "regions": count}.items()})
            self._lines.write(as_json(row, LINES) + "\n")
        self._waiting.clear()
        self._file.flush()
        self._lines.flush()

    def __enter__(self) -> Findings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the table; after an error, also write the results as JSON."""
        for file in filter(None, (self._file, self._lines)):
            with suppress(OSError):
                file.close()
        if error is not None and self.rows:
            with suppress(OSError):  # the disk may be full
                self.write(complete=False)

    def write(self, complete: bool) -> dict[str, Any]:
        """Write all results as JSON, and their regions in COCO's format; returns the former.

        Args:
            complete: whether all images were processed; stored as true only if none had an error.
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
        write_json(self._folder / COCO, coco(self.rows))
        return content


def coco(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The regions of all images as a COCO data set with one category, `defect`.

    Boxes are x, y, width, height and segmentations polygons, in pixels of the original images; every
    annotation has the highest map value of its region as `score`.
    """
    drawn = [row for row in rows if row["regions"] is not None]
    annotations = [
        {
            "image_id": image,
            "category_id": 1,
            "bbox": region["box"],
            "area": region["area"],
            "segmentation": [region["polygon"]],
            "iscrowd": 0,
            "score": region["score"],
        }
        for image, row in enumerate(drawn, start=1)
        for region in row["regions"]
    ]
    return {
        "images": [
            {"id": image, "file_name": row["image"], "width": row["width"], "height": row["height"]}
            for image, row in enumerate(drawn, start=1)
        ],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations, start=1)],
        "categories": [{"id": 1, "name": "defect"}],
    }


def result_row(model: Model, found: Detection, index: int) -> dict[str, Any]:
    """Score, threshold, decision, p-value and stop step of an image of a batch."""
    score = float(found.score[index])
    return {
        "score": score,
        "threshold": model.threshold,
        "defective": score > model.threshold,
        "p_value": model.calibration.p_value(score),
        "stop_step": int(found.stop_step[index]),
    }


def left_out(given: Sequence[Path]) -> list[dict[str, str]]:
    """The skipped files below the given folders, with reasons."""
    folders = [path for path in given if path.is_dir()]
    return [
        {"path": str(path), "reason": reason}
        for folder in folders
        for path, reason in images_left_out(folder)
    ]


def counted(left: Sequence[Mapping[str, str]]) -> str:
    """Number of skipped files by reason, most frequent first."""
    reasons = Counter(file["reason"] for file in left).most_common()
    parts = [f"{number} ({reason})" for reason, number in reasons[:MOST_REASONS]]
    if rest := sum(number for _, number in reasons[MOST_REASONS:]):
        parts.append(f"{rest} for other reasons")
    return ", ".join(parts)


def error_sentence(path: Path, what: str, error: Exception) -> str:
    """The error message for an image, in one sentence."""
    if isinstance(error, InputError):
        return str(error)
    detail = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
    return f"{path}: {what} ({type(error).__name__}{': ' * bool(detail)}{detail.rstrip('.')})."


def name_images(images: Sequence[Path]) -> list[tuple[Path, str]]:
    """All images below the given files and folders, each with a unique name for its PNG files.

    Names are unique on file systems that ignore case or Unicode normalisation, no name equals a folder of
    another name, and names contain nothing that file systems refuse: control characters, undecodable bytes,
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
    """Key that is equal for names that some file system treats as equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
