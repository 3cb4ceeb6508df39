"""`mendiff predict`: detect defects in unlabelled images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from mendiff.checkpoints.files import fingerprint_of_files
from mendiff.checkpoints.model_folder import CALIBRATION, CONFIG
from mendiff.checkpoints.store import load
from mendiff.data.labels import inspected_notes
from mendiff.errors import InputError, check_range
from mendiff.export.opening import open_exported
from mendiff.model import Model
from mendiff.runs.common import choose_device, warn_of_dark_images
from mendiff.runs.findings import left_out, name_images, skipped_sentence
from mendiff.runs.locks import exclusive_output
from mendiff.runs.reporting import Reporter
from mendiff.runs.rows import TABLE, Findings, written
from mendiff.runs.thresholds import check_rate
from mendiff.runs.unfinished import Growing, check_growing, growing_folder
from mendiff.runs.watching import Arrivals
from mendiff.runtime.metadata import FILE as METADATA
from mendiff.runtime.metadata import is_export
from mendiff.workflows.images import inspected
from mendiff.workflows.options import PredictOptions

FREE = (
    *("model", "images", "out", "batch_size", "device", "offload", "false_alarm_rate"),
    *("resume", "watch", "overwrite"),
)
"""Options that may change when a run is continued, or that are compared by what they mean."""


def run(options: PredictOptions, reporter: Reporter) -> dict[str, Any]:
    """Score all readable images below `images`; write tables, JSON and pictures into `out`."""
    check_range("--batch-size", options.batch_size, 1)
    with exclusive_output(options.out, "prediction"):
        growing = check_growing(
            options.out,
            "findings",
            overwrite=options.overwrite,
            resume=options.resume,
            endless=options.watch,
        )
        rate = None if options.false_alarm_rate is None else check_rate(options.false_alarm_rate)
        device = choose_device(options.device)
        loaded = _opened(options, device)
        loaded = loaded if rate is None else loaded.with_false_alarm_rate(rate)
        work = _watched if options.watch else _all
        return work(loaded, options, growing, reporter)


def _opened(options: PredictOptions, device: str) -> Model:
    """The model, or the exported model, which runs on the CPU."""
    if not is_export(options.model):
        if options.streams != 1:
            raise InputError(
                f"--streams: expected 1 for a model folder, got {options.streams}; a folder of 'mendiff "
                "export' has several."
            )
        return load(options.model, device, options.category, offload=options.offload, half=options.half)
    if options.category is not None:
        raise InputError("--category: expected none for an exported model; choose it with 'mendiff export'.")
    if options.device not in ("auto", "cpu") or options.offload:
        raise InputError("--device: expected cpu without --offload for an exported model.")
    return open_exported(options.model, half=options.half, streams=options.streams)


def _all(model: Model, options: PredictOptions, growing: Growing, reporter: Reporter) -> dict[str, Any]:
    """Score all images that are there."""
    done, names = written(growing.folder) if growing.resumed else (Counter[str](), {})
    named = name_images(options.images, names)
    passed = left_out(options.images, model.reading, growing.folder)
    for note in (note for given in options.images for note in inspected_notes(given)):
        reporter.warn(note.sentence)
    warn_of_dark_images([path for path, _ in named], model.reading, reporter)
    if passed:
        reporter.warn(skipped_sentence(passed))
    with (
        growing_folder(growing, options.out, TABLE, _settings(options, model)) as folder,
        Findings(folder, _head(options, model), passed) as findings,
        reporter.bar("predicting: images") as update,
    ):
        for place, row in _rows(model, named, done, options, folder):
            _add(findings, row, reporter)
            update(place, len(named), "")
        if not findings.scored:
            raise InputError(f"{findings.error} No image could be read.")
        findings.finish()
    reporter.say(f"{summary(findings, model.threshold)}; see {options.out}")
    return findings.content(True, options.out)


def _watched(model: Model, options: PredictOptions, growing: Growing, reporter: Reporter) -> dict[str, Any]:
    """Score images as they come, until Ctrl-C."""
    done, names = written(growing.folder) if growing.resumed else (Counter[str](), {})
    arrivals, head = Arrivals(options.images, done, names), _head(options, model)
    with growing_folder(growing, options.out, TABLE, _settings(options, model)) as folder:
        with suppress(KeyboardInterrupt), Findings(folder, head) as findings:
            places = ", ".join(map(str, options.images))
            reporter.say(f"watching {places}; rows and pictures are in {folder}; Ctrl-C ends")
            for batch in arrivals.batches(_images_per_batch(model, options)):
                for (path, _), row in zip(
                    batch, inspected(model, batch, [True] * len(batch), options, folder), strict=True
                ):
                    if row is not None and arrivals.is_settled(path, row["score"] is not None):
                        findings.add(row)
                        reporter.item(_line(row), row)
        # The interruption may have come in the middle of anything; the rows on disk count.
        with Findings(folder, head, left_out(options.images, model.reading, folder)) as findings:
            findings.finish()
    reporter.say(f"{summary(findings, model.threshold)}; see {options.out}")
    return {"complete": findings.is_complete}


def _line(row: Mapping[str, Any]) -> str:
    """A row in a line of text."""
    if row["score"] is None:
        return str(row["error"])
    what, sign = ("defective", ">") if row["defective"] else ("good", "<=")
    note = f"; {row['error']}" if row["error"] else ""
    return f"{row['image']}: {what} (score {row['score']:.4g} {sign} {row['threshold']:.4g}){note}"


def _rows(
    model: Model,
    named: Sequence[tuple[Path, str]],
    done: Counter[str],
    options: PredictOptions,
    folder: Path,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of every image without a row. Batches are those of a run from the start.

    A score depends by rounding on the images that are processed together, so these are computed again as a
    whole if some of their rows are missing.
    """
    count = _images_per_batch(model, options)
    for first in range(0, len(named), count):
        batch = named[first : first + count]
        lacking = [not _taken(done, str(path)) for path, _ in batch]
        if any(lacking):
            for at, row in enumerate(inspected(model, batch, lacking, options, folder)):
                if row is not None:
                    yield first + at + 1, row


def _images_per_batch(model: Model, options: PredictOptions) -> int:
    """Images that are processed together; the tiles of a large image fill batches on their own."""
    return 1 if model.geometry.tile else options.batch_size * model.method.batches_in_flight


def _taken(done: Counter[str], image: str) -> bool:
    """Whether an image has a row; a row counts for a single image of the list."""
    done[image] -= 1
    return done[image] >= 0


def _add(findings: Findings, row: Mapping[str, Any], reporter: Reporter) -> None:
    findings.add(row)
    if row["error"]:
        reporter.warn(row["error"])


def _head(options: PredictOptions, model: Model) -> dict[str, Any]:
    return {"model": str(options.model), "threshold": model.threshold}


def _settings(options: PredictOptions, model: Model) -> dict[str, Any]:
    """What determines the rows, to compare it when the run is continued."""
    identity = (METADATA,) if is_export(options.model) else (CONFIG, CALIBRATION)
    others = {one.name: getattr(options, one.name) for one in fields(options) if one.name not in FREE}
    return {
        "model": fingerprint_of_files([options.model / name for name in identity]),
        "images": list(map(str, options.images)),
        "threshold": model.threshold,
        **{name: str(value) if isinstance(value, Path) else value for name, value in others.items()},
    }


def summary(findings: Findings, threshold: float) -> str:
    """What was found, and what could not be read."""
    text = f"defective: {findings.flagged} of {findings.scored} images (score above {threshold:.4g})"
    if findings.unreadable:
        more = ", ..." if findings.unreadable > len(findings.missed) else ""
        text += f"; {findings.unreadable} more could not be read ({', '.join(findings.missed)}{more})"
    undrawn = findings.undrawn
    return text + (f"; the pictures of {undrawn} could not be written" if undrawn else "")
