"""A job of a benchmark: a fit, and the rows of the table that use it.

A job runs in its own process, `python -m mendiff.cli.job FOLDER`, where FOLDER has a job.json. The results of
every row are written to a separate file, and the fit writes checkpoints: a killed job can be resumed.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mendiff.calibration import Calibration
from mendiff.checkpoints.files import write_json
from mendiff.checkpoints.model_folder import categories_of
from mendiff.checkpoints.store import load
from mendiff.data.dataset import Category, open_data
from mendiff.data.reading import AS_STORED, Reading
from mendiff.data.samples import Use
from mendiff.data.suitability import own_size
from mendiff.errors import InputError
from mendiff.evaluation.metrics import Metrics, summary
from mendiff.evaluation.operating import at_threshold, decisions
from mendiff.evaluation.stops import stop_figures
from mendiff.evaluation.twins import TwinFigures
from mendiff.methods.base import METHODS
from mendiff.model import Model
from mendiff.runs import testing
from mendiff.runs.common import choose_categories, readable_categories
from mendiff.runs.fit_config import use_of
from mendiff.runs.power import Power, power_of
from mendiff.runs.reporting import Reporter
from mendiff.runs.training_images import training_paths
from mendiff.runs.twins import measure_twins, twins_as_json
from mendiff.runs.untrained import untrained_on
from mendiff.runs.variants import variant
from mendiff.workflows.baselines import Predict, anomalib_baseline, simple_baseline
from mendiff.workflows.fit import fit
from mendiff.workflows.identity import difference, identity, recall_contents
from mendiff.workflows.spec import BASELINES, CONTENTS, MODEL, UNTRAINED, Job, config_changes, result_file

MULTIPLE = 32
"""Image sizes of baselines are a multiple of this, as in the preset `tiny`."""
BATCH = 8


@dataclass(frozen=True)
class RowPredictor:
    """The model of a row, as a prediction function.

    Attributes:
        predict: of the fitted model.
        size: image side in pixels.
        calibration: scores of good images, for thresholds; None for models without a threshold.
        power: image scores of synthetic defects, with which the fit estimated the recall; None without it.
        stops: stop steps of the images predicted so far.
        rebuilt: their reconstructions, if the model computes them.
        reading: of image files.
        model: inspects whole images if they are letterboxed or cut into tiles; otherwise None.
        half: whether `model` computes in bfloat16.
    """

    predict: Predict
    size: int
    calibration: Calibration | None = None
    power: Power | None = None
    stops: list[Tensor] = field(default_factory=list)
    rebuilt: list[Tensor] = field(default_factory=list)
    reading: Reading = AS_STORED
    model: Model | None = None
    half: bool = False


def run(job: Job, folder: Path, reporter: Reporter) -> None:
    """Fit, and measure all rows without results."""
    todo = [label for label in job.rows if not result_file(folder, label).is_file()]
    if not todo:
        return
    categories = choose_categories(open_data(Path(job.data), job.layout), job.categories)
    known = recall_contents(folder.parent / CONTENTS, categories)
    check_identity(job, categories)
    use = use_of(job.plan) if job.method in METHODS else Use()
    if known is None or use.reading != AS_STORED:  # the benchmark read images as stored
        known = readable_categories(categories, reporter, use)
    categories = [replace(one, train=some.train) for one, some in zip(categories, known, strict=True)]
    torch.manual_seed(job.seed)  # for baselines that use the global generator
    predictor_of, facts = fitted(job, categories, folder, reporter)
    for label in todo:
        result = {"label": label, "method": job.method, "seed": job.seed, "device": job.device, **facts}
        if UNTRAINED in job.rows[label]:
            result |= {"fit_seconds": None, "steps": 1}  # the job's time is that of the trained network
        result |= row_metrics(partial(predictor_of, label), categories, reporter)
        write_json(result_file(folder, label), result)


def check_identity(job: Job, categories: Sequence[Category]) -> None:
    """Raise InputError for data, weights or code that changed while the job was waiting."""
    changed = difference(job.identity, identity(job, categories)) if job.identity else ""
    if changed:
        raise InputError(
            f"{job.data}: expected the data, weights and code of the benchmark's start, but {changed}; start "
            "a new benchmark with another -o."
        )


class Measured(NamedTuple):
    """Results of a row on a category's test images.

    Attributes:
        size: image side in pixels.
        seconds: duration of the predictions.
        metrics: with TWIN_METRICS where images have clean twins.
        twins: comparison of reconstructions with clean twins; None without twins.
        cut: counts at the model's threshold; None for a model without a threshold.
        decided: see operating.decisions, with the estimated power at each threshold.
        stopped: stop steps (N,), if the method stops images early; otherwise None.
        ranked: for metrics over several categories.
        stop_steps: see stop_figures; {} without stop steps.
    """

    size: int
    seconds: float
    metrics: Metrics
    twins: TwinFigures | None
    cut: dict[str, Any] | None
    decided: dict[str, Any]
    stopped: Tensor | None
    ranked: testing.Ranked
    stop_steps: dict[str, Any]


def row_metrics(
    predictor_of: Callable[[str], RowPredictor], categories: Sequence[Category], reporter: Reporter
) -> dict[str, Any]:
    """Metrics by category, mean and pooled, with time and memory; `predictor_of` takes a category's name."""
    found = {one.name: _measured(predictor_of(one.name), one, reporter) for one in categories}
    everything = [one.ranked for one in found.values()]
    count = sum(len(one.scores) for one in everything)
    steps = [one.stopped for one in found.values() if one.stopped is not None]
    metrics = {name: one.metrics for name, one in found.items()}
    return {
        **summary(metrics, testing.pooled(everything) if len(everything) > 1 else None),
        **twins_as_json({name: one.twins for name, one in found.items()}),
        "size": [one.size for one in found.values()][-1],
        "at_threshold": {name: one.cut for name, one in found.items() if one.cut is not None},
        "decisions": {name: one.decided for name, one in found.items()},
        "mean_stop_step": float(torch.cat(steps).float().mean()) if steps else None,
        "stop_steps": {name: one.stop_steps for name, one in found.items() if one.stop_steps},
        "images": count,
        "images_per_second": round(count / sum(one.seconds for one in found.values()), 3),
        "peak_gb": round(peak_gb(), 2),
    }


def _measured(predictor: RowPredictor, category: Category, reporter: Reporter) -> Measured:
    """Results of a row on a category."""
    model = predictor.model
    geometry = predictor.size if model is None else model.geometry
    tests = testing.read_tests(category, geometry, reporter, predictor.reading)
    began = time.monotonic()
    if model is None:
        scores, maps = _of_batches(predictor, tests)
    else:
        with model.in_half(predictor.half):
            found = testing.find(model, tests, BATCH, reporter, category.name)
        scores, maps = found.score, found.anomaly_map
        predictor.stops.append(found.stop_step)
        predictor.rebuilt.append(found.reconstruction)
    seconds = time.monotonic() - began
    twins = measure_twins(tests, torch.cat(predictor.rebuilt)) if predictor.rebuilt else None
    labels, calibration = [sample.label for sample in tests.samples], predictor.calibration
    cut = None if calibration is None else at_threshold(scores.tolist(), labels, calibration.threshold)
    decided = decisions(scores.tolist(), labels, calibration)
    if calibration is not None and predictor.power is not None:
        decided["power"] = [predictor.power.share(one["threshold"]) for one in decided["at_thresholds"]]
    stopped = torch.cat(predictor.stops) if predictor.stops else torch.zeros(0)
    stops = bool(stopped.any())
    return Measured(
        size=predictor.size,
        seconds=seconds,
        metrics=testing.measure(tests, scores, maps) | (twins.mean if twins is not None else {}),
        twins=twins,
        cut=cut,
        decided=decided,
        stopped=stopped if stops else None,
        ranked=testing.Ranked(scores, tests.labels, maps, tests.masks, tests.inspected),
        stop_steps=stop_figures(stopped, tests.labels, tests.masks) if stops else {},
    )


def _of_batches(predictor: RowPredictor, tests: testing.TestSet) -> tuple[Tensor, Tensor]:
    """Scores (N,) and maps (N,1,S,S) of test images that are network inputs."""
    parts = []
    for batch in tests.images.split(BATCH):
        parts.append(predictor.predict(batch))
        if not tests.twins:
            predictor.rebuilt.clear()  # saves memory
    scores, maps = (torch.cat(column) for column in zip(*parts, strict=True))
    return scores, maps


def fitted(
    job: Job, categories: Sequence[Category], folder: Path, reporter: Reporter
) -> tuple[Callable[[str, str], RowPredictor], dict[str, Any]]:
    """(function from a row's label and a category's name to the predictor, facts about the fit)."""
    if job.method in METHODS:
        return method_rows(job, categories, folder, reporter)
    paths = training_paths(categories)
    size = own_size(paths, MULTIPLE)
    began = time.monotonic()
    if job.method in BASELINES:
        predict, facts = simple_baseline(job, paths, size)
    else:
        predict, facts = anomalib_baseline(job, paths, size, folder)
    facts["fit_seconds"] = round(time.monotonic() - began, 1)
    return lambda _label, _category: RowPredictor(predict, size), facts


def method_rows(
    job: Job, categories: Sequence[Category], folder: Path, reporter: Reporter
) -> tuple[Callable[[str, str], RowPredictor], dict[str, Any]]:
    """`fitted` for mendiff's methods; the model folder is kept in the job's folder."""
    path = folder / MODEL
    if not path.is_dir():
        resume = (folder / f".{MODEL}.fit").is_dir()
        fit(job.plan, categories, path, reporter, resume=resume, checked=True)
    model = load(path, job.device)
    own, by_name = categories_of(path), {one.name: one for one in categories}
    config: Any = model.method.config

    @lru_cache(maxsize=1)  # a single model in memory: networks may be large
    def changed_model(label: str, category: str | None) -> Model:
        fitted = model if category is None else load(path, job.device, category)
        some = categories if category is None else [by_name[category]]
        changes, fresh = config_changes(job.rows[label]), UNTRAINED in job.rows[label]
        paths = training_paths(some) if changes or fresh else []
        changed = variant(fitted, changes, paths, job.weights)
        return untrained_on(changed, paths, job.seed) if fresh else changed

    def predictor(label: str, category: str) -> RowPredictor:
        changed = changed_model(label, category if category in own else None)
        stops, rebuilt = list[Tensor](), list[Tensor]()

        def predict(batch: Tensor) -> tuple[Tensor, Tensor]:
            with changed.in_half(job.half):
                found = changed.predict_batch(batch)
            stops.append(found.stop_step)
            rebuilt.append(found.reconstruction)
            return found.score, found.anomaly_map

        power = None if job.rows[label] else power_of(changed.info)
        made = RowPredictor(
            predict, changed.image_size, changed.calibration, power, stops, rebuilt, changed.reading
        )
        return made if changed.plain else replace(made, model=changed, half=job.half)

    return predictor, {"fit_seconds": model.info["seconds"], "steps": config.training.steps}


def peak_gb() -> float:
    """Peak memory of this process in GB: of the GPU if it was used, otherwise main memory."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
