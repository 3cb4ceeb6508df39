"""The images of a prediction: they are read, scored in batches, and drawn."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from mendiff.checkpoints.files import FULL
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
from mendiff.data.reading import Picture
from mendiff.data.regions import find_regions, threshold_mask
from mendiff.errors import NotFiniteError
from mendiff.model import Model
from mendiff.runs.findings import COLUMNS, error_sentence, result_row
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
        error: reason why the image has no result; "" otherwise.
    """

    path: Path
    name: str
    prepared: Tensor | None = None
    picture: Picture | None = None
    error: str = ""

    def fail(self, reason: str) -> None:
        """Exclude the image from the batch."""
        self.prepared = self.picture = None
        self.error = reason


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
    results = _found(model, subjects, options)
    found: dict[int, Detection] = {}
    for at, (one, needed) in enumerate(zip(subjects, wanted, strict=True)):
        while one.prepared is not None and at not in found:
            for place, result in islice(results, 1):  # ends when the images that are left have failed
                found[place] = result
        if not needed:
            found.pop(at, None)
            yield None
            continue
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"image": str(one.path), "error": one.error or None}
        if at in found:
            result = found.pop(at)
            row |= result_row(model, result, 0)
            row |= _drawn(model, one, result, options, folder)
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


def _found(
    model: Model, subjects: Sequence[BatchImage], options: PredictOptions
) -> Iterator[tuple[int, Detection]]:
    """(place, result of one row) of every image that can be read, in order.

    An image without finite results gets an error, and the images after it are computed without it.
    """
    left = [place for place, one in enumerate(subjects) if one.prepared is not None]
    while left:
        images = [one for place in left if (one := subjects[place].prepared) is not None]
        try:
            for row in model.rows(images, options.batch_size, explain=options.explain):
                yield left.pop(0), row
        except NotFiniteError as error:
            done = len(images) - len(left)
            lost = [left[row - done] for row in error.rows]
            for place in lost:
                subjects[place].fail(str(NotFiniteError([place], [str(subjects[place].path)])))
            left = [place for place in left if place not in lost]


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
