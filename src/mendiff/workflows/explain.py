"""`mendiff explain`: pictures of the intermediate results of models, side by side."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mendiff.checkpoints.files import FULL, write_json
from mendiff.checkpoints.model_folder import CONFIG, categories_of, read_config
from mendiff.checkpoints.store import load
from mendiff.data.dataset import Sample
from mendiff.data.images import encode, resize_mask, save_png
from mendiff.data.masks import Mask
from mendiff.data.reading import Picture
from mendiff.errors import InputError, NotFiniteError, check_count
from mendiff.model import Model
from mendiff.report.contents import Strip
from mendiff.report.pictures import QUALITY
from mendiff.report.strips import Explanation, describe, draw_explanations
from mendiff.runs.common import choose_device, warn_of_dark_images
from mendiff.runs.findings import error_sentence, left_out, name_images, result_row, skipped_sentence
from mendiff.runs.places import check_output, new_folder
from mendiff.runs.reporting import Reporter
from mendiff.types import Trace
from mendiff.workflows.options import ExplainOptions

CONTENT, STRIPS = "explain.json", "strips"
REPORT_SIDE, REPORT_WIDTH = 96, 1180
"""Side of the pictures and width of the strips in a report, in pixels."""
SMALLEST, LARGEST = 64, 1024
"""Allowed sides of the pictures of a strip, in pixels."""


@dataclass(frozen=True)
class Opened:
    """A model with the folder as the user named it."""

    folder: Path
    model: Model

    @property
    def title(self) -> str:
        """Title of the model's strips."""
        preset = self.model.info.get("preset", "?")
        category = f", as {self.model.category}" if self.model.category else ""
        return f"{self.model.name.upper()}, preset {preset}, model {self.folder.resolve().name}{category}"


def run(options: ExplainOptions, reporter: Reporter) -> dict[str, Any]:
    """Draw the intermediate results of all models for all images; write pictures and JSON into `out`."""
    place = check_output(options.out, options.overwrite, "explanations")
    for folder in place.kept:
        reporter.warn(f"an earlier run into {options.out} was interrupted; its results are in {folder}.")
    check_count("--side", options.side, SMALLEST, LARGEST)
    check_count("--limit", options.limit, 0, 10**9)
    device = choose_device(options.device)
    folders, given = _parted([*options.models, *options.images])
    opened = _open(folders, device, options.category)
    reading = opened[0].model.reading
    named, passed = name_images(given), left_out(given, reading)
    warn_of_dark_images([path for path, _ in named], reading, reporter)
    if passed:
        reporter.warn(skipped_sentence(passed))
    chosen = _chosen(named, options.limit)
    if len(chosen) < len(named):
        reporter.say(f"note: {len(chosen)} of {len(named)} images, evenly spaced; --limit 0 for all.")
    with new_folder(place, worth=CONTENT) as draft, _kept(draft, opened) as content:
        for path, name in reporter.track(chosen, "explaining: images"):
            row = _explained(opened, path, name, options.side, draft)
            if row["error"]:
                reporter.warn(row["error"])
            content["images"].append(row)
        if not any(row["models"] for row in content["images"]):
            raise InputError(f"{content['images'][0]['error']} No image could be read.")
        content |= {"left_out": passed, "complete": not any(row["error"] for row in content["images"])}
    reporter.say(f"{_summary(content['images'])}; see {options.out / STRIPS}")
    return content


def _parted(given: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split the paths of the command line into model folders and images."""
    folders = [path for path in given if (path / CONFIG).is_file()]
    images = [path for path in given if path not in folders]
    if not folders:
        read_config(given[0])  # raises InputError
    if not images:
        raise InputError("IMAGES: expected image files or folders after the models, got only models.")
    return folders, images


def _open(folders: Sequence[Path], device: str, category: str | None) -> list[Opened]:
    """Load all models, with the category where a model has statistics for it."""
    having = [folder for folder in folders if category in categories_of(folder)] or folders
    return [
        Opened(folder, load(folder, device, category if folder in having else None)) for folder in folders
    ]


def _chosen(named: Sequence[tuple[Path, str]], limit: int) -> list[tuple[Path, str]]:
    """At most `limit` images, evenly spaced so that all sub-folders are represented; 0 for all."""
    if not limit or limit >= len(named):
        return list(named)
    return [named[index * len(named) // limit] for index in range(limit)]


@contextmanager
def _kept(draft: Path, opened: Sequence[Opened]) -> Iterator[dict[str, Any]]:
    """The content of explain.json, filled inside the block and written at its end, even after an error."""
    content: dict[str, Any] = {
        "models": [_about(one) for one in opened],
        "images": [],
        "left_out": [],
        "complete": False,
    }
    try:
        yield content
    except BaseException:
        if any(row["models"] for row in content["images"]):
            with suppress(OSError):  # the disk may be full
                write_json(draft / CONTENT, content | {"complete": False})
        raise
    write_json(draft / CONTENT, content)


def _about(one: Opened) -> dict[str, Any]:
    model = one.model
    return {
        "model": str(one.folder),
        "method": model.name,
        "preset": model.info.get("preset"),
        "category": model.category or None,
        "threshold": model.threshold,
    }


def _explained(opened: Sequence[Opened], path: Path, name: str, side: int, draft: Path) -> dict[str, Any]:
    """Draw the strip of an image; returns its row, with an error if the image could not be processed."""
    row: dict[str, Any] = {"image": str(path), "strip": None, "error": None, "models": []}
    pictures: list[Picture] = []
    try:
        pictures += [one.model.read(path) for one in opened]
    except Exception as error:  # decoders raise nearly any exception
        return row | {"error": error_sentence(path, "the image can't be read", error)}
    ways, parts = [], []
    for one, picture in zip(opened, pictures, strict=True):
        try:
            trace = one.model.trace(picture)
        except NotFiniteError as error:
            raise NotFiniteError(error.rows, [str(path)]) from error
        ways.append(explanation_of(one.model, trace, one.title))
        parts.append(traced_part(picture, one.model, trace))
        panels = [describe(panel) for panel in trace.panels]
        result = result_row(one.model, trace.found, 0)
        row["models"].append({"model": str(one.folder), **result, "panels": panels})
    try:
        strip = draft / STRIPS / name
        strip.parent.mkdir(parents=True, exist_ok=True)
        if not all(np.array_equal(parts[0], part) for part in parts):
            raise InputError(
                f"{path}: expected models that show the same part of the image, got models with other tiles; "
                "explain them one at a time."
            )
        save_png(draw_explanations(parts[0], ways, side, path.name), strip)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (*FULL, errno.EFBIG):
            raise  # the disk is full for the next image, too
        return row | {"error": error_sentence(path, "its strip can't be written", error)}
    return row | {"strip": f"{STRIPS}/{name}"}


def traced_part(picture: npt.NDArray[Any], model: Model, trace: Trace) -> npt.NDArray[Any]:
    """The part of a picture (H,W,3), or of a mask (H,W), that a trace shows: a tile, or all of it."""
    height, width = picture.shape[:2]
    tall, wide = model.geometry.size(height, width)
    top, left, bottom, right = trace.box
    rows = slice(round(top * height / tall), round(bottom * height / tall))
    return picture[rows, round(left * width / wide) : round(right * width / wide)]


def explanation_of(model: Model, trace: Trace, title: str) -> Explanation:
    """A model's intermediate results, for drawing."""
    row = result_row(model, trace.found, 0)
    words = f"{'defective' if row['defective'] else 'good'}: score {row['score']:.4g}, threshold "
    words += f"{row['threshold']:.4g}, p = {row['p_value']:.2g}"
    if row["stop_step"]:
        words += f"; stopped at t = {row['stop_step']}"
    return Explanation(title, words, trace, model.threshold, model.calibration.heat_range)


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    drawn, missed = (sum(bool(row["strip"]) is kind for row in rows) for kind in (True, False))
    strips = f"{drawn} strip{'s' * (drawn != 1)}"
    return strips + (f"; {missed} of {len(rows)} images could not be read or drawn" if missed else "")


# ---- for the report of `mendiff evaluate` ------------------------------------------------------------


def informative_images(
    defective: Sequence[bool], scores: Sequence[float], threshold: float
) -> list[tuple[int, str]]:
    """Up to two defective images and a good one that characterise a model, as (index, description).

    Args:
        defective: label of every image.
        scores: of the same images.
        threshold: score above which an image is called defective.
    """
    ranked = sorted(range(len(scores)), key=lambda index: scores[index])
    bad = [index for index in ranked if defective[index]]
    good = [index for index in ranked if not defective[index]]
    chosen = []
    if bad and scores[bad[-1]] > threshold:
        chosen.append((bad[-1], "Detected defect with the highest score"))
    if bad and scores[bad[0]] <= threshold:
        chosen.append((bad[0], "Missed defect with the lowest score"))
    if good:
        chosen.append((good[len(good) // 2], "Good part with the median score"))
    return chosen


def report_strip(model: Model, sample: Sample, mask: Mask | None, title: str) -> Strip:
    """The strip of a test image at report size; mask (H,W) of its defect, if known."""
    picture = model.read(sample.path)
    trace = model.trace(picture)
    way = explanation_of(model, trace, Opened(Path(model.source), model).title)
    shown = traced_part(picture, model, trace)
    if mask is not None and shown.shape != picture.shape:
        mask = traced_part(resize_mask(mask, picture.shape[:2])[0].numpy(), model, trace)
    drawn = draw_explanations(shown, [way], REPORT_SIDE, mask=mask, width=REPORT_WIDTH)
    size = (drawn.shape[1], drawn.shape[0])
    name = f"{sample.label}/{sample.path.name}"
    return Strip(name, title, size, encode(drawn, "WEBP", quality=QUALITY, method=4))
