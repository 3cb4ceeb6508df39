"""Baselines for a model's metrics: median colour, memory bank, and the model after a single step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mendiff.data.dataset import Category
from mendiff.evaluation.baselines import MedianColour, MemoryBank, fit_median_colour, fit_memory_bank
from mendiff.evaluation.metrics import Metrics, summary
from mendiff.model import MOST_TILES, Model
from mendiff.runs.reporting import Reporter
from mendiff.runs.testing import TestSet, find, measure
from mendiff.runs.twins import measure_twins
from mendiff.runs.untrained import untrained_on
from mendiff.types import Detection

BATCH = 8
"""Images per batch."""


def measure_baselines(
    model: Model, category: Category, tests: TestSet, half: bool = False
) -> dict[str, Metrics]:
    """Metrics of the baselines by name.

    Median colour, a memory bank on the model's features, and the model's pipeline after a single training
    step.

    Args:
        model: the fitted model.
        category: its training images fit the baselines.
        tests: the test set.
        half: compute the untrained model in bfloat16, see Model.in_half.
    """
    prepared = (model.prepare(path) for path in category.train)
    train = model.geometry.sample(prepared, max(1, MOST_TILES // max(1, len(category.train))))
    features = getattr(model.method, "features", None)
    simple: dict[str, MedianColour | MemoryBank] = {"median colour": fit_median_colour(train)}
    if features is not None:
        simple["memory bank"] = fit_memory_bank(features, train)
    results = {}
    for name, baseline in simple.items():
        found = find(_Simple(**vars(model), baseline=baseline), tests, BATCH, Reporter(), name)
        results[name] = measure(tests, found.score, found.anomaly_map)
    fresh = untrained_on(model, category.train)
    with fresh.in_half(half):
        found = find(fresh, tests, BATCH, Reporter(), "untrained")
    twins = measure_twins(tests, found.reconstruction)
    results["untrained"] = measure(tests, found.score, found.anomaly_map) | (twins.mean if twins else {})
    return results


@dataclass(repr=False)
class _Simple(Model):
    """A baseline that sees images as a model does, letterboxed or in tiles.

    Attributes:
        baseline: replaces the model's method.
    """

    baseline: MedianColour | MemoryBank = field(kw_only=True)

    def predict_batches(self, batches: Iterable[Tensor], *, explain: bool = False) -> Iterator[Detection]:
        """The baseline's results, with the images as reconstructions."""
        for batch in batches:
            scores, maps = self.baseline.predict(batch)
            yield Detection(scores, maps, batch, torch.zeros(len(batch), dtype=torch.int64))

    def score(self, anomaly_map: Tensor, pixels: int) -> Tensor:
        """The baseline's scores of maps."""
        return self.baseline.score(anomaly_map, pixels)


def by_baseline(measured: Mapping[str, Mapping[str, Metrics]]) -> dict[str, Any]:
    """From metrics by category and baseline to a summary per baseline, with the mean over categories."""
    tables: dict[str, dict[str, Metrics]] = {}
    for category, baselines in measured.items():
        for name, metrics in baselines.items():
            tables.setdefault(name, {})[category] = metrics
    return {name: summary(rows) for name, rows in tables.items()}
