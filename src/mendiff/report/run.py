"""Run folders: written by `mendiff evaluate -o`, rendered to a page by `mendiff report`.

run.json holds {"format": "mendiff run", "version": 1, "mendiff", "title", "subtitle", "metrics",
"model_info", "categories"} with all numbers unrounded. pictures/ holds the thumbnails, named by the index of
the image in run.json, and the strips, named by their own index.
"""

from __future__ import annotations

import math
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from mendiff import __version__
from mendiff.checkpoints.files import as_json, from_json
from mendiff.errors import InputError
from mendiff.report.contents import CategoryReport, Curve, ImageRow, Pictures, Report, Strip, TypeRow

FORMAT = "mendiff run"
VERSION = 1
RUN = "run.json"
PICTURES = "pictures"
KINDS = ("input", "reconstruction", "heat", "contour")


def write_run(folder: Path, report: Report) -> None:
    """Write a run folder atomically. The folder must be new or empty.

    Raises InputError if it is not, and for numbers that are not finite.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty folder for the run; choose another name.")
    draft = folder.resolve().with_name(f".{folder.resolve().name}.{uuid.uuid4().hex[:8]}")
    (draft / PICTURES).mkdir(parents=True)
    try:
        numbers, strips = count(), count()
        categories = [_write_category(draft, one, numbers, strips) for one in report.categories]
        head = {"format": FORMAT, "version": VERSION, "mendiff": __version__}
        shown = {"title": report.title, "subtitle": report.subtitle, "metrics": report.metrics}
        content = {**head, **shown, "model_info": report.model_info, "categories": categories}
        (draft / RUN).write_text(as_json(content, str(folder)) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_run(folder: Path) -> Report:
    """Read a folder written by `write_run`; other files in it are ignored.

    Raises InputError if the folder is not a run, is incomplete or damaged, or has a newer version.
    """
    content = _read_content(folder)
    try:
        numbers, strips = count(), count()
        return Report(
            title=_text(content["title"]),
            subtitle=_text(content["subtitle"]),
            categories=[_read_category(folder, one, numbers, strips) for one in content["categories"]],
            metrics=_metrics(content["metrics"]),
            model_info=dict(content["model_info"]),
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error


# ---- writing -----------------------------------------------------------------------------------------


def _write_category(
    draft: Path, category: CategoryReport, numbers: count[int], strips: count[int]
) -> dict[str, Any]:
    return {
        "name": category.name,
        "threshold": category.threshold,
        "metrics": dict(category.metrics),
        "curves": dict(category.curves),
        "types": [asdict(row) for row in category.types],
        "images": [_write_image(draft, row, next(numbers)) for row in category.images],
        "strips": [_write_strip(draft, strip, next(strips)) for strip in category.strips],
    }


def _write_strip(draft: Path, strip: Strip, number: int) -> dict[str, Any]:
    (draft / _strip_place(number)).write_bytes(strip.picture)
    return {"name": strip.name, "title": strip.title, "size": list(strip.size)}


def _strip_place(number: int) -> str:
    return f"{PICTURES}/strip-{number:05d}.webp"


def _write_image(draft: Path, row: ImageRow, number: int) -> dict[str, Any]:
    known = {kind: data for kind in KINDS if (data := getattr(row.pictures, kind)) is not None}
    for kind, data in known.items():
        (draft / _place(number, kind)).write_bytes(data)
    return {
        "name": row.name,
        "label": row.label,
        "score": row.score,
        "p_value": row.p_value,
        "stop_step": row.stop_step,
        "size": list(row.pictures.size),
        "pictures": list(known),
    }


def _place(number: int, kind: str) -> str:
    return f"{PICTURES}/{number:05d}-{kind}.webp"


# ---- reading -----------------------------------------------------------------------------------------


def _read_content(folder: Path) -> dict[str, Any]:
    expected = f"{folder}: expected a run folder written by 'mendiff evaluate -o'"
    if not folder.is_dir():
        raise InputError(f"{expected}, but there is no such folder.")
    if not (folder / RUN).is_file():
        raise InputError(f"{expected}, but it holds no {RUN}.")
    try:
        content = from_json((folder / RUN).read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, str(error)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{expected}, but its {RUN} was not written by mendiff.")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{folder}: expected a run of version {VERSION} or older, got version {version}, written by "
            f"mendiff {content.get('mendiff')}; update mendiff."
        )
    return content


def _damaged(folder: Path, why: str) -> InputError:
    return InputError(f"{folder}: {RUN} is damaged ({' '.join(why.split())}); evaluate again.")


def _read_category(
    folder: Path, data: dict[str, Any], numbers: count[int], strips: count[int]
) -> CategoryReport:
    return CategoryReport(
        name=_text(data["name"]),
        threshold=_number(data["threshold"]),
        images=[_read_image(folder, one, next(numbers)) for one in data["images"]],
        metrics={key: _optional(value) for key, value in data["metrics"].items()},
        curves={key: _curve(points) for key, points in data["curves"].items()},
        types=[_read_type(row) for row in data["types"]],
        # Older runs have no strips.
        strips=[_read_strip(folder, one, next(strips)) for one in data.get("strips", [])],
    )


def _read_strip(folder: Path, data: dict[str, Any], number: int) -> Strip:
    picture = _read_picture(folder, _strip_place(number))
    return Strip(_text(data["name"]), _text(data["title"]), _read_size(data["size"]), picture)


def _read_size(data: Any) -> tuple[int, int]:
    width, height = (int(_number(side)) for side in data)
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} pixels")
    return width, height


def _read_type(data: dict[str, Any]) -> TypeRow:
    return TypeRow(
        type=_text(data["type"]),
        images=int(_number(data["images"])),
        flagged=int(_number(data["flagged"])),
        share=_number(data["share"]),
        mean_score=_number(data["mean_score"]),
    )


def _read_image(folder: Path, data: dict[str, Any], number: int) -> ImageRow:
    kinds = set(data["pictures"])
    found = {kind: _read_picture(folder, _place(number, kind)) for kind in KINDS if kind in kinds}
    return ImageRow(
        name=_text(data["name"]),
        label=None if data["label"] is None else _text(data["label"]),
        score=_number(data["score"]),
        pictures=Pictures(_read_size(data["size"]), **found),
        p_value=_optional(data["p_value"]),
        stop_step=None if data["stop_step"] is None else int(_number(data["stop_step"])),
    )


def _read_picture(folder: Path, place: str) -> bytes:
    path = folder / place
    if not path.is_file():
        raise InputError(f"{folder}: {place} is missing; evaluate again.")
    data = path.read_bytes()
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise InputError(f"{path}: expected a whole WebP picture, but it is damaged; evaluate again.")
    return data


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"expected a number, got {value!r}")
    return value


def _optional(value: Any) -> float | None:
    return None if value is None else _number(value)


def _curve(points: Any) -> Curve:
    return [(_number(x), _number(y)) for x, y in points]


def _metrics(data: Mapping[str, Any]) -> dict[str, Any]:
    """Check the nested metrics: numbers or None by name, at any depth."""
    return {
        key: _metrics(value) if isinstance(value, Mapping) else _optional(value)
        for key, value in data.items()
    }
