"""Comparison of reconstructions with clean twins, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from mendiff.evaluation.metrics import TWIN_METRICS
from mendiff.evaluation.twins import TwinFigures, twin_figures
from mendiff.runs.reporting import Reporter, Table
from mendiff.runs.testing import TestSet

TITLES = ("PSNR in dB\ninside", "outside\nthe mask", "features\ninside", "outside\nthe mask")


def measure_twins(tests: TestSet, rebuilt: Tensor) -> TwinFigures | None:
    """Compare reconstructions (N,3,S,S) of a test set with clean twins; None without twins or masks."""
    if not tests.twins or tests.masks is None:
        return None
    labels = [sample.label for sample in tests.samples]
    return twin_figures(rebuilt, tests.images, tests.twins, tests.masks, labels)


def twins_as_json(figures: Mapping[str, TwinFigures | None]) -> dict[str, Any]:
    """{"twins": figures by category} for JSON; {} if no category has twins."""
    known = {name: asdict(one) for name, one in figures.items() if one is not None}
    return {"twins": known} if known else {}


def show_twins(figures: Mapping[str, TwinFigures | None], reporter: Reporter) -> None:
    """Report a table for all categories with twins; the second row compares the unchanged images."""
    table = Table("reconstructions against clean twins", ["category", "images", *TITLES])
    for name, one in figures.items():
        if one is None:
            continue
        for shown, count, metrics in (
            (name, str(one.images), one.mean),
            ("  image unchanged", "", one.untouched),
        ):
            values = [metrics[metric] for metric in TWIN_METRICS]
            cells = (
                "n/a" if value is None else f"{value:.{digits}f}"
                for value, digits in zip(values, (1, 1, 3, 3), strict=True)
            )
            table.add(shown, count, *cells, section=metrics is one.untouched)
    if table.rows:
        reporter.table(table)
