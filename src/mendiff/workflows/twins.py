"""What commands do with clean twins: read them, compare reconstructions with them, and tell the figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mendiff.errors import InputError
from mendiff.evaluation.metrics import TWIN_METRICS
from mendiff.evaluation.samples import Sample
from mendiff.evaluation.twins import TwinFigures, twin_figures
from mendiff.images import image_size, read_image, resize
from mendiff.workflows.reporting import Reporter, Table

if TYPE_CHECKING:
    from mendiff.workflows.evaluate import TestSet

TITLES = ("PSNR in dB\ninside", "outside\nthe mask", "features\ninside", "outside\nthe mask")


def read_twin(sample: Sample, size: int, bit_depth: int) -> Tensor | None:
    """A sample's clean twin (3,S,S); None where it has none that fits, of which `check_data` tells."""
    if sample.twin is None:
        return None
    try:
        picture, expected = read_image(sample.twin, bit_depth), image_size(sample.path)
    except InputError:
        return None
    return resize(picture, size) if picture.shape[:2] == expected else None


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
