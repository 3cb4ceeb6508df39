"""`mendiff fit --preset auto`: fit the presets that the time allows and keep the best model.

Models are compared on synthetic defects in held-back good images. No real defective image is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mendiff.checkpoints.model_folder import CONFIG
from mendiff.checkpoints.provenance import fitted_of
from mendiff.checkpoints.store import load
from mendiff.data.dataset import Category
from mendiff.errors import InputError
from mendiff.inspection import stacked
from mendiff.model import Model
from mendiff.runs.common import readable_categories
from mendiff.runs.fit_checks import STEPS
from mendiff.runs.fit_config import Plan, make_config, use_of
from mendiff.runs.length import chosen_length
from mendiff.runs.locks import hidden_path
from mendiff.runs.places import check_output, new_folder, resumable
from mendiff.runs.reporting import Reporter
from mendiff.runs.training_images import training_paths
from mendiff.synthesis.probes import probes
from mendiff.training.split import split_seeds
from mendiff.workflows.fit import fit
from mendiff.workflows.manifest import MANIFEST, check_manifest, data_hashes
from mendiff.workflows.training_run import NOTHING_TO_RESUME
from mendiff.workflows.tune import METRICS, SMALLEST_GAIN, metrics_against_good

CANDIDATES = ("tiny", "small")
"""From the fastest; a slower preset must be better by SMALLEST_GAIN."""
MINUTES = 60.0
"""Default time for all fits together."""
SHORTEST = 0.5
"""A candidate is skipped if less than this share of its preset's training time is left."""
DEFECTS, BATCH = 48, 8


@dataclass(frozen=True)
class Candidate:
    """The result of a candidate.

    Attributes:
        minutes: duration of its fit.
        metrics: tune.METRICS, on held-back good images with and without synthetic defects.
    """

    minutes: float
    metrics: dict[str, float]

    @property
    def merit(self) -> float:
        """Mean of image AUROC and pixel AP."""
        return (self.metrics["image_auroc"] + self.metrics["pixel_ap"]) / 2


def fit_candidates(
    plan: Plan,
    categories: Sequence[Category],
    out: Path,
    reporter: Reporter,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fit every candidate that the time allows, and write the model folder of the best candidate.

    Finished fits of an interrupted run are kept beside the model folder, for --resume. Arguments and result
    are those of `fit`; the plan's preset is "auto" and its minutes are the time for all fits.
    """
    if plan.processes.count > 1:
        raise InputError(
            f"--preset auto: expected a single process, got {plan.processes.count}; choose another preset."
        )
    if STEPS in plan.settings:
        raise InputError(
            "--preset auto: expected --minutes instead of a number of steps; or choose another preset."
        )
    place, work = check_output(out, overwrite, "a model"), hidden_path(out, "auto")
    if resume and not work.is_dir():
        raise InputError(NOTHING_TO_RESUME.format(out))
    categories = readable_categories(categories, reporter, use_of(replace(plan, preset=CANDIDATES[0])))
    paths = training_paths(categories)
    with resumable(work / MANIFEST, out, resume):
        check_manifest(work, work / MANIFEST, _asked(plan, categories, paths), resume=resume)
        found, tried = _tried(plan, categories, work, reporter, resume=resume)
        best = best_candidate(tried)
        model = load(work / best, plan.device)
        results = {name: asdict(candidate) for name, candidate in tried.items()}
        model.info |= {"tried": results}
        with new_folder(place) as draft:
            draft.rmdir()
            model.save(draft)
    others = ", ".join(name for name in tried if name != best)
    reporter.say(f"model: {out} ({best}{f', compared with {others}' if others else ''})")
    result = found.get(best, {**model.info, "threshold": model.threshold})
    return {**result, "model": str(out), "preset": best, "tried": results}


def _tried(
    plan: Plan, categories: Sequence[Category], work: Path, reporter: Reporter, *, resume: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, Candidate]]:
    """(summaries of the new fits, results of all candidates), by preset; the models are in `work`."""
    paths, left = training_paths(categories), plan.minutes or MINUTES
    found: dict[str, dict[str, Any]] = {}
    tried: dict[str, Candidate] = {}
    for name in CANDIDATES:
        started = not tried or (resume and hidden_path(work / name, "fit").is_dir())
        full = replace(plan, preset=name, minutes=0.0)
        candidate = full if started else _shortened(full, paths, left, reporter)
        if candidate is None:
            continue
        if not (work / name / CONFIG).is_file():
            found[name] = _fitted(candidate, categories, work / name, reporter, resume=resume)
        model = load(work / name, plan.device)
        minutes = model.info["seconds"] / 60
        left -= minutes
        metrics = defect_metrics(model, paths, plan.seed, reporter, name)
        tried[name] = Candidate(round(minutes, 1), metrics)
        reporter.say(_line(name, tried[name]))
    return found, tried


def _fitted(
    plan: Plan, categories: Sequence[Category], folder: Path, reporter: Reporter, *, resume: bool
) -> dict[str, Any]:
    """Fit a candidate or resume its fit; the manifest is removed if nothing can be resumed."""
    try:
        resumed = resume and hidden_path(folder, "fit").is_dir()
        return fit(plan, categories, folder, reporter, resume=resumed, checked=True)
    except BaseException:
        if not any(path.is_dir() for path in folder.parent.iterdir()):
            (folder.parent / MANIFEST).unlink()
        raise


def _asked(plan: Plan, categories: Sequence[Category], paths: Sequence[Path]) -> dict[str, Any]:
    """The inputs that must not change between the start of a fit and --resume."""
    inputs = asdict(plan)
    inputs |= {key: str(value) for key, value in inputs.items() if isinstance(value, Path)}
    del inputs["device"]
    return {"data": data_hashes(categories, paths), **inputs}


def _shortened(plan: Plan, paths: Sequence[Path], left: float, reporter: Reporter) -> Plan | None:
    """A candidate's plan, shortened to the minutes left; None if too few are left."""
    minutes = chosen_length(plan.method, make_config(plan, paths), plan.device).minutes
    if minutes <= left:
        return plan
    if left > SHORTEST * minutes:
        return replace(plan, minutes=left)
    reporter.say(
        f"note: {plan.preset} is skipped: it takes about {minutes:.0f} minutes here, and "
        f"{max(left, 0):.0f} are left; use --minutes {minutes + MINUTES:.0f} to include it."
    )
    return None


def defect_metrics(
    model: Model, paths: Sequence[Path], seed: int, reporter: Reporter, title: str
) -> dict[str, float]:
    """tune.METRICS of a fitted model, on its held-back images with and without synthetic defects.

    Args:
        model: fitted.
        paths: of all good images of its fit.
        seed: of the defects; models with the same image size get the same defects.
        reporter: shows a progress bar.
        title: of the bar.
    """
    inputs = held_back_inputs(model, paths)
    rng = torch.Generator().manual_seed(seed)
    defective, masks = probes(inputs, DEFECTS, rng)
    with model.in_half(), reporter.bar(f"evaluating {title}: parts") as update:
        update(0, 2, "good images")
        good = stacked([model.predict_batch(batch) for batch in inputs.split(BATCH)])
        update(1, 2, "synthetic defects")
        bad = stacked([model.predict_batch(batch) for batch in defective.split(BATCH)])
        metrics = metrics_against_good(good, bad, masks)
        update(2, 2, "")
    return metrics


def held_back_inputs(model: Model, paths: Sequence[Path]) -> torch.Tensor:
    """A network input of every held-back image of a fit, (N,3,S,S).

    Args:
        model: fitted.
        paths: of all good images of its fit.
    """
    geometry, fitted = model.geometry, fitted_of(model.info)
    seeds = {geometry.seed(model.prepare(path)): path for path in paths}
    held_back, _ = split_seeds(list(seeds), None if fitted is None else fitted.held_back)
    return geometry.sample((model.prepare(seeds[seed]) for seed in held_back), 1)


def best_candidate(tried: dict[str, Candidate]) -> str:
    """The best candidate; a slower candidate must be better by SMALLEST_GAIN."""
    best, *others = tried
    for name in others:
        if tried[name].merit > tried[best].merit + SMALLEST_GAIN:
            best = name
    return best


def _line(name: str, candidate: Candidate) -> str:
    figures = ", ".join(f"{key.replace('_', ' ')} {candidate.metrics[key]:.3f}" for key in METRICS)
    return f"{name}: {figures} on synthetic defects in held-back images"
