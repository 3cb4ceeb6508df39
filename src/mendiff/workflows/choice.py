"""`mendiff fit --preset auto`: fit the presets that the time allows, keep the one that finds most flaws.

Flaws are home-made ones, laid into good images that were held back: no defective image has a say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mendiff.checkpoints.store import CONFIG, load
from mendiff.data.dataset import Category
from mendiff.errors import InputError
from mendiff.model import Model
from mendiff.synthesis.probes import probes
from mendiff.workflows.fit import STEPS, fit
from mendiff.workflows.fit_config import Plan, make_config, readable_paths
from mendiff.workflows.length import chosen_length
from mendiff.workflows.locks import hidden_path
from mendiff.workflows.manifest import MANIFEST, check_manifest, data_hashes
from mendiff.workflows.places import check_output, new_folder, resumable
from mendiff.workflows.reporting import Reporter
from mendiff.workflows.tune import KEPT, SMALLEST_GAIN, metrics_against_good
from mendiff.workflows.variants import split_as_fitted

CANDIDATES = ("tiny", "small")
"""From the fastest on; a slower one has to find more."""
MINUTES = 60.0
"""That all of them may take, unless told."""
SHORTEST = 0.5
"""A candidate is given up that would get less than this share of the time that its preset is meant for."""
FLAWS = 48


@dataclass(frozen=True)
class Candidate:
    """What a candidate came to.

    Attributes:
        minutes: that its fit took.
        metrics: tune.KEPT, on held-back good images with and without flaws.
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
    """Fit every candidate that the time allows, and write the best one's model folder.

    What was fitted before an interruption is kept beside the model folder, for --resume. Arguments and what
    is returned are those of `fit`, but that the plan's preset is "auto" and its minutes are for all fits.
    """
    if plan.processes.count > 1:
        raise InputError(f"--preset auto: expected one process, got {plan.processes.count}; name a preset.")
    if STEPS in plan.settings:
        raise InputError("--preset auto: expected --minutes in place of a number of steps; or name a preset.")
    place, work = check_output(out, overwrite, "a model"), hidden_path(out, "auto")
    if resume and not work.is_dir():
        raise InputError(
            f"--resume: expected an interrupted fit of {out} to go on with, found none; fit without it."
        )
    paths = readable_paths(categories, Reporter())  # every fit names what it leaves out
    left = plan.minutes or MINUTES
    found: dict[str, dict[str, Any]] = {}
    tried: dict[str, Candidate] = {}
    with resumable(work / MANIFEST, out, resume):
        check_manifest(work, work / MANIFEST, _asked(plan, categories, paths), resume=resume)
        for name in CANDIDATES:
            begun = not tried or (resume and hidden_path(work / name, "fit").is_dir())
            asked = replace(plan, preset=name, minutes=0.0)
            one = asked if begun else _timed(asked, paths, left, reporter)
            if one is None:
                continue
            if not (work / name / CONFIG).is_file():
                found[name] = _fitted(one, categories, work / name, reporter, resume=resume)
            model = load(work / name, plan.device)
            minutes = model.info["seconds"] / 60
            left -= minutes
            tried[name] = Candidate(
                round(minutes, 1), defect_metrics(model, paths, plan.seed, reporter, name)
            )
            reporter.say(_line(name, tried[name]))
        best = chosen(tried)
        model = load(work / best, plan.device)
        told = {name: asdict(one) for name, one in tried.items()}
        model.info |= {"tried": told}
        with new_folder(place) as draft:
            draft.rmdir()
            model.save(draft)
    others = ", ".join(name for name in tried if name != best)
    reporter.say(f"model: {out} ({best}{f', which was compared with {others}' if others else ''})")
    result = found.get(best, {**model.info, "threshold": model.threshold})
    return {**result, "model": str(out), "preset": best, "tried": told}


def _fitted(
    plan: Plan, categories: Sequence[Category], folder: Path, reporter: Reporter, *, resume: bool
) -> dict[str, Any]:
    """Fit a candidate, or go on with it; where nothing comes of the first one, nothing stays."""
    try:
        goes_on = resume and hidden_path(folder, "fit").is_dir()
        return fit(plan, categories, folder, reporter, resume=goes_on)
    except BaseException:
        if not any(one.is_dir() for one in folder.parent.iterdir()):
            (folder.parent / MANIFEST).unlink()
        raise


def _asked(plan: Plan, categories: Sequence[Category], paths: Sequence[Path]) -> dict[str, Any]:
    """What a fit that goes on must have been started with."""
    told = asdict(plan)
    told |= {key: str(one) for key, one in told.items() if isinstance(one, Path)}
    del told["device"]
    return {"data": data_hashes(categories, paths), **told}


def _timed(plan: Plan, paths: Sequence[Path], left: float, reporter: Reporter) -> Plan | None:
    """A candidate's plan, shortened to the minutes that are left; None if these are too few."""
    minutes = chosen_length(plan.method, make_config(plan, paths), plan.device).minutes
    if minutes <= left:
        return plan
    if left > SHORTEST * minutes:
        return replace(plan, minutes=left)
    reporter.say(
        f"note: {plan.preset} was not tried: it takes about {minutes:.0f} minutes here, and "
        f"{max(left, 0):.0f} are left; --minutes {minutes + MINUTES:.0f} would allow it."
    )
    return None


def defect_metrics(
    model: Model, paths: Sequence[Path], seed: int, reporter: Reporter, title: str
) -> dict[str, float]:
    """tune.KEPT of a fitted model, on the images that its fit held back with and without flaws.

    Args:
        model: fitted.
        paths: of all good images of its fit.
        seed: of the flaws; models that see images at one size are shown the same.
        reporter: shows a progress bar.
        title: of the bar.
    """
    held_back, _ = split_as_fitted(model, [model.prepare(path) for path in paths])
    good = torch.stack(held_back)
    flawed, masks = probes(good, FLAWS, torch.Generator().manual_seed(seed))
    with model.in_half(), reporter.bar(f"judging {title}") as update:
        update(0, 2, "good images")
        usual = model.predict(held_back)
        update(1, 2, "flaws")
        metrics = metrics_against_good(usual, model.predict(list(flawed)), masks)
        update(2, 2, "")
    return metrics


def chosen(tried: dict[str, Candidate]) -> str:
    """The best candidate; a slower one must be better by SMALLEST_GAIN."""
    best, *others = tried
    for name in others:
        if tried[name].merit > tried[best].merit + SMALLEST_GAIN:
            best = name
    return best


def _line(name: str, one: Candidate) -> str:
    figures = ", ".join(f"{key.replace('_', ' ')} {one.metrics[key]:.3f}" for key in KEPT)
    return f"{name}: {figures} on flaws laid into held-back images"
