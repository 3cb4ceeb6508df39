"""Test images: reading, prediction, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from mendiff.data.dataset import Category, Sample
from mendiff.data.images import resize, resize_mask
from mendiff.data.masks import Mask, read_masks
from mendiff.data.reading import image_size, read_image
from mendiff.errors import InputError, NotFiniteError
from mendiff.evaluation.metrics import Metrics, image_and_pixel_metrics
from mendiff.model import Model
from mendiff.runs.reporting import Reporter
from mendiff.types import Detection

Ranked = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Scores (N,), labels (N,), maps (N,1,S,S) and masks of a category's test images."""


@dataclass(frozen=True)
class TestSet:
    """The readable test images of a category at a model's size.

    Attributes:
        samples: N of them.
        images: (N,3,S,S) float32 in [0,1], as for `predict`.
        labels: (N,) bool, True for defective.
        masks: (N,1,S,S) bool; None if the category has no masks.
        twins: clean twins (3,S,S) by the index of their image.
    """

    samples: list[Sample]
    images: Tensor
    labels: Tensor
    masks: Tensor | None
    twins: dict[int, Tensor] = field(default_factory=dict)


def read_tests(category: Category, size: int, reporter: Reporter, bit_depth: int = 0) -> TestSet:
    """Read a category's test images, masks and twins at a size; warns of unreadable images."""
    images, masks = [], []
    samples: list[Sample] = []
    twins: dict[int, Tensor] = {}
    for sample in category.test:
        try:
            image = resize(read_image(sample.path, bit_depth), size)
            mask = _mask(sample, size) if category.has_masks else None
        except InputError as error:
            reporter.warn(str(error))
            continue
        twin = _twin(sample, size, bit_depth)
        if twin is not None:
            twins[len(samples)] = twin
        samples.append(sample)
        images.append(image)
        masks.append(mask)
    if not samples:
        raise InputError(f"{category.root}: expected readable test images, found none.")
    known = [mask for mask in masks if mask is not None]
    return TestSet(
        samples,
        torch.stack(images),
        torch.tensor([not sample.is_good for sample in samples]),
        torch.stack(known) if len(known) == len(samples) else None,
        twins,
    )


def _twin(sample: Sample, size: int, bit_depth: int) -> Tensor | None:
    """A sample's clean twin (3,S,S); None if missing or unusable, which `check_data` reports."""
    if sample.twin is None:
        return None
    try:
        picture, expected = read_image(sample.twin, bit_depth), image_size(sample.path)
    except InputError:
        return None
    return resize(picture, size) if picture.shape[:2] == expected else None


def _mask(sample: Sample, size: int) -> Tensor:
    if not sample.masks:
        return torch.zeros(1, size, size, dtype=torch.bool)
    return resize_mask(read_masks(sample), size)


def mask_of(tests: TestSet, index: int) -> Mask | None:
    """The mask (S,S) of an image; None if the category has no masks."""
    return None if tests.masks is None else tests.masks[index, 0].numpy()


def find(model: Model, tests: TestSet, batch_size: int, reporter: Reporter, title: str) -> Detection:
    """Predict a test set with a progress bar; a row per image."""
    batches = list(tests.images.split(batch_size))
    parts: list[Detection] = []
    for number, batch in enumerate(reporter.track(batches, f"testing {title}")):
        try:
            parts.append(model.predict_batch(batch))
        except NotFiniteError as error:
            names = [str(tests.samples[number * batch_size + row].path) for row in error.rows]
            raise NotFiniteError(error.rows, names) from error
    columns = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Detection)}
    return Detection(**columns)


def measure(tests: TestSet, scores: Tensor, maps: Tensor) -> Metrics:
    """The metrics of scores (N,) and maps (N,1,S,S) on a test set, at the model's image size."""
    return image_and_pixel_metrics(
        scores, tests.labels, maps if tests.masks is not None else None, tests.masks
    )


def pooled(categories: Sequence[Ranked]) -> Metrics:
    """Metrics of the images of all categories together; pixel metrics only if all have masks."""
    scores, labels, maps, masks = zip(*categories, strict=True)
    known = [one for one in masks if one is not None]
    return image_and_pixel_metrics(
        torch.cat(scores),
        torch.cat(labels),
        *((torch.cat(maps), torch.cat(known)) if len(known) == len(masks) else ()),
    )
