"""Baselines for a model's metrics: median colour, memory bank, and the model after a single step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mendiff.data.dataset import Category
from mendiff.data.images import resize
from mendiff.data.reading import read_image
from mendiff.evaluation.baselines import fit_median_colour, fit_memory_bank
from mendiff.evaluation.metrics import Metrics, summary
from mendiff.model import Model
from mendiff.runs.testing import TestSet, measure
from mendiff.runs.twins import measure_twins
from mendiff.runs.untrained import untrained_on


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
    images = tests.images
    depth = model.method.config.bit_depth
    train = torch.stack([resize(read_image(path, depth), model.image_size) for path in category.train])
    results = {"median colour": measure(tests, *fit_median_colour(train).predict(images))}
    features = getattr(model.method, "features", None)
    if features is not None:
        results["memory bank"] = measure(tests, *fit_memory_bank(features, train).predict(images))
    fresh = untrained_on(model, list(train))
    with fresh.in_half(half):
        found = fresh.predict(images)
    twins = measure_twins(tests, found.reconstruction)
    results["untrained"] = measure(tests, found.score, found.anomaly_map) | (twins.mean if twins else {})
    return results


def by_baseline(measured: Mapping[str, Mapping[str, Metrics]]) -> dict[str, Any]:
    """From metrics by category and baseline to a summary per baseline, with the mean over categories."""
    tables: dict[str, dict[str, Metrics]] = {}
    for category, baselines in measured.items():
        for name, metrics in baselines.items():
            tables.setdefault(name, {})[category] = metrics
    return {name: summary(rows) for name, rows in tables.items()}
