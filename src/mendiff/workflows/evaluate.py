"""`mendiff evaluate`: metrics on labelled images, baselines, a run folder and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from mendiff import __version__
from mendiff.checkpoints.store import categories_of, load, read_config
from mendiff.data.dataset import Category, open_data
from mendiff.data.images import normalise_heat, to_picture
from mendiff.data.reading import image_size
from mendiff.data.samples import Use
from mendiff.errors import InputError, check_range
from mendiff.evaluation.curves import curves
from mendiff.evaluation.metrics import Metrics, is_exact, summary
from mendiff.evaluation.operating import at_threshold
from mendiff.evaluation.twins import TwinFigures
from mendiff.model import Model
from mendiff.report.contents import CategoryReport, ImageRow, Report, Strip, TypeRow
from mendiff.report.html import check_place, write_report
from mendiff.report.pictures import make_pictures, thumbnail_side, thumbnail_size
from mendiff.report.run import write_run
from mendiff.runs.baselines import by_baseline, measure_baselines
from mendiff.runs.common import (
    choose_categories,
    choose_device,
    metrics_table,
    readable_categories,
    threshold_table,
)
from mendiff.runs.geometry import check_plain
from mendiff.runs.groups import measure_groups
from mendiff.runs.places import Place, check_output, new_folder
from mendiff.runs.reporting import Reporter
from mendiff.runs.testing import Ranked, TestSet, find, mask_of, measure, pooled, read_tests
from mendiff.runs.thresholds import check_rate
from mendiff.runs.twins import measure_twins, show_twins, twins_as_json
from mendiff.types import Detection
from mendiff.workflows.explain import informative_images, report_strip
from mendiff.workflows.info import describe
from mendiff.workflows.options import EvaluateOptions

MOST_IMAGES, MOST_CATEGORIES = 2000, 6
"""Up to so many test images and categories a report shows intermediate results of a few images."""


@dataclass(frozen=True)
class Outcome:
    """Results on a category's test images.

    Attributes:
        metrics: of the model, with TWIN_METRICS where images have clean twins.
        twins: comparison of reconstructions with clean twins; None without twins.
        cut: counts at the threshold.
        ranked: scores, labels, maps and masks for metrics over several categories.
        controls: metrics of the baselines by name; empty unless requested.
        page: the category's part of the report, if a report is requested.
        measured: paths of the images.
        groups: metrics of groups of images, such as light conditions; empty for most data sets.
    """

    metrics: Metrics
    twins: TwinFigures | None
    cut: dict[str, Any]
    ranked: Ranked
    controls: dict[str, Metrics]
    page: CategoryReport | None
    measured: list[Path]
    groups: dict[str, Metrics]


def run(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Evaluate a model folder on every category of `data` that has a test set."""
    check_range("--batch-size", options.batch_size, 1)
    if options.false_alarm_rate is not None:
        check_rate(options.false_alarm_rate)
    place = _check_places(options.out, options.report, options.overwrite)
    device = choose_device(options.device)
    # A wrong model folder must show before the data is read.
    use = _use(read_config(options.model)["config"])
    asked = _with_tests(options.data, options.layout, options.categories)
    chosen = readable_categories(asked, reporter, use)
    own, shared = categories_of(options.model), None
    tested = sum(len(category.test) for category in chosen)
    side, explained = thumbnail_side(tested), tested <= MOST_IMAGES and len(chosen) <= MOST_CATEGORIES
    outcomes: dict[str, Outcome] = {}

    def opened(name: str | None = None) -> Model:
        model, rate = load(options.model, device, name), options.false_alarm_rate
        return model if rate is None else model.with_false_alarm_rate(rate)

    for category in chosen:
        if category.name in own:
            fitted = opened(category.name)
        else:
            fitted = shared = shared or opened()
        if options.controls:
            check_plain(fitted.method.config, "--controls", fitted.area)
        pictures = side if options.out is not None or options.report is not None else None
        with fitted.in_half(options.half):
            outcomes[category.name] = _evaluated(fitted, category, options, pictures, explained, reporter)
    unread = _unread(asked, outcomes)
    everything = [one.ranked for one in outcomes.values()]
    metrics = {name: one.metrics for name, one in outcomes.items()}
    result: dict[str, Any] = summary(metrics, pooled(everything) if len(everything) > 1 else None)
    cuts = {name: one.cut for name, one in outcomes.items()}
    reporter.table(metrics_table(result, str(options.model)))
    reporter.table(threshold_table(cuts))
    twins = {name: one.twins for name, one in outcomes.items()}
    show_twins(twins, reporter)
    binned = any(not is_exact(one.maps) for one in everything)
    if binned:
        reporter.say("note: pixel metrics are computed from values binned to 4,096 levels (many pixels).")
    groups = {name: summary(one.groups) for name, one in outcomes.items() if one.groups}
    for name, rows in groups.items():
        reporter.table(metrics_table(rows, f"groups of test images: {name}", "group"))
    if groups:
        result["groups"] = groups
    if options.controls:
        result["controls"] = by_baseline({name: one.controls for name, one in outcomes.items()})
        for name, rows in result["controls"].items():
            reporter.table(metrics_table(rows, f"baseline: {name}"))
    if unread:
        images = sum(len(one.test) for one in asked)
        reporter.say(
            f"note: {len(unread)} of {images} test images could not be read and are not in the metrics."
        )
    title = f"{options.model.resolve().name} on {options.data.resolve().name}"
    pages = [one.page for one in outcomes.values() if one.page is not None]
    missing = {"unreadable test images": unread} if unread else {}
    count = fitted.info.get("images", "?")
    subtitle = f"{fitted.name.upper()}, trained on {count} good images, at {fitted.image_size} pixels"
    shown = Report(title, subtitle, pages, result, {**about(fitted), **missing})
    _write(shown, place, options.out, options.report, reporter)
    return {
        **result,
        **twins_as_json(twins),
        "at_threshold": cuts,
        "binned": binned,
        "unreadable": unread,
        "complete": not unread,
    }


def _unread(asked: Sequence[Category], outcomes: Mapping[str, Outcome]) -> list[str]:
    """The requested test images that could not be read."""
    measured = {path for one in outcomes.values() for path in one.measured}
    return [str(sample.path) for one in asked for sample in one.test if sample.path not in measured]


def _use(config: Any) -> Use:
    """How a model reads images, from its raw config, which `load` checks later."""
    given = config if isinstance(config, dict) else {}
    size, depth, tile = (
        value if isinstance(value := given.get(name), int) else None
        for name in ("image_size", "bit_depth", "tile")
    )
    return Use(size, depth or 0, tile or 0, str(given.get("resize", "stretch")))


def _with_tests(data: Path, layout: str, names: Sequence[str] | None) -> list[Category]:
    """The chosen categories that have test images."""
    chosen = [one for one in choose_categories(open_data(data, layout), names) if one.test]
    if not chosen:
        raise InputError(
            f"{data}: expected test images (test/good and test/DEFECT folders), found none; "
            "see 'mendiff check --help' for layouts."
        )
    return chosen


def _evaluated(
    model: Model,
    category: Category,
    options: EvaluateOptions,
    side: int | None,
    explained: bool,
    reporter: Reporter,
) -> Outcome:
    """Evaluate a model on a category.

    Args:
        model: with the category's threshold.
        category: has test images.
        options: of the command.
        side: of the pictures in the report; None without a report.
        explained: whether the report shows intermediate results of a few images.
        reporter: for progress.
    """
    tests = read_tests(category, model.geometry, reporter, model.method.config.bit_depth, model.area)
    if tests.masks is None:
        reporter.say(f"note: {category.name} has no masks, so its pixel metrics are n/a.")
    found = find(model, tests, options.batch_size, reporter, category.name)
    twins = measure_twins(tests, found.reconstruction)
    grouped = measure_groups(category, tests, found.score, found.anomaly_map)
    metrics = {
        **measure(tests, found.score, found.anomaly_map),
        **(twins.mean if twins is not None else {}),
        **grouped.own,
    }
    shown = None if side is None else page(model, category.name, tests, found, metrics, side)
    if shown is not None and explained:
        shown = replace(shown, strips=strips(model, tests, found, reporter))
    return Outcome(
        metrics=metrics,
        twins=twins,
        cut=at_threshold(found.score.tolist(), [sample.label for sample in tests.samples], model.threshold),
        ranked=Ranked(found.score, tests.labels, found.anomaly_map, tests.masks, tests.inspected),
        controls=measure_baselines(model, category, tests, options.half) if options.controls else {},
        page=shown,
        measured=[sample.path for sample in tests.samples],
        groups=grouped.groups,
    )


def strips(model: Model, tests: TestSet, found: Detection, reporter: Reporter) -> list[Strip]:
    """Intermediate results of a few informative images."""
    chosen = informative_images(tests.labels.tolist(), found.score.tolist(), model.threshold)
    return [
        report_strip(model, tests.samples[index], mask_of(tests, index), title)
        for index, title in reporter.track(chosen, "explaining: images")
    ]


def _check_places(out: Path | None, report: Path | None, overwrite: bool) -> Place | None:
    """Raise InputError for output paths that can't be written to, before any work is done."""
    place = None if out is None else check_output(out, overwrite, "a run")
    inside = out is not None and report is not None and report.resolve().parent == out.resolve()
    if report is not None and not inside:
        check_place(report)
    return place


def _write(
    made: Report, place: Place | None, out: Path | None, report: Path | None, reporter: Reporter
) -> None:
    """Write the run folder and the report, as requested."""
    if place is not None:
        with new_folder(place) as draft:
            write_run(draft, made)
        hint = "" if report is not None else f"; for an HTML report: mendiff report {out}"
        reporter.say(f"run: {out}{hint}")
    if report is not None:
        write_report(report, made)
        reporter.say(f"report: {report}")


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
