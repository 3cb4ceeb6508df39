"""One job of a benchmark: a fit, and the rows of the table that it serves.

It runs in a process of its own, `python -m mendiff.cli.job FOLDER`. FOLDER holds job.json. Every row's
results are written whole under their own name, so that a killed job goes on where it was; the fit itself goes
on from its last checkpoint.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.bundled import open_features
from mendiff.checkpoints.files import write_json
from mendiff.checkpoints.store import categories_of, load
from mendiff.checkpoints.weights import read_weights
from mendiff.data.dataset import Category, open_data
from mendiff.data.images import resize
from mendiff.data.reading import read_image
from mendiff.data.samples import Use
from mendiff.errors import InputError
from mendiff.evaluation.controls import fit_median_colour, fit_memory_bank
from mendiff.evaluation.metrics import Metrics, summary
from mendiff.evaluation.operating import at_threshold
from mendiff.evaluation.stops import stop_figures
from mendiff.evaluation.twins import TwinFigures
from mendiff.methods.base import METHODS
from mendiff.methods.config import config_from_dict
from mendiff.model import Model
from mendiff.nets import AUTO
from mendiff.nets.features import FeatureExtractor, FeaturesConfig, make_features
from mendiff.workflows import testing
from mendiff.workflows.common import choose_categories, readable_categories
from mendiff.workflows.fit import fit
from mendiff.workflows.fit_config import backbone_input, own_size, training_paths, use_of
from mendiff.workflows.identity import difference, identity, recall_contents
from mendiff.workflows.reporting import Reporter
from mendiff.workflows.spec import BASELINES, CONTENTS, MODEL, UNTRAINED, Job, config_changes, result_file
from mendiff.workflows.twins import measure_twins, twins_as_json
from mendiff.workflows.untrained import untrained_on
from mendiff.workflows.variants import variant

MULTIPLE = 32
"""Image sizes of models that are not ours divide by this, as those of ours do in `tiny`."""
BATCH = 8

Predict = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B,3,S,S) in [0,1] to scores (B,) and maps (B,1,S,S)."""


@dataclass(frozen=True)
class RowPredictor:
    """What a row measures.

    Attributes:
        predict: of the fitted model.
        size: of its images.
        threshold: above which an image counts as defective; None where it has none from good images.
        stops: stop steps of the images that were predicted so far.
        rebuilt: their reconstructions; nothing of what makes none.
        bit_depth: see MethodConfig.
    """

    predict: Predict
    size: int
    threshold: float | None = None
    stops: list[Tensor] = field(default_factory=list)
    rebuilt: list[Tensor] = field(default_factory=list)
    bit_depth: int = 0


def run(job: Job, folder: Path, reporter: Reporter) -> None:
    """Fit, and measure every row that has no results yet."""
    todo = [label for label in job.rows if not result_file(folder, label).is_file()]
    if not todo:
        return
    categories = choose_categories(open_data(Path(job.data), job.layout), job.categories)
    known = recall_contents(folder.parent / CONTENTS, categories)
    check_identity(job, categories)
    use = use_of(job.plan) if job.method in METHODS else Use()
    if known is None or use.bit_depth:  # the benchmark has looked at 16-bit images otherwise
        known = readable_categories(categories, reporter, use)
    categories = [replace(one, train=some.train) for one, some in zip(categories, known, strict=True)]
    torch.manual_seed(job.seed)  # for whoever uses the global generator; ours do not
    subject_of, facts = fitted(job, categories, folder, reporter)
    for label in todo:
        result = {"label": label, "method": job.method, "seed": job.seed, "device": job.device, **facts}
        result |= row_metrics(partial(subject_of, label), categories, reporter)
        write_json(result_file(folder, label), result)


def check_identity(job: Job, categories: Sequence[Category]) -> None:
    """Refuse data, weights or code that were exchanged while the job waited for its turn."""
    changed = difference(job.identity, identity(job, categories)) if job.identity else ""
    if changed:
        raise InputError(
            f"{job.data}: expected what was there when the benchmark began, got other ({changed}); start it "
            "anew with another -o."
        )


def row_metrics(
    subject_of: Callable[[str], RowPredictor], categories: Sequence[Category], reporter: Reporter
) -> dict[str, Any]:
    """Metrics by category, whose subject is asked for by its name, mean and pooled; time and memory."""
    metrics: dict[str, Metrics] = {}
    cuts: dict[str, dict[str, Any]] = {}
    mended: dict[str, TwinFigures | None] = {}
    everything: list[testing.Ranked] = []
    stops: dict[str, dict[str, Any]] = {}
    steps: list[Tensor] = []
    seconds = 0.0
    for category in categories:
        subject = subject_of(category.name)
        tests = testing.read_tests(category, subject.size, reporter, subject.bit_depth)
        began = time.monotonic()
        parts = []
        for batch in tests.images.split(BATCH):
            parts.append(subject.predict(batch))
            if not tests.twins:
                subject.rebuilt.clear()  # nothing to compare them with, and much to keep
        seconds += time.monotonic() - began
        scores, maps = (torch.cat(column) for column in zip(*parts, strict=True))
        metrics[category.name] = testing.measure(tests, scores, maps)
        if subject.rebuilt:
            mended[category.name] = against = measure_twins(tests, torch.cat(subject.rebuilt))
            metrics[category.name] |= {} if against is None else against.mean
        if subject.threshold is not None:
            labels = [sample.label for sample in tests.samples]
            cuts[category.name] = at_threshold(scores.tolist(), labels, subject.threshold)
        stopped = torch.cat(subject.stops) if subject.stops else torch.zeros(0)
        if bool(stopped.any()):
            steps.append(stopped)
            stops[category.name] = stop_figures(stopped, tests.labels, tests.masks)
        everything.append((scores, tests.labels, maps, tests.masks))
    count = sum(len(one[0]) for one in everything)
    return {
        **summary(metrics, testing.pooled(everything) if len(everything) > 1 else None),
        **twins_as_json(mended),
        "size": subject.size,
        "at_threshold": cuts,
        "mean_stop_step": float(torch.cat(steps).float().mean()) if steps else None,
        "stop_steps": stops,
        "images": count,
        "images_per_second": round(count / seconds, 3),
        "peak_gb": round(peak_gb(), 2),
    }


def fitted(
    job: Job, categories: Sequence[Category], folder: Path, reporter: Reporter
) -> tuple[Callable[[str, str], RowPredictor], dict[str, Any]]:
    """How to get a row's subject, by its label and a category's name, and the facts of the fit."""
    if job.method in METHODS:
        return method_rows(job, categories, folder, reporter)
    paths = training_paths(categories)
    size = own_size(paths, MULTIPLE)
    began = time.monotonic()
    predict, facts = control(job, paths, size) if job.method in BASELINES else peer(job, paths, size, folder)
    facts["fit_seconds"] = round(time.monotonic() - began, 1)
    return lambda _label, _category: RowPredictor(predict, size), facts


def method_rows(
    job: Job, categories: Sequence[Category], folder: Path, reporter: Reporter
) -> tuple[Callable[[str, str], RowPredictor], dict[str, Any]]:
    """The same for a method of ours; the fitted model stays in the folder."""
    place = folder / MODEL
    if not place.is_dir():
        resume = (folder / f".{MODEL}.fit").is_dir()
        fit(job.plan, categories, place, reporter, resume=resume, checked=True)
    model = load(place, job.device)
    own, by_name = categories_of(place), {one.name: one for one in categories}
    config: Any = model.method.config

    @lru_cache(maxsize=1)  # one after another: networks may be large
    def changed_model(label: str, category: str | None) -> Model:
        fitted = model if category is None else load(place, job.device, category)
        some = categories if category is None else [by_name[category]]
        changes, fresh = config_changes(job.rows[label]), UNTRAINED in job.rows[label]
        paths = training_paths(some) if changes or fresh else []
        changed = variant(fitted, changes, paths, job.weights)
        images = [changed.prepare(path) for path in paths] if fresh else []
        return untrained_on(changed, images, job.seed) if fresh else changed

    def subject(label: str, category: str) -> RowPredictor:
        changed = changed_model(label, category if category in own else None)
        stops, rebuilt = list[Tensor](), list[Tensor]()

        def predict(batch: Tensor) -> tuple[Tensor, Tensor]:
            with changed.in_half(job.half):
                found = changed.predict_batch(batch)
            stops.append(found.stop_step)
            rebuilt.append(found.reconstruction)
            return found.score, found.anomaly_map

        depth = changed.method.config.bit_depth
        return RowPredictor(predict, changed.image_size, changed.threshold, stops, rebuilt, depth)

    return subject, {"fit_seconds": model.info["seconds"], "steps": config.training.steps}


def control(job: Job, paths: Sequence[Path], size: int) -> tuple[Predict, dict[str, Any]]:
    """One of the controls: the median colour, or a memory bank of the same features."""
    images = torch.stack([resize(read_image(path), size) for path in paths])
    if job.method == "median-colour":
        return fit_median_colour(images).predict, {}
    named = features_config(job)
    features = open_features(named.layers) if named.name == AUTO else make_features(named)
    if isinstance(features, FeatureExtractor):
        features.load_backbone(backbone_weights(job), str(job.weights))
    return fit_memory_bank(features, images, seed=job.seed).predict, {}


def peer(job: Job, paths: list[Path], size: int, folder: Path) -> tuple[Predict, dict[str, Any]]:
    """One of anomalib's models."""
    from mendiff.anomalib_models.baselines import Baseline, fit_baseline

    named = features_config(job)
    own = named.name == AUTO  # a network that anomalib doesn't know
    weights = None if own else backbone_weights(job)
    asked = Baseline(job.method, job.settings, None if own else named, weights, job.seed)
    workdir = folder / "trainer"
    try:
        fitted = fit_baseline(asked, paths, size, workdir, job.device)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    return fitted.predict, {"steps": fitted.steps}


def backbone_weights(job: Job) -> dict[str, Tensor]:
    """The backbone's tensors by timm's names."""
    if job.weights is None:
        raise InputError("--features: expected --features-weights (its safetensors file) too, got none.")
    return read_weights(job.weights)


def features_config(job: Job) -> FeaturesConfig:
    """Which backbone, and how it wants its input; the one that comes with mendiff where none was named."""
    if job.features is None or job.features == AUTO:
        return FeaturesConfig(AUTO)
    stated = backbone_input(job.weights, job.features_input)
    given = {name.removeprefix("features."): value for name, value in stated.items()}
    return config_from_dict(FeaturesConfig, {"name": job.features, **given}, "features")


def peak_gb() -> float:
    """The most memory that this process has held: the GPU's where it used one, otherwise main memory."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
