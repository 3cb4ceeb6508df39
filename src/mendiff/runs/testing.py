"""Test images: reading, prediction, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.data.dataset import Category, Sample
from mendiff.data.geometry import Geometry, on_canvas
from mendiff.data.images import resize, resize_mask
from mendiff.data.inspected import InspectedArea
from mendiff.data.masks import Mask, read_masks
from mendiff.data.reading import AS_STORED, Picture, Reading, image_size, read_image
from mendiff.errors import InputError, NotFiniteError
from mendiff.evaluation.metrics import Metrics, image_and_pixel_metrics
from mendiff.inspection import stacked
from mendiff.model import Model
from mendiff.runs.reporting import Reporter
from mendiff.types import Detection

MOST_SIDE = 1024
"""Longest side in pixels of maps of tiled images in pixel metrics."""


class Ranked(NamedTuple):
    """Results on a category's test images, for metrics over several categories.

    Attributes:
        scores: (N,).
        labels: (N,) bool.
        maps: (N,1,H,W).
        masks: (N,1,H,W) bool; None if the category has no masks.
        inspected: see TestSet.
    """

    scores: Tensor
    labels: Tensor
    maps: Tensor
    masks: Tensor | None
    inspected: Tensor | None = None


@dataclass(frozen=True)
class TestSet:
    """The readable test images of a category at a model's size; smaller ones are padded with zeros.

    Attributes:
        samples: N of them.
        images: (N,3,H,W) float32 in [0,1], as for `predict`; tiled images at most MOST_SIDE pixels long.
        labels: (N,) bool, True for defective.
        masks: (N,1,H,W) bool; None if the category has no masks.
        twins: clean twins (3,H,W) by the index of their image.
        sizes: (height, width) of every image.
        inspected: where images are inspected and not padded, (N,1,H,W) bool; None for everywhere.
    """

    samples: list[Sample]
    images: Tensor
    labels: Tensor
    masks: Tensor | None
    twins: dict[int, Tensor] = field(default_factory=dict)
    sizes: Sequence[tuple[int, int]] = ()
    inspected: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.sizes:  # all images are of one size
            size = (self.images.shape[-2], self.images.shape[-1])
            object.__setattr__(self, "sizes", [size] * len(self.samples))

    def cut(self, values: Tensor, index: int) -> Tensor:
        """The picture, map or mask (C,h,w) of an image without padding."""
        height, width = self.sizes[index]
        return values[index, :, :height, :width]


def read_tests(
    category: Category,
    geometry: Geometry | int,
    reporter: Reporter,
    reading: Reading = AS_STORED,
    area: InspectedArea | None = None,
) -> TestSet:
    """Read a category's test images, masks and twins at a model's size; warns of unreadable images.

    Args:
        category: with test images.
        geometry: how images are resized, or the side in pixels to which they are stretched.
        reporter: for warnings.
        reading: of the files.
        area: the inspected area of images.
    """
    geometry = Geometry(geometry) if isinstance(geometry, int) else geometry
    images, masks, inside = [], [], []
    samples: list[Sample] = []
    twins: dict[int, Tensor] = {}
    for sample in category.test:
        try:
            picture = read_image(sample.path, reading)
            if area is not None:
                area.check(picture.shape[0], picture.shape[1], str(sample.path))
            size = _size(geometry, picture)
            mask = _mask(sample, size) if category.has_masks else None
        except InputError as error:
            reporter.warn(str(error))
            continue
        twin = _twin(sample, size, reading)
        if twin is not None:
            twins[len(samples)] = twin
        samples.append(sample)
        images.append(resize(picture, size))
        masks.append(mask)
        inside.append(torch.ones(1, *size, dtype=torch.bool) if area is None else area.at(*size))
    if not samples:
        raise InputError(f"{category.root}: expected readable test images, found none.")
    known = [mask for mask in masks if mask is not None]
    joined, inspected = on_canvas(images), on_canvas(inside)
    return TestSet(
        samples,
        joined,
        torch.tensor([not sample.is_good for sample in samples]),
        on_canvas(known) if len(known) == len(samples) else None,
        {at: on_canvas([twin, joined[0]])[0] for at, twin in twins.items()},
        [(image.shape[-2], image.shape[-1]) for image in images],
        None if bool(inspected.all()) else inspected,
    )


def _size(geometry: Geometry, picture: Picture) -> tuple[int, int]:
    """(h, w) at which an image and its map are compared with its mask."""
    size = geometry.size(*picture.shape[:2])
    if geometry.tile and max(size) > MOST_SIDE:
        return Geometry(MOST_SIDE, letterbox=True).size(*size)
    return size


def _twin(sample: Sample, size: tuple[int, int], reading: Reading) -> Tensor | None:
    """A sample's clean twin (3,h,w); None if missing or unusable, which `check_data` reports."""
    if sample.twin is None:
        return None
    try:
        picture, expected = read_image(sample.twin, reading), image_size(sample.path)
    except InputError:
        return None
    return resize(picture, size) if picture.shape[:2] == expected else None


def _mask(sample: Sample, size: tuple[int, int]) -> Tensor:
    if not sample.masks:
        return torch.zeros(1, *size, dtype=torch.bool)
    return resize_mask(read_masks(sample), size)


def mask_of(tests: TestSet, index: int) -> Mask | None:
    """The mask (h,w) of an image; None if the category has no masks."""
    return None if tests.masks is None else tests.cut(tests.masks, index)[0].numpy()


def find(model: Model, tests: TestSet, batch_size: int, reporter: Reporter, title: str) -> Detection:
    """Predict a test set with a progress bar; a row per image, of the size of the test set's images."""
    count = 1 if model.geometry.tile else batch_size  # the tiles of a large image fill batches
    starts = range(0, len(tests.samples), count)
    rows: list[Detection] = []
    for first in reporter.track(starts, f"testing {title}: batches"):
        places = range(first, min(first + count, len(tests.samples)))
        try:
            found = list(model.rows([_input(model, tests, at) for at in places], batch_size))
        except NotFiniteError as error:
            names = [str(tests.samples[first + row].path) for row in error.rows]
            raise NotFiniteError(error.rows, names) from error
        rows += [_at_size(row, tests.sizes[at]) for at, row in zip(places, found, strict=True)]
    return stacked(rows)


def _input(model: Model, tests: TestSet, index: int) -> Tensor:
    """A test image for `Model.rows`; those of tiled images are read again, at their full size."""
    return model.prepare(tests.samples[index].path) if model.geometry.tile else tests.cut(tests.images, index)


def _at_size(found: Detection, size: tuple[int, int]) -> Detection:
    """A result of one row at the size of the test set's image."""
    if found.anomaly_map.shape[-2:] == size:
        return found
    maps, pictures = (
        F.interpolate(one, size=size, mode="bilinear", antialias=True, align_corners=False)
        for one in (found.anomaly_map, found.reconstruction)
    )
    return replace(found, anomaly_map=maps, reconstruction=pictures)


def measure(tests: TestSet, scores: Tensor, maps: Tensor) -> Metrics:
    """The metrics of scores (N,) and maps (N,1,H,W) on a test set, at its image size."""
    return image_and_pixel_metrics(
        scores, tests.labels, maps if tests.masks is not None else None, tests.masks, tests.inspected
    )


def pooled(categories: Sequence[Ranked]) -> Metrics:
    """Metrics of the images of all categories together; pixel metrics only if all have masks."""
    scores = torch.cat([one.scores for one in categories])
    labels = torch.cat([one.labels for one in categories])
    if any(one.masks is None for one in categories):
        return image_and_pixel_metrics(scores, labels)
    maps, masks, inside = [], [], []
    for one in categories:
        maps += list(one.maps)
        masks += list(one.masks if one.masks is not None else ())
        inside += list(
            torch.ones_like(one.maps, dtype=torch.bool) if one.inspected is None else one.inspected
        )
    inspected = on_canvas(inside)
    return image_and_pixel_metrics(
        scores,
        labels,
        on_canvas(maps),
        on_canvas(masks),
        None if bool(inspected.all()) else inspected,
    )
