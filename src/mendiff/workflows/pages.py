"""The pages of an evaluation's report."""

from __future__ import annotations

from datetime import date

from mendiff import __version__
from mendiff.data.images import normalise_heat, to_picture
from mendiff.data.reading import image_size
from mendiff.evaluation.curves import curves
from mendiff.evaluation.metrics import Metrics
from mendiff.evaluation.operating import at_threshold
from mendiff.model import Model
from mendiff.report.contents import CategoryReport, ImageRow, Strip, TypeRow
from mendiff.report.pictures import make_pictures, thumbnail_size
from mendiff.runs.reporting import Reporter
from mendiff.runs.testing import TestSet, mask_of
from mendiff.types import Detection
from mendiff.workflows.explain import informative_images, report_strip
from mendiff.workflows.info import describe


def strips(model: Model, tests: TestSet, found: Detection, reporter: Reporter) -> list[Strip]:
    """Intermediate results of a few informative images."""
    chosen = informative_images(tests.labels.tolist(), found.score.tolist(), model.threshold)
    return [
        report_strip(model, tests.samples[index], mask_of(tests, index), title)
        for index, title in reporter.track(chosen, "explaining: images")
    ]


def page(
    model: Model, name: str, tests: TestSet, found: Detection, metrics: Metrics, side: int
) -> CategoryReport:
    """A category's part of the report: curves, defect types, and a row per test image.

    Args:
        model: the evaluated model.
        name: of the category.
        tests: N images.
        found: the model's results for them.
        metrics: of the category.
        side: longer side of the pictures in pixels.
    """
    labels = [sample.label for sample in tests.samples]
    cut = at_threshold(found.score.tolist(), labels, model.threshold)
    maps = found.anomaly_map if tests.masks is not None else None
    drawn = curves(found.score, tests.labels, maps, tests.masks, tests.inspected)
    types = [TypeRow(**row) for row in cut["types"]]
    return CategoryReport(
        name=name,
        threshold=model.threshold,
        images=[_image_row(model, tests, found, index, side) for index in range(len(labels))],
        metrics=metrics,
        curves=drawn,
        types=types,
    )


def _image_row(model: Model, tests: TestSet, found: Detection, index: int, side: int) -> ImageRow:
    sample, score = tests.samples[index], float(found.score[index])
    pictures = make_pictures(
        to_picture(tests.cut(tests.images, index)),
        to_picture(tests.cut(found.reconstruction, index)),
        normalise_heat(tests.cut(found.anomaly_map, index)[0].numpy(), *model.calibration.heat_range),
        mask_of(tests, index),
        # The model's input may be square; the report keeps the aspect ratio of the image.
        thumbnail_size(*image_size(sample.path), min(side, max(tests.sizes[index]))),
    )
    return ImageRow(
        name=f"{sample.label}/{sample.path.name}",
        label=sample.label,
        score=score,
        pictures=pictures,
        p_value=model.calibration.p_value(score),
        stop_step=int(found.stop_step[index]) or None,
    )


def about(model: Model) -> dict[str, str]:
    """Description of the model for the report."""
    rate = model.calibration.false_alarm_rate
    return {
        **describe(model),
        "threshold": f"for a false-alarm rate of {100 * rate:.3g}%; from held-back good images only",
        "evaluated": f"{date.today().isoformat()} with mendiff {__version__}",
    }
