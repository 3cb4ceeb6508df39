"""`mendiff predict`: detect defects in unlabelled images."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from mendiff.checkpoints.files import FULL, fingerprint_of_files
from mendiff.checkpoints.store import CALIBRATION, CONFIG, load
from mendiff.data.bands import Enlarged, bands
from mendiff.data.images import (
    boundary,
    faint_line,
    normalise_heat,
    overlay,
    save_bands,
    save_float_tiff,
    save_png,
    to_picture,
)
from mendiff.data.inspected import InspectedArea
from mendiff.data.labels import inspected_notes
from mendiff.data.reading import Picture
from mendiff.data.regions import find_regions, threshold_mask
from mendiff.errors import InputError, NotFiniteError, check_range
from mendiff.model import Model
from mendiff.runs.common import choose_device, warn_of_dark_images
from mendiff.runs.findings import COLUMNS, error_sentence, left_out, name_images, result_row, skipped_sentence
from mendiff.runs.locks import exclusive_output
from mendiff.runs.reporting import Reporter
from mendiff.runs.rows import TABLE, Findings, written
from mendiff.runs.thresholds import check_rate
from mendiff.runs.unfinished import Growing, check_growing, check_settings, growing_folder
from mendiff.runs.watching import Arrivals
from mendiff.types import Detection
from mendiff.workflows.options import PredictOptions

KEPT_BYTES = 2**26
"""Bytes of a batch's pictures kept in memory until drawing; further pictures are read again."""
FREE = (
    *("model", "images", "out", "batch_size", "device", "offload", "false_alarm_rate"),
    *("resume", "watch", "overwrite"),
)
"""Options that may change when a run is continued, or that are compared by what they mean."""


@dataclass
class BatchImage:
    """An image of a batch.

    Attributes:
        path: of the image.
        name: of its output files.
        prepared: (3,S,S) in [0,1]; None for an unreadable image.
        picture: at full size; None if too large to be kept.
        error: reason why the image has no result; "" otherwise.
        place: row of the image in the batch's results; None without a result.
    """

    path: Path
    name: str
    prepared: Tensor | None = None
    picture: Picture | None = None
    error: str = ""
    place: int | None = None

    def fail(self, reason: str) -> None:
        """Exclude the image from the batch."""
        self.prepared = self.picture = self.place = None
        self.error = reason


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
        loaded = load(options.model, device, options.category, offload=options.offload, half=options.half)
        loaded = loaded if rate is None else loaded.with_false_alarm_rate(rate)
        work = _watched if options.watch else _all
        return work(loaded, options, growing, reporter)


def _all(model: Model, options: PredictOptions, growing: Growing, reporter: Reporter) -> dict[str, Any]:
    """Score all images that are there."""
    done, names = written(growing.folder) if growing.resumed else (Counter[str](), {})
    named, passed = name_images(options.images, names), left_out(options.images, growing.folder)
    for note in (note for given in options.images for note in inspected_notes(given)):
        reporter.warn(note.sentence)
    warn_of_dark_images([path for path, _ in named], model.method.config.bit_depth, reporter)
    if passed:
        reporter.warn(skipped_sentence(passed))
    with growing_folder(growing, options.out, TABLE) as folder:
        check_settings(folder, _settings(options, model))
        with (
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
    with growing_folder(growing, options.out, TABLE) as folder:
        check_settings(folder, _settings(options, model))
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
        with Findings(folder, head, left_out(options.images, folder)) as findings:
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

    A score depends on the other images of its batch by rounding, so an interrupted batch is computed again
    as a whole.
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
    return 1 if model.geometry.tile else options.batch_size


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
    others = {one.name: getattr(options, one.name) for one in fields(options) if one.name not in FREE}
    return {
        "model": fingerprint_of_files([options.model / CONFIG, options.model / CALIBRATION]),
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


def inspected(
    model: Model,
    batch: Sequence[tuple[Path, str]],
    wanted: Sequence[bool],
    options: PredictOptions,
    folder: Path,
) -> Iterator[dict[str, Any] | None]:
    """The row of every image of a batch, after its pictures are written; None for an image not wanted.

    A row of a failed image states the reason.
    """
    subjects = list(_prepared(model, batch))
    found = _found(model, subjects, options)
    for one, needed in zip(subjects, wanted, strict=True):
        if not needed:
            yield None
            continue
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"image": str(one.path), "error": one.error or None}
        if one.place is not None:
            row |= result_row(model, found[one.place], 0)
            row |= _drawn(model, one, found[one.place], options, folder)
        yield row


def _drawn(
    model: Model, one: BatchImage, found: Detection, options: PredictOptions, folder: Path
) -> dict[str, Any]:
    """Write the pictures of an image; returns its columns, with the reason if a picture can't be written."""
    columns: dict[str, Any] = {}
    try:
        output = ImageOutput(folder, one.name, options.raw_maps)
        picture = model.read(one.path) if one.picture is None else one.picture
        one.picture = None
        columns |= {"width": picture.shape[1], "height": picture.shape[0]}
        heat, rebuilt = found.anomaly_map[0], found.reconstruction[0]
        for name, value in output.write(picture, heat, rebuilt, model.calibration.heat_range, model.area):
            columns[name] = value
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (*FULL, errno.EFBIG):
            raise  # the disk is full for the next image, too
        columns["error"] = error_sentence(one.path, "its pictures can't be written", error)
    return columns


def _found(model: Model, subjects: Sequence[BatchImage], options: PredictOptions) -> list[Detection]:
    """The model's results, one row each; sets the place of each image in them.

    An image without finite results gets an error, and the others are computed without it.
    """
    while known := [one for one in subjects if one.prepared is not None]:
        for place, one in enumerate(known):
            one.place = place
        try:
            images = [one.prepared for one in known if one.prepared is not None]
            return list(model.rows(images, options.batch_size, explain=options.explain))
        except NotFiniteError as error:
            for row in error.rows:
                known[row].fail(str(NotFiniteError([row], [str(known[row].path)])))
    return []


def _prepared(model: Model, batch: Sequence[tuple[Path, str]]) -> Iterator[BatchImage]:
    """Read the images of a batch; full-size pictures are kept up to KEPT_BYTES."""
    free = KEPT_BYTES
    for path, name in batch:
        one = BatchImage(path, name)
        try:
            picture = model.read(path)
            if model.area is not None:
                model.area.check(picture.shape[0], picture.shape[1], str(path))
            one.prepared = model.prepare(picture)
            if picture.nbytes <= free:
                one.picture, free = picture, free - picture.nbytes
            del picture
        except Exception as error:  # decoders raise nearly any exception
            one.fail(error_sentence(path, "the image can't be read", error))
        yield one


@dataclass(frozen=True)
class ImageOutput:
    """Files of an image, all at the size of the original.

    Attributes:
        folder: of all results.
        name: of the image's PNG files.
        raw_maps: also write the anomaly map as float32 TIFF.
    """

    folder: Path
    name: str
    raw_maps: bool

    def write(
        self,
        picture: Picture,
        anomaly_map: Tensor,
        reconstruction: Tensor,
        heat_range: tuple[float, float],
        area: InspectedArea | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Write the files; yields column and value of each, and the regions above the pixel threshold."""
        height, width = picture.shape[:2]
        inside = None if area is None else area.at(height, width)[0].numpy()
        line = None if inside is None else boundary(inside)
        heat = Enlarged(anomaly_map, height, width, inside)
        rebuilt = Enlarged(reconstruction, height, width)

        def drawn_on(rows: slice) -> Picture:
            shown = picture[rows] if line is None else faint_line(picture[rows], line[rows])
            return overlay(shown, normalise_heat(heat[rows][0].numpy(), *heat_range))

        drawn = {
            "heat_map": (drawn_on(rows) for rows in bands(height, width)),
            "reconstruction": (to_picture(rebuilt[rows]) for rows in bands(height, width)),
        }
        for kind, pixels in drawn.items():
            save_bands(self._file(f"{kind}s", self.name), height, width, pixels)
            yield kind, f"{kind}s/{self.name}"
        mask = threshold_mask(heat, heat_range[0], height, width)
        save_png(mask, self._file("masks", self.name))
        yield "mask", f"masks/{self.name}"
        yield "regions", [region.to_dict() for region in find_regions(mask, heat)]
        if self.raw_maps:
            name = str(Path(self.name).with_suffix(".tiff"))
            rows_of_map = (heat[rows][0].numpy() for rows in bands(height, width))
            save_float_tiff(self._file("raw_maps", name), height, width, rows_of_map)
            yield "raw_map", f"raw_maps/{name}"

    def _file(self, kind: str, name: str) -> Path:
        file = self.folder / kind / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file
