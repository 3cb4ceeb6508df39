"""`mendiff explain`: pictures of how models come to their findings, side by side."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mendiff.checkpoints.files import FULL, write_json
from mendiff.checkpoints.store import CONFIG, categories_of, load, read_config
from mendiff.data.dataset import Sample
from mendiff.data.images import encode, save_png
from mendiff.data.masks import Mask
from mendiff.data.reading import Picture
from mendiff.errors import InputError, NotFiniteError, check_count
from mendiff.model import Model
from mendiff.report.contents import Strip
from mendiff.report.pictures import QUALITY
from mendiff.report.strips import Explanation, describe, draw_explanations
from mendiff.types import Trace
from mendiff.workflows.common import choose_device, warn_of_dark_images
from mendiff.workflows.findings import counted, left_out, name_images, told
from mendiff.workflows.options import ExplainOptions
from mendiff.workflows.places import check_output, new_folder
from mendiff.workflows.reporting import Reporter

CONTENT, STRIPS = "explain.json", "strips"
REPORT_SIDE, REPORT_WIDTH = 96, 1180
"""Of single pictures and whole strips in a report, in pixels."""
SMALLEST, LARGEST = 64, 1024
"""Sides of the single pictures of a strip, in pixels."""


@dataclass(frozen=True)
class Opened:
    """A model with the folder that the user named."""

    folder: Path
    model: Model

    @property
    def title(self) -> str:
        """Of its strips."""
        preset = self.model.info.get("preset", "?")
        category = f", as {self.model.category}" if self.model.category else ""
        return f"{self.model.name.upper()}, preset {preset}, model {self.folder.resolve().name}{category}"


def run(options: ExplainOptions, reporter: Reporter) -> dict[str, Any]:
    """Draw the way of every model to its finding on every image, and write pictures and JSON into `out`."""
    place = check_output(options.out, options.overwrite, "explanations")
    for folder in place.kept:
        reporter.warn(
            f"an earlier run into {options.out} did not come to its end; what it had drawn is in {folder}."
        )
    check_count("--side", options.side, SMALLEST, LARGEST)
    check_count("--limit", options.limit, 0, 10**9)
    device = choose_device(options.device)
    folders, given = _parted([*options.models, *options.images])
    opened = _open(folders, device, options.category)
    named, passed = name_images(given), left_out(given)
    warn_of_dark_images([path for path, _ in named], opened[0].model.method.config.bit_depth, reporter)
    if passed:
        reporter.warn(f"{len(passed)} files are not looked at: {counted(passed)}.")
    chosen = _chosen(named, options.limit)
    if len(chosen) < len(named):
        reporter.say(f"note: {len(chosen)} of {len(named)} images, evenly picked; --limit 0 explains all.")
    with new_folder(place, worth=CONTENT) as draft, _kept(draft, opened) as content:
        for path, name in reporter.track(chosen, "explaining"):
            row = _explained(opened, path, name, options.side, draft)
            if row["error"]:
                reporter.warn(row["error"])
            content["images"].append(row)
        if not any(row["models"] for row in content["images"]):
            raise InputError(f"{content['images'][0]['error']} No readable image is left.")
        content |= {"left_out": passed, "complete": not any(row["error"] for row in content["images"])}
    reporter.say(f"{_summary(content['images'])}; see {options.out / STRIPS}")
    return content


def _parted(given: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The model folders among the paths on the command line, and the others, which are images."""
    folders = [path for path in given if (path / CONFIG).is_file()]
    others = [path for path in given if path not in folders]
    if not folders:
        read_config(given[0])  # says what is wrong with it
    if not others:
        raise InputError("expected IMAGES after the models, image files or folders, got models alone.")
    return folders, others


def _open(folders: Sequence[Path], device: str, category: str | None) -> list[Opened]:
    """All models; of several only those that have statistics for the category are told which."""
    knowing = [folder for folder in folders if category in categories_of(folder)] or folders
    return [Opened(one, load(one, device, category if one in knowing else None)) for one in folders]


def _chosen(named: Sequence[tuple[Path, str]], limit: int) -> list[tuple[Path, str]]:
    """As many images as asked for, evenly picked, so that all kinds are among them."""
    if not limit or limit >= len(named):
        return list(named)
    return [named[index * len(named) // limit] for index in range(limit)]


@contextmanager
def _kept(draft: Path, opened: Sequence[Opened]) -> Iterator[dict[str, Any]]:
    """What is found, to be filled; it is written when the block ends, well or not."""
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
            with suppress(OSError):  # a full disk may be why
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
    """The row of one image, whose strip is drawn; what is wrong with it is its own."""
    row: dict[str, Any] = {"image": str(path), "strip": None, "error": None, "models": []}
    pictures: list[Picture] = []
    try:
        pictures += [one.model.read(path) for one in opened]
    except Exception as error:  # decoders raise nearly anything, and the other images wait
        return row | {"error": told(path, "the image can't be read", error)}
    ways = []
    for one, picture in zip(opened, pictures, strict=True):
        try:
            trace = one.model.trace(picture)
        except NotFiniteError as error:
            raise NotFiniteError(error.rows, [str(path)]) from error
        ways.append(explanation_of(one.model, trace, one.title))
        row["models"].append({"model": str(one.folder), **verdict_row(one.model, trace), **_panels(trace)})
    try:
        strip = draft / STRIPS / name
        strip.parent.mkdir(parents=True, exist_ok=True)
        save_png(draw_explanations(pictures[0], ways, side, path.name), strip)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (*FULL, errno.EFBIG):
            raise  # the next image's strip would not find room either
        return row | {"error": told(path, "its strip can't be written", error)}
    return row | {"strip": f"{STRIPS}/{name}"}


def _panels(trace: Trace) -> dict[str, Any]:
    return {"panels": [describe(panel) for panel in trace.panels]}


def verdict_row(model: Model, trace: Trace) -> dict[str, Any]:
    """What a model says of an image, as `mendiff predict` tells it."""
    score = float(trace.found.score)
    return {
        "score": score,
        "threshold": model.threshold,
        "defective": score > model.threshold,
        "p_value": model.calibration.p_value(score),
        "stop_step": int(trace.found.stop_step),
    }


def explanation_of(model: Model, trace: Trace, title: str) -> Explanation:
    """A model's way to its finding, for drawing."""
    said = verdict_row(model, trace)
    words = f"looks {'defective' if said['defective'] else 'good'}: score {said['score']:.4g}, threshold "
    words += f"{said['threshold']:.4g}, p = {said['p_value']:.2g}"
    if said["stop_step"]:
        words += f"; stopped at t = {said['stop_step']}"
    return Explanation(title, words, trace, model.threshold, model.calibration.heat_range)


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    drawn, missed = (sum(bool(row["strip"]) is kind for row in rows) for kind in (True, False))
    strips = f"{drawn} strip{'s' * (drawn != 1)}"
    return strips + (f"; {missed} of {len(rows)} images could not be read or drawn" if missed else "")


# ---- for the report of `mendiff evaluate` ------------------------------------------------------------


def informative_images(
    defective: Sequence[bool], scores: Sequence[float], threshold: float
) -> list[tuple[int, str]]:
    """The images that tell most of a model, as (index, why): two defective ones and a good one at most.

    Args:
        defective: of every image.
        scores: of the same.
        threshold: above which an image is called defective.
    """
    ranked = sorted(range(len(scores)), key=lambda index: scores[index])
    bad = [index for index in ranked if defective[index]]
    good = [index for index in ranked if not defective[index]]
    chosen = []
    if bad and scores[bad[-1]] > threshold:
        chosen.append((bad[-1], "The defect that was found most clearly"))
    if bad and scores[bad[0]] <= threshold:
        chosen.append((bad[0], "The defect that was missed most clearly"))
    if good:
        chosen.append((good[len(good) // 2], "The good part of median score"))
    return chosen


def report_strip(model: Model, sample: Sample, mask: Mask | None, title: str) -> Strip:
    """The strip of one test image, small enough for a page; mask (H,W) of its defect, if known."""
    picture = model.read(sample.path)
    way = explanation_of(model, model.trace(picture), Opened(Path(model.source), model).title)
    drawn = draw_explanations(picture, [way], REPORT_SIDE, mask=mask, width=REPORT_WIDTH)
    size = (drawn.shape[1], drawn.shape[0])
    name = f"{sample.label}/{sample.path.name}"
    return Strip(name, title, size, encode(drawn, "WEBP", quality=QUALITY, method=4))
