"""`mendiff demo`: generate parts, train on the good ones, detect the defects, and write a report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mendiff.checkpoints.files import fingerprint, write_json
from mendiff.checkpoints.provenance import Fitted, with_fitted
from mendiff.checkpoints.store import save
from mendiff.data.dataset import open_data
from mendiff.demo.data import CATEGORIES, DemoConfig, make_data
from mendiff.diffusion.random import content_seeds
from mendiff.errors import check_choice
from mendiff.evaluation.metrics import Metrics, summary
from mendiff.evaluation.twins import TwinFigures
from mendiff.methods.base import find_method
from mendiff.model import Model, calibrated
from mendiff.report.contents import Report
from mendiff.report.html import write_report
from mendiff.report.pictures import thumbnail_side
from mendiff.runs.baselines import by_baseline, measure_baselines
from mendiff.runs.common import choose_device, metrics_table
from mendiff.runs.fit_config import Plan, asked_config, make_config
from mendiff.runs.locks import exclusive_output
from mendiff.runs.places import check_output, new_folder
from mendiff.runs.reporting import Reporter
from mendiff.runs.testing import find, measure, read_tests
from mendiff.runs.training_images import readable_paths
from mendiff.runs.twins import measure_twins, show_twins, twins_as_json
from mendiff.workflows.manifest import hashes_of
from mendiff.workflows.options import DemoOptions
from mendiff.workflows.pages import about, page, strips
from mendiff.workflows.training_run import prepared, train

WHOLE_PICTURES = {"image_size": 128, "crop": 0}
SEEN = 24
"""Training images per category from which the statistics of the read-out are estimated."""
CALIBRATION = 12
"""Held-back good images per category, for thresholds."""
INTERRUPTED = (
    "nothing is kept: run the same command to start again; --set training.steps=300 makes the demo shorter"
)


def run(options: DemoOptions, reporter: Reporter) -> dict[str, Any]:
    """Run the demo; with `make_data`, only generate its data set."""
    reporter = reporter.brief()
    for name in options.categories or ():
        check_choice("--categories", name, CATEGORIES)
    config = DemoConfig(categories=tuple(options.categories or CATEGORIES), seed=options.seed)
    if options.make_data is not None:
        return _data_alone(options.make_data, config, reporter)
    place = check_output(options.out, options.overwrite, "a demo")
    changes = {**WHOLE_PICTURES, **find_method(options.method).DEMO, **options.settings}
    plan = Plan(options.method, settings=changes, seed=options.seed, device=choose_device(options.device))
    asked_config(plan)  # errors in the settings must show before the images are generated
    began = time.monotonic()
    count = len(config.categories)
    noun = "categories" if count > 1 else "category"
    length = "about four minutes on two free cores"
    reporter.say(f"{count} {noun}, trained on good images only, on {plan.device}; {length}")
    try:
        with exclusive_output(options.out, "demo"), new_folder(place) as draft:
            draw(draft / "data", config, reporter)
            result = _fit_and_report(draft, plan, reporter)
            result["seconds"] = round(time.monotonic() - began, 1)
            write_json(draft / "demo.json", result)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(INTERRUPTED) from interrupt
    reporter.say(f"done in {result['seconds']:.0f} s; open {options.out / 'report.html'} in a browser")
    reporter.say("next: mendiff fit YOUR-GOOD-PHOTOS -o model, then mendiff predict model PHOTOS -o findings")
    return result


def _data_alone(folder: Path, config: DemoConfig, reporter: Reporter) -> dict[str, Any]:
    """Only generate the data set."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        draw(folder, config, reporter)  # raises InputError
    with new_folder(check_output(folder, False, "a demo")) as draft:
        draw(draft, config, reporter)
    reporter.say(f"data: {folder}")
    return {"data": str(folder), "categories": list(config.categories)}


def draw(folder: Path, config: DemoConfig, reporter: Reporter) -> None:
    """Generate the data set, with a progress bar."""
    with reporter.bar("generating images") as update:
        make_data(folder, config, lambda done, total: update(done, total, ""))


def _fit_and_report(folder: Path, plan: Plan, reporter: Reporter) -> dict[str, Any]:
    """Train a model on all categories, calibrate it per category; returns metrics, writes report.html."""
    from mendiff.anomalib_models import GoodImages

    categories = open_data(folder / "data")
    trained = [dataclasses.replace(one, train=one.train[:-CALIBRATION]) for one in categories]
    paths = readable_paths(trained, reporter)
    config = make_config(plan, paths)
    module = prepared(plan, config)[0]
    module.calibrates = False  # every category is calibrated separately
    module.files = hashes_of(plan, config)
    with reporter.stages() as update, TemporaryDirectory(dir=folder) as workdir:
        images = GoodImages(paths, config.image_size)
        seconds = train(plan, module, images, Path(workdir), update)
    reporter.say(f"trained on {len(paths)} good images in {seconds:.0f} s")
    info = {"preset": plan.preset, "images": len(paths), "categories": [one.name for one in categories]}
    info |= {"seed": plan.seed, "seconds": seconds}
    method, results, pages = module.method.to(plan.device), {}, []
    controls: dict[str, dict[str, Metrics]] = {}
    twins: dict[str, TwinFigures | None] = {}
    side = thumbnail_side(sum(len(category.test) for category in categories))
    for category in categories:
        kept, seen = category.train[-CALIBRATION:], category.train[:SEEN]
        model = calibrated(plan.method, method, info, kept, seen)
        model.info = with_fitted(info, _fitted(module.fitted, model, kept, category.train))
        tests = read_tests(category, model.image_size, reporter)
        found = find(model, tests, 8, reporter, category.name)
        results[category.name] = measure(tests, found.score, found.anomaly_map)
        twins[category.name] = figures = measure_twins(tests, found.reconstruction)
        results[category.name] |= {} if figures is None else figures.mean
        controls[category.name] = measure_baselines(model, category, tests)
        shown = page(model, category.name, tests, found, results[category.name], side)
        pages.append(dataclasses.replace(shown, strips=strips(model, tests, found, reporter)))
        save(folder / "models" / category.name, model.name, model.method, model.calibration, model.info)
    result = summary(results)
    reporter.table(metrics_table(result, "metrics on test images"))
    show_twins(twins, reporter)
    result["controls"] = by_baseline(controls)
    for name, rows in result["controls"].items():
        reporter.table(metrics_table(rows, f"baseline: {name}"))
    method = f"{plan.method.upper()} {plan.preset}"
    subtitle = f"{method}, trained on good images only, without pretrained weights"
    write_report(folder / "report.html", Report("mendiff demo", subtitle, pages, result, about(model)))
    return result | twins_as_json(twins)


def _fitted(made: Fitted, model: Model, kept: Sequence[Path], good: Sequence[Path]) -> Fitted:
    """Provenance of the training, with the held-back images of a single category."""
    seeds = {path: int(content_seeds(model.prepare(path)[None])) for path in good}
    held_back = tuple(sorted(seeds[path] for path in kept))
    return dataclasses.replace(made, held_back=held_back, data=fingerprint(seeds.values()), images=len(good))
