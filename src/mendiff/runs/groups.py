"""Metrics of groups of test images: defect types (MVTec LOCO AD) or light conditions (MVTec AD 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mendiff.data.images import resize_mask
from mendiff.data.masks import read_any_mask
from mendiff.data.samples import Category, Sample
from mendiff.data.saturation import saturated_share
from mendiff.evaluation.metrics import SPRO, Metrics, image_and_pixel_metrics
from mendiff.evaluation.spro import Region, au_spro
from mendiff.runs.testing import TestSet


@dataclass(frozen=True)
class Grouped:
    """Results of a category.

    Attributes:
        own: metrics of all test images beyond the usual ones: SPRO, if the category has saturations.
        groups: metrics by group; empty if the category has no groups.
    """

    own: Metrics
    groups: dict[str, Metrics]


def measure_groups(category: Category, tests: TestSet, scores: Tensor, maps: Tensor) -> Grouped:
    """The metrics of a category's groups; a defect type is compared with all good images.

    Args:
        category: says how its images are grouped.
        tests: N test images.
        scores: (N,).
        maps: (N,1,H,W).
    """
    regions = _regions(category, tests)
    found = {}
    for name, rows in _rows(category, tests.samples).items():
        masks = tests.masks[rows] if tests.masks is not None else None
        chosen = maps[rows] if masks is not None else None
        inspected = None if tests.inspected is None else tests.inspected[rows]
        found[name] = image_and_pixel_metrics(scores[rows], tests.labels[rows], chosen, masks, inspected)
        if regions and masks is not None:
            place = {row: index for index, row in enumerate(rows)}
            some = [Region(place[one.image], one.mask, one.share) for one in regions if one.image in place]
            found[name][SPRO] = au_spro(maps[rows], masks, some)
    whole = {SPRO: au_spro(maps, tests.masks, regions)} if regions and tests.masks is not None else {}
    return Grouped(whole, found)


def _rows(category: Category, samples: Sequence[Sample]) -> dict[str, list[int]]:
    """Indices of the test images of every group."""
    if category.grouped == "condition":
        names = sorted({sample.condition for sample in samples if sample.condition})
        return {name: [at for at, one in enumerate(samples) if one.condition == name] for name in names}
    if category.grouped == "label":
        names = sorted({sample.label for sample in samples if not sample.is_good})
        return {
            name: [at for at, one in enumerate(samples) if one.is_good or one.label == name] for name in names
        }
    return {}


def _regions(category: Category, tests: TestSet) -> list[Region]:
    """Every mask picture as a region, at the size of the maps; none without saturations.

    None also for images that are padded or inspected in part: the metric counts whole images.
    """
    if not category.saturations or tests.masks is None or tests.inspected is not None:
        return []
    regions = []
    for index, sample in enumerate(tests.samples):
        for path in sample.masks:
            mask = read_any_mask(path, sample.path)
            share = saturated_share(path, int(mask.sum()), category.saturations)
            regions.append(Region(index, resize_mask(mask, tests.sizes[index])[0], share))
    return regions
