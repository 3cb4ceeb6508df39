"""`mendiff predict`: detect defects in unlabelled images."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.files import FULL
from mendiff.checkpoints.store import load
from mendiff.data.bands import Enlarged, bands
from mendiff.data.images import normalise_heat, overlay, save_bands, save_float_tiff, save_png, to_picture
from mendiff.data.labels import inspected_notes
from mendiff.data.reading import Picture
from mendiff.data.regions import find_regions, threshold_mask
from mendiff.errors import InputError, NotFiniteError, check_range
from mendiff.model import Model
from mendiff.runs.common import choose_device, warn_of_dark_images
from mendiff.runs.findings import (
    COLUMNS,
    TABLE,
    Findings,
    counted,
    error_sentence,
    left_out,
    name_images,
    result_row,
)
from mendiff.runs.places import check_output, new_folder
from mendiff.runs.reporting import Reporter
from mendiff.runs.thresholds import check_rate
from mendiff.types import Detection
from mendiff.workflows.options import PredictOptions

KEPT_BYTES = 2**26
"""Bytes of a batch's pictures kept in memory until drawing; further pictures are read again."""


@dataclass
class BatchImage:
    """An image of a batch.

    Attributes:
        path: of the image.
        name: of its output files.
        prepared: (3,S,S) in [0,1]; None for an unreadable image.
        picture: at full size; None if too large to be kept.
        error: reason why the image can't be read; "" otherwise.
    """

    path: Path
    name: str
    prepared: Tensor | None = None
    picture: Picture | None = None
    error: str = ""


def run(options: PredictOptions, reporter: Reporter) -> dict[str, Any]:
    """Score all readable images below `images`; write CSV, JSON and pictures into `out`."""
    place = check_output(options.out, options.overwrite, "findings")
    for folder in place.kept:
        reporter.warn(f"an earlier run into {options.out} was interrupted; its results are in {folder}.")
    check_range("--batch-size", options.batch_size, 1)
    rate = None if options.false_alarm_rate is None else check_rate(options.false_alarm_rate)
    device = choose_device(options.device)
    loaded = load(options.model, device, options.category, offload=options.offload, half=options.half)
    loaded = loaded if rate is None else loaded.with_false_alarm_rate(rate)
    named, passed = name_images(options.images), left_out(options.images)
    for note in (note for given in options.images for note in inspected_notes(given)):
        reporter.warn(note.sentence)
    warn_of_dark_images([path for path, _ in named], loaded.method.config.bit_depth, reporter)
    if passed:
        reporter.warn(f"{len(passed)} files are skipped: {counted(passed)}.")
    size = options.batch_size
    batches = [named[first : first + size] for first in range(0, len(named), size)]
    with (
        new_folder(place, worth=TABLE) as draft,
        Findings(draft, options.model, loaded.threshold, passed) as findings,
    ):
        rows = chain.from_iterable(_inspected(loaded, batch, options, draft, reporter) for batch in batches)
        with reporter.bar("predicting") as update:
            for done, row in enumerate(rows, start=1):
                findings.add(row)
                update(done, len(named), "")
        if not findings.rows:
            raise InputError(f"{findings.unreadable[0]} No image could be read.")
        result = findings.write(complete=True)
    reporter.say(f"{_summary(findings, loaded.threshold)}; see {options.out}")
    return result


def _summary(findings: Findings, threshold: float) -> str:
    rows, missed = findings.rows, len(findings.unreadable)
    flagged, undrawn = (sum(bool(row[key]) for row in rows) for key in ("defective", "error"))
    text = f"defective: {flagged} of {len(rows)} images (score above {threshold:.4g})"
    text += f"; {missed} more could not be read" if missed else ""
    return text + (f"; the pictures of {undrawn} could not be written" if undrawn else "")


def _inspected(
    model: Model,
    batch: Sequence[tuple[Path, str]],
    options: PredictOptions,
    folder: Path,
    reporter: Reporter,
) -> Iterator[dict[str, Any]]:
    """Write the pictures of a batch; yields a row per image, with an error for a failed image."""
    subjects = list(_prepared(model, batch, reporter))
    found = _found(model, subjects, options.explain)
    index = -1
    for one in subjects:
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"image": str(one.path), "error": one.error or None}
        if found is None or one.prepared is None:
            yield row
            continue
        index += 1
        row |= result_row(model, found, index)
        try:
            output = ImageOutput(folder, one.name, options.raw_maps)
            picture = model.read(one.path) if one.picture is None else one.picture
            row |= {"width": picture.shape[1], "height": picture.shape[0]}
            limits = model.calibration.heat_range
            for name, value in output.write(
                picture, found.anomaly_map[index], found.reconstruction[index], limits
            ):
                row[name] = value
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (*FULL, errno.EFBIG):
                raise  # the disk is full for the next image, too
            row["error"] = error_sentence(one.path, "its pictures can't be written", error)
            reporter.warn(row["error"])
        one.picture = None
        yield row


def _found(model: Model, subjects: Sequence[BatchImage], explain: bool) -> Detection | None:
    """The model's results for the readable images; None without readable images."""
    known = [(one.path, one.prepared) for one in subjects if one.prepared is not None]
    if not known:
        return None
    try:
        return model.predict_batch(torch.stack([prepared for _, prepared in known]), explain=explain)
    except NotFiniteError as error:
        raise NotFiniteError(error.rows, [str(known[row][0]) for row in error.rows]) from error


def _prepared(model: Model, batch: Sequence[tuple[Path, str]], reporter: Reporter) -> Iterator[BatchImage]:
    """Read the images of a batch; full-size pictures are kept up to KEPT_BYTES."""
    free = KEPT_BYTES
    for path, name in batch:
        one = BatchImage(path, name)
        try:
            picture = model.read(path)
            one.prepared = model.prepare(picture)
            if picture.nbytes <= free:
                one.picture, free = picture, free - picture.nbytes
            del picture
        except Exception as error:  # decoders raise nearly any exception
            one.error = error_sentence(path, "the image can't be read", error)
            reporter.warn(one.error)
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
        self, picture: Picture, anomaly_map: Tensor, reconstruction: Tensor, heat_range: tuple[float, float]
    ) -> Iterator[tuple[str, Any]]:
        """Write the files; yields column and value of each, and the regions above the pixel threshold."""
        height, width = picture.shape[:2]
        heat, rebuilt = Enlarged(anomaly_map, height, width), Enlarged(reconstruction, height, width)
        drawn = {
            "heat_map": (
                overlay(picture[rows], normalise_heat(heat[rows][0].numpy(), *heat_range))
                for rows in bands(height, width)
            ),
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
