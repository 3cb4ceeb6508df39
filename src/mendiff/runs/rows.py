"""Rows of `predict` on disk: appended as they come, read back one at a time, completed after a kill."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from mendiff.checkpoints.files import write_json
from mendiff.data.images import whole_file
from mendiff.data.json_text import as_json, from_json
from mendiff.evaluation.tables import cell
from mendiff.runs.findings import COLUMNS

TABLE, CONTENT = "predictions.csv", "predictions.json"
LINES, COCO = "predictions.jsonl", "predictions.coco.json"
HEAT_MAPS = "heat_maps"
MOST_NAMED = 3
"""Unreadable images that a summary names."""


class Findings:
    """The results in a folder; only counts are kept in memory.

    A row is appended to predictions.jsonl after its pictures are written. A killed process leaves at most an
    incomplete last line, which is removed when the folder is opened again. The table follows from these
    lines. It begins at the first score, so a folder without it is not worth keeping.

    Args:
        folder: to write to, with the rows of an earlier run or none.
        head: first fields of predictions.json.
        left_out: skipped files with reasons.

    Attributes:
        scored: number of rows with a score.
        flagged: number of defective ones among them.
        undrawn: number of those whose pictures could not be written.
        unreadable: number of rows without a score.
        missed: the first unreadable images.
        error: the reason of the first of them.
    """

    def __init__(
        self, folder: Path, head: Mapping[str, Any], left_out: Sequence[Mapping[str, str]] = ()
    ) -> None:
        self._folder, self._head, self._left_out = folder, dict(head), list(left_out)
        self._lines: BinaryIO | None = None
        self._table: BinaryIO | None = None
        self.scored = self.flagged = self.undrawn = self.unreadable = 0
        self.missed: list[str] = []
        self.error = ""

    def __enter__(self) -> Findings:
        for row in read_rows(self._folder / LINES):
            self._count(row)
        self._open()
        write_json(self._folder / CONTENT, {**self.content(False), "images": [], "unreadable": []})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; after an error, also write the results as JSON."""
        with suppress(OSError):  # the disk may be full
            self._close()
            if error is not None and self.scored:
                self._new_table().close()
                self.write(complete=False)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; without a score, its `error` states the reason."""
        assert self._lines is not None
        self._lines.write((as_json(row, LINES) + "\n").encode())
        self._lines.flush()
        self._count(row)
        if self._table is None and self.scored:
            self._table = self._new_table()
        elif self._table is not None:
            self._table.write(_line_of_table(row))
            self._table.flush()

    def finish(self) -> None:
        """Write predictions.json and the COCO file, after all rows."""
        self._close()
        self.write(complete=True)

    def write(self, complete: bool) -> None:
        """Write the rows on disk as predictions.json and in COCO's format.

        Args:
            complete: whether all images were processed.
        """
        write_json(self._folder / CONTENT, self.content(complete))
        write_json(self._folder / COCO, coco(self._folder / LINES))

    def content(self, complete: bool, folder: Path | None = None) -> dict[str, Any]:
        """The content of predictions.json, with iterators instead of lists of rows.

        Args:
            complete: whether all images were processed; true in the content only if none had an error.
            folder: the folder of the rows, if it has been moved.
        """
        lines = (folder or self._folder) / LINES
        return {
            **self._head,
            "images": (row for row in read_rows(lines) if row["score"] is not None),
            "unreadable": (row["error"] for row in read_rows(lines) if row["score"] is None),
            "left_out": self._left_out,
            "complete": complete and self.is_complete,
        }

    @property
    def is_complete(self) -> bool:
        """Whether every row has a score and pictures."""
        return not self.unreadable and not self.undrawn

    def _count(self, row: Mapping[str, Any]) -> None:
        if row["score"] is None:
            self.unreadable += 1
            self.error = self.error or row["error"]
            self.missed += [row["image"]] if len(self.missed) < MOST_NAMED else []
            return
        self.scored += 1
        self.flagged += bool(row["defective"])
        self.undrawn += bool(row["error"])

    def _open(self) -> None:
        """Open the files for further rows; an incomplete last line is removed, and the table completed."""
        self._lines = (self._folder / LINES).open("ab")
        self._lines.truncate(_end_of_rows(self._folder / LINES))
        self._table = self._new_table() if self.scored else None

    def _new_table(self) -> BinaryIO:
        """The table of all rows on disk, open for further rows."""
        with whole_file(self._folder / TABLE) as file:
            file.write(_line_of_table({name: name for name in COLUMNS}))
            for row in read_rows(self._folder / LINES):
                file.write(_line_of_table(row))
        return (self._folder / TABLE).open("ab")

    def _close(self) -> None:
        files = [file for file in (self._lines, self._table) if file is not None]
        self._lines = self._table = None
        for file in files:
            file.close()


def written(folder: Path) -> tuple[Counter[str], dict[str, str]]:
    """How many rows each image has, and the images that names of PNG files belong to."""
    done: Counter[str] = Counter()
    names: dict[str, str] = {}
    for row in read_rows(folder / LINES):
        done[row["image"]] += 1
        if row["heat_map"]:
            names[row["heat_map"].removeprefix(f"{HEAT_MAPS}/")] = row["image"]
    return done, names


def read_rows(lines: Path) -> Iterator[dict[str, Any]]:
    """The rows of a predictions.jsonl, up to the first incomplete line; none without the file."""
    for _, row in _placed_rows(lines):
        yield row


def _end_of_rows(lines: Path) -> int:
    """Length of the complete rows of a file in bytes."""
    return max((end for end, _ in _placed_rows(lines)), default=0)


def _placed_rows(lines: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every row with the position of its end."""
    if not lines.is_file():
        return
    end = 0
    with lines.open("rb") as file:
        for line in file:
            end += len(line)
            try:
                row = from_json(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict) or not row.keys() >= {*COLUMNS}:
                return
            yield end, row


def _line_of_table(row: Mapping[str, Any]) -> bytes:
    shown = {**row, "regions": len(row["regions"])} if isinstance(row["regions"], list) else row
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS).writerow({name: cell(shown[name]) for name in COLUMNS})
    return text.getvalue().encode("utf-8", "backslashreplace")


def coco(lines: Path) -> dict[str, Any]:
    """The regions of all rows as a COCO data set with one category, `defect`, with iterators for lists.

    Boxes are x, y, width, height and segmentations polygons, in pixels of the original images; every
    annotation has the highest map value of its region as `score`.
    """
    return {
        "images": (
            {"id": image, "file_name": row["image"], "width": row["width"], "height": row["height"]}
            for image, row in _drawn(lines)
        ),
        "annotations": ({"id": number, **one} for number, one in enumerate(_annotations(lines), start=1)),
        "categories": [{"id": 1, "name": "defect"}],
    }


def _drawn(lines: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    return enumerate((row for row in read_rows(lines) if row["regions"] is not None), start=1)


def _annotations(lines: Path) -> Iterator[dict[str, Any]]:
    for image, row in _drawn(lines):
        for region in row["regions"]:
            yield {
                "image_id": image,
                "category_id": 1,
                "bbox": region["box"],
                "area": region["area"],
                "segmentation": [region["polygon"]],
                "iscrowd": 0,
                "score": region["score"],
            }
