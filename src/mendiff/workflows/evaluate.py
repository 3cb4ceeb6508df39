"""`mendiff evaluate`: metrics on labelled images, baselines, a run folder and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mendiff.checkpoints.model_folder import categories_of, read_config
from mendiff.checkpoints.store import load
from mendiff.data.dataset import Category, open_data
from mendiff.data.reading import Reading
from mendiff.data.samples import Use
from mendiff.errors import InputError, check_range
from mendiff.evaluation.metrics import Metrics, is_exact, summary
from mendiff.evaluation.operating import at_threshold
from mendiff.evaluation.twins import TwinFigures
from mendiff.model import Model
from mendiff.report.contents import CategoryReport, Report
from mendiff.report.html import check_place, write_report
from mendiff.report.pictures import thumbnail_side
from mendiff.report.run import write_run
from mendiff.runs.baselines import by_baseline, measure_baselines
from mendiff.runs.common import (
    choose_categories,
    choose_device,
    metrics_table,
    readable_categories,
    threshold_table,
)
from mendiff.runs.groups import measure_groups
from mendiff.runs.places import Place, check_output, new_folder
from mendiff.runs.reporting import Reporter
from mendiff.runs.testing import Ranked, find, measure, pooled, read_tests
from mendiff.runs.thresholds import check_rate
from mendiff.runs.twins import measure_twins, show_twins, twins_as_json
from mendiff.workflows.options import EvaluateOptions
from mendiff.workflows.pages import about, page, strips

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
    outcomes, model = _outcomes(options, device, chosen, reporter)
    metrics = _metrics(outcomes)
    result = {**metrics, **twins_as_json({name: one.twins for name, one in outcomes.items()})}
    result["at_threshold"] = {name: one.cut for name, one in outcomes.items()}
    result["binned"] = any(not is_exact(one.ranked.maps) for one in outcomes.values())
    _show(result, outcomes, str(options.model), reporter)
    unread = _unread(asked, outcomes)
    if unread:
        images = sum(len(one.test) for one in asked)
        reporter.say(
            f"note: {len(unread)} of {images} test images could not be read and are not in the metrics."
        )
    _write(_report(options, model, outcomes, metrics, unread), place, options, reporter)
    return {**result, "unreadable": unread, "complete": not unread}


def _outcomes(
    options: EvaluateOptions, device: str, chosen: Sequence[Category], reporter: Reporter
) -> tuple[dict[str, Outcome], Model]:
    """(results by category, the last model): categories of the model folder have a model of their own."""
    own, shared = categories_of(options.model), None
    tested = sum(len(category.test) for category in chosen)
    pictured = options.out is not None or options.report is not None
    side = thumbnail_side(tested) if pictured else None
    explained = tested <= MOST_IMAGES and len(chosen) <= MOST_CATEGORIES
    outcomes: dict[str, Outcome] = {}

    def opened(name: str | None = None) -> Model:
        model, rate = load(options.model, device, name), options.false_alarm_rate
        return model if rate is None else model.with_false_alarm_rate(rate)

    for category in chosen:
        if category.name in own:
            fitted = opened(category.name)
        else:
            fitted = shared = shared or opened()
        with fitted.in_half(options.half):
            outcomes[category.name] = _evaluated(fitted, category, options, side, explained, reporter)
    return outcomes, fitted


def _metrics(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Metrics by category, mean and pooled; with those of groups of images and of baselines, if any."""
    everything = [one.ranked for one in outcomes.values()]
    metrics = {name: one.metrics for name, one in outcomes.items()}
    result: dict[str, Any] = summary(metrics, pooled(everything) if len(everything) > 1 else None)
    groups = {name: summary(one.groups) for name, one in outcomes.items() if one.groups}
    controls = by_baseline({name: one.controls for name, one in outcomes.items()})
    return result | ({"groups": groups} if groups else {}) | ({"controls": controls} if controls else {})


def _show(result: dict[str, Any], outcomes: Mapping[str, Outcome], title: str, reporter: Reporter) -> None:
    """Report all tables."""
    reporter.table(metrics_table(result, title))
    reporter.table(threshold_table(result["at_threshold"]))
    show_twins({name: one.twins for name, one in outcomes.items()}, reporter)
    if result["binned"]:
        reporter.say("note: pixel metrics are computed from values binned to 4,096 levels (many pixels).")
    for name, rows in result.get("groups", {}).items():
        reporter.table(metrics_table(rows, f"groups of test images: {name}", "group"))
    for name, rows in result.get("controls", {}).items():
        reporter.table(metrics_table(rows, f"baseline: {name}"))


def _report(
    options: EvaluateOptions,
    model: Model,
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Any],
    unread: list[str],
) -> Report:
    title = f"{options.model.resolve().name} on {options.data.resolve().name}"
    pages = [one.page for one in outcomes.values() if one.page is not None]
    count = model.info.get("images", "?")
    subtitle = f"{model.name.upper()}, trained on {count} good images, at {model.image_size} pixels"
    missing = {"unreadable test images": unread} if unread else {}
    return Report(title, subtitle, pages, metrics, {**about(model), **missing})


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
    numbers = given.get("channels")
    channels = tuple(one for one in numbers if isinstance(one, int)) if isinstance(numbers, list) else ()
    reading = Reading(depth or 0, channels)
    return Use(size, reading, tile or 0, str(given.get("resize", "stretch")))


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
    tests = read_tests(category, model.geometry, reporter, model.reading, model.area)
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


def _check_places(out: Path | None, report: Path | None, overwrite: bool) -> Place | None:
    """Raise InputError for output paths that can't be written to, before any work is done."""
    place = None if out is None else check_output(out, overwrite, "a run")
    inside = out is not None and report is not None and report.resolve().parent == out.resolve()
    if report is not None and not inside:
        check_place(report)
    return place


def _write(made: Report, place: Place | None, options: EvaluateOptions, reporter: Reporter) -> None:
    """Write the run folder and the report, as requested."""
    if place is not None:
        with new_folder(place) as draft:
            write_run(draft, made)
        hint = "" if options.report is not None else f"; for an HTML report: mendiff report {options.out}"
        reporter.say(f"run: {options.out}{hint}")
    if options.report is not None:
        write_report(options.report, made)
        reporter.say(f"report: {options.report}")
