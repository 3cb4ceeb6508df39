"""`mendiff monitor`: do the scores of new parts still match those of the calibration set?"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mendiff.calibration import MINIMUM, Calibration
from mendiff.calibration.drift import HIGHER, LIMIT, Drift, find_drift
from mendiff.checkpoints.files import writing
from mendiff.checkpoints.model_folder import read_calibration
from mendiff.data.images import check_writable, write_bytes
from mendiff.errors import InputError
from mendiff.report.monitor import draw_drift
from mendiff.runs.reporting import Reporter
from mendiff.runs.rows import LINES, TABLE, read_rows
from mendiff.workflows.options import MonitorOptions

PICTURE = "monitor.png"
SIGNIFICANT = 0.001
"""p-value of the Kolmogorov-Smirnov test below which the distributions are said to differ."""
NOT_COMPARED = (
    "note: {} calibration scores of training images are left out here, though they count for the p-values of "
    "predict; more images that were not trained on make the test sharper: see 'mendiff calibrate'."
)


@dataclass(frozen=True)
class Scored:
    """An image of the findings, with its score and its p-value as written there."""

    image: str
    score: float
    p_value: float | None


def run(options: MonitorOptions, reporter: Reporter) -> dict[str, Any]:
    """Test the scores of findings against the calibration set; print a sentence and draw the course."""
    if not 0 <= options.defects < 1:
        raise InputError(
            f"--defects: expected a share from 0 to below 1, such as 0.05, got {options.defects:g}."
        )
    calibration = read_calibration(options.model, options.category)
    known = calibration.scores[: calibration.held_back]
    if len(known) < MINIMUM:
        raise InputError(
            f"{options.model}: expected calibration scores of at least {MINIMUM} images that were not "
            f"trained on, got {len(known)}; calibrate the model with 'mendiff calibrate' first."
        )
    images = [one for place in options.findings for one in _scored(place)]
    if not images:
        raise InputError(
            f"{options.findings[0]}: expected images with scores, got none; run 'mendiff predict' first."
        )
    _check_calibration(images[0], calibration, reporter)
    picture = _picture(options.out or _folder(options.findings[0]))
    scores = [one.score for one in images]
    drift = find_drift(known, scores, calibration.threshold, options.defects, options.seed)
    flagged = [score > calibration.threshold for score in scores]
    with writing(picture):
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(picture, draw_drift(drift, flagged))
    result = _result(drift, images, len(known), options)
    reporter.result(result["sentence"])
    if others := len(calibration.scores) - len(known):
        reporter.say(NOT_COMPARED.format(others))
    reporter.say(f"picture: {picture}")
    return {**result, "flagged": sum(flagged), "picture": str(picture)}


def _result(drift: Drift, images: list[Scored], known: int, options: MonitorOptions) -> dict[str, Any]:
    since = None
    if drift.since is not None:
        name = images[drift.since].image
        since = {"number": drift.since + 1, "image": name, "time": _time(name)}
    return {
        "drift": drift.alarm is not None or drift.uniformity < SIGNIFICANT,
        "sentence": _sentence(drift, since, len(images), known, options.defects),
        "since": since,
        "direction": drift.direction or None,
        "alarm": None if drift.alarm is None else drift.alarm + 1,
        "martingale": {"limit": LIMIT, "log10": [value / math.log(10) for value in drift.log_capital]},
        "kolmogorov_smirnov": {"distance": drift.distance, "p_value": drift.uniformity},
        "p_values": list(drift.p_values),
        "images": len(images),
        "calibration_scores": known,
        "defects": options.defects,
    }


def _sentence(drift: Drift, since: Mapping[str, Any] | None, count: int, known: int, defects: float) -> str:
    highest = max(drift.log_capital) / math.log(10)
    reached = f"{10**highest:.3g}" if highest < 6 else f"1e{highest:.0f}"
    martingale = f"martingale at most {reached}, limit {LIMIT:g}"
    test = f"Kolmogorov-Smirnov p = {drift.uniformity:.2g}"
    if since is not None and drift.alarm is not None:
        time = f", {since['time']}" if since["time"] else ""
        doubt = f", or more than {100 * defects:g} % of the parts are defective"
        doubt = doubt if drift.direction == HIGHER else ""
        return (
            f"drift since image {since['number']} ({since['image']}{time}): scores are {drift.direction} "
            f"than those of the held-back images{doubt} ({martingale} reached at image {drift.alarm + 1})"
        )
    if drift.uniformity < SIGNIFICANT:
        return (
            f"drift: the scores of {count} images differ from those of the {known} held-back images, since "
            f"when is unclear ({test}; {martingale})"
        )
    return (
        f"no sign of drift: the scores of {count} images match those of the {known} held-back images "
        f"({martingale}; {test})"
    )


def _picture(out: Path) -> Path:
    """The path of the picture: `out`, or a file in this folder."""
    picture = out / PICTURE if out.is_dir() else out
    if picture.suffix.lower() != Path(PICTURE).suffix:
        raise InputError(f"--out: expected a PNG file such as drift.png, or an existing folder, got {out}.")
    check_writable(picture)
    return picture


def _folder(findings: Path) -> Path:
    return findings if findings.is_dir() else findings.parent


def _scored(place: Path) -> Iterator[Scored]:
    """The images with scores in a findings folder, a predictions.jsonl or a predictions.csv."""
    file = place / LINES if place.is_dir() else place
    if not file.is_file():
        raise InputError(f"{file}: expected findings of 'mendiff predict', but there is no such file.")
    if file.suffix == Path(TABLE).suffix:
        yield from _scored_table(file)
        return
    for row in read_rows(file):
        if row["score"] is not None:
            yield Scored(row["image"], float(row["score"]), row["p_value"])


def _scored_table(file: Path) -> Iterator[Scored]:
    with file.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines)
        if not {"image", "score", "p_value"} <= set(table.fieldnames or ()):
            raise InputError(f"{file}: expected a table of 'mendiff predict' with image, score and p_value.")
        for row in table:
            try:
                if row["score"]:
                    yield Scored(row["image"], float(row["score"]), float(row["p_value"]))
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{file}, line {table.line_num}: expected a score and a p-value, got {row['score']!r} "
                    f"and {row['p_value']!r}; run 'mendiff predict' again."
                ) from error


def _check_calibration(first: Scored, calibration: Calibration, reporter: Reporter) -> None:
    if first.p_value is not None and not math.isclose(first.p_value, calibration.p_value(first.score)):
        reporter.warn(
            f"{first.image}: its p-value does not follow from this model's calibration scores; the findings "
            "are of another model, or the model was calibrated since."
        )


def _time(image: str) -> str | None:
    """Time of an image file's last change; None if it is not there."""
    try:
        return datetime.fromtimestamp(Path(image).stat().st_mtime).isoformat(" ", "seconds")
    except OSError:
        return None
