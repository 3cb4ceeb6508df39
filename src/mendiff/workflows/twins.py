"""What commands do with clean twins: read them, compare reconstructions with them, and tell the figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from mendiff.evaluation.metrics import TWIN_METRICS
from mendiff.evaluation.twins import TwinFigures, twin_figures
from mendiff.workflows.reporting import Reporter, Table
from mendiff.workflows.testing import TestSet

TITLES = ("PSNR in dB\ninside", "outside\nthe mask", "features\ninside", "outside\nthe mask")


def measure_twins(tests: TestSet, rebuilt: Tensor) -> TwinFigures | None:
    """The figures of reconstructions (N,3,S,S) of a test set; None where no image has twin and mask."""
    if not tests.twins or tests.masks is None:
        return None
    labels = [sample.label for sample in tests.samples]
    return twin_figures(rebuilt, tests.images, tests.twins, tests.masks, labels)


def told(figures: Mapping[str, TwinFigures | None]) -> dict[str, Any]:
    """The figures by category under "twins", for JSON; nothing where no category has twins."""
    known = {name: asdict(one) for name, one in figures.items() if one is not None}
    return {"twins": known} if known else {}


def show_twins(figures: Mapping[str, TwinFigures | None], reporter: Reporter) -> None:
    """The figures of every category that has twins, and below them those of the images themselves."""
    table = Table("reconstructions against clean twins", ["category", "images", *TITLES])
    for name, one in figures.items():
        if one is None:
            continue
        for shown, count, metrics in (
            (name, str(one.images), one.mean),
            ("  nothing mended", "", one.untouched),
        ):
            values = [metrics[metric] for metric in TWIN_METRICS]
            cells = (
                "n/a" if value is None else f"{value:.{digits}f}"
                for value, digits in zip(values, (1, 1, 3, 3), strict=True)
            )
            table.add(shown, count, *cells, section=metrics is one.untouched)
    if table.rows:
        reporter.table(table)
