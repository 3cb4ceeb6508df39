"""`mendiff tune`: choose how a fitted model searches, from good images and synthetic anomalies alone.

The published code chose its thresholds by the test metric. Here the images that the fit held back are parted
in two: one half calibrates every candidate, the other half is scored with and without synthetic anomalies.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.files import as_json, write_json
from mendiff.checkpoints.provenance import fitted_of
from mendiff.checkpoints.store import categories_of, load, save
from mendiff.data.dataset import Category, open_data
from mendiff.data.images import write_bytes
from mendiff.data.samples import Use
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError
from mendiff.evaluation.metrics import image_and_pixel_metrics
from mendiff.model import Model
from mendiff.synthesis.blend import SynthesisConfig, synthesize
from mendiff.training.split import held_back_and_seen
from mendiff.types import Detection
from mendiff.workflows.common import choose_categories, choose_device
from mendiff.workflows.fit_config import readable_paths
from mendiff.workflows.options import TuneOptions
from mendiff.workflows.places import check_output, new_folder
from mendiff.workflows.reporting import Reporter, Table
from mendiff.workflows.variants import split_as_fitted, variant_of

KEPT = ("image_auroc", "pixel_auroc", "pixel_ap")
SMALLEST_GAIN = 0.01
"""Of the mean of image AUROC and pixel AP: less would not show on the user's own defects."""
FEWEST = 6
"""Held-back images, so that three calibrate and three test."""
TUNING = "tuning.json"


@dataclass(frozen=True)
class Trial:
    """One candidate's figures.

    Attributes:
        field, value: what was tried.
        metrics: of KEPT, on good images with and without synthetic anomalies.
        merits: mean of image AUROC and pixel AP of every repetition, each with other anomalies.
        stop_step: at which images stopped on average, where they do.
    """

    field: str
    value: Any
    metrics: dict[str, float]
    merits: list[float]
    stop_step: float

    @property
    def merit(self) -> float:
        """Mean over the repetitions."""
        return mean(self.merits)

    def beats(self, other: Trial) -> bool:
        """Whether it is better by SMALLEST_GAIN and by twice the standard error of the paired differences."""
        gains = [ours - theirs for ours, theirs in zip(self.merits, other.merits, strict=True)]
        return mean(gains) > max(SMALLEST_GAIN, 2 * stdev(gains) / math.sqrt(len(gains)))


@dataclass(frozen=True)
class TuningImages:
    """What candidates are tried on.

    Attributes:
        seen: images (3,S,S) that the networks were trained on, some of them.
        calibrating, testing: held-back ones, two halves.
        repeated: for every repetition the testing images with anomalies (N,3,S,S) and their masks (N,1,S,S).
    """

    seen: list[Tensor]
    calibrating: list[Tensor]
    testing: list[Tensor]
    repeated: list[tuple[Tensor, Tensor]]


def run(options: TuneOptions, reporter: Reporter) -> dict[str, Any]:
    """Write the model with the settings that found synthetic anomalies best."""
    place = check_output(options.out, options.overwrite, "a tuned model")
    if options.repetitions < 2:
        raise InputError(
            f"--repetitions: expected at least 2, to tell gain from chance, got {options.repetitions}."
        )
    loaded = load(options.model, choose_device(options.device))
    if not loaded.method.searched:
        raise InputError(f"{options.model}: {loaded.name} has no settings that could be tuned.")
    chosen = choose_categories(open_data(options.data, options.layout), options.categories)
    paths = readable_paths(chosen, reporter, Use(bit_depth=loaded.method.config.bit_depth))
    apart = _apart(options.model, loaded, chosen, paths)
    data = tuning_images(loaded, paths, options.repetitions, options.seed, apart)
    trials, best = search(loaded, data, reporter)
    tuned = variant_of(loaded, best, [*data.calibrating, *data.testing], data.seen) if best else loaded

    def learned(name: str) -> Model:
        return tuned.calibrated(*apart[name], category=name) if best else load(options.model, category=name)

    # One by one while the folder is written: every one is a copy of the networks.
    own = ((name, learned(name)) for name in apart)
    report = {"changes": best, "trials": [asdict(trial) for trial in trials], "images": len(paths)}
    with new_folder(place) as draft:
        info = tuned.info | {"tuned": best}
        save(draft / "model", tuned.name, tuned.method, tuned.calibration, info, own)
        write_json(draft / TUNING, report)
        write_bytes(draft / "tuning.svg", curves(trials, best))
    reporter.table(trial_table(trials, best))
    reporter.say(f"model: {options.out / 'model'}; curves: {options.out / 'tuning.svg'}")
    return {"model": str(options.out / "model"), **report}


def _apart(
    folder: Path, model: Model, chosen: Sequence[Category], paths: Sequence[Path]
) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Held-back and seen images of every category that has statistics of its own, as in the fit.

    Args:
        folder: of the model.
        model: the same.
        chosen: categories of the data.
        paths: of their images that can be read.
    """
    names, readable, fitted = categories_of(folder), set(paths), fitted_of(model.info)
    given = [one.name for one in chosen]
    if names and sorted(given) != names:
        raise InputError(
            f"data: expected the categories that {folder} has statistics for ({', '.join(names)}), got "
            f"{', '.join(given)}; give the data, and the --categories, of its fit."
        )
    kept = None if fitted is None else fitted.held_back
    return {
        one.name: held_back_and_seen([model.prepare(path) for path in one.train if path in readable], kept)
        for one in chosen
        if names
    }


def tuning_images(
    model: Model,
    paths: Sequence[Path],
    repetitions: int,
    seed: int,
    apart: Mapping[str, tuple[list[Tensor], list[Tensor]]],
) -> TuningImages:
    """Part the images as the fit did, and put synthetic anomalies into one half of the held-back ones.

    Args:
        model: fitted.
        paths: of its good images.
        repetitions: how often anomalies are drawn.
        seed: of these.
        apart: see _apart; a fit for categories held back images of every one.
    """
    images = [model.prepare(path) for path in paths]
    if apart and fitted_of(model.info) is None:
        chosen = content_seeds(torch.stack([one for held_back, _ in apart.values() for one in held_back]))
        held_back, seen = held_back_and_seen(images, chosen.tolist())
    else:
        held_back, seen = split_as_fitted(model, images)
    if len(held_back) < FEWEST:
        raise InputError(
            f"{paths[0].parent}: expected at least {FEWEST} held-back good images, half to calibrate by "
            f"and half to compare settings on, got {len(held_back)} of {len(paths)}; add good images."
        )
    calibrating, testing = held_back[::2], held_back[1::2]
    config: Any = model.method.config
    synthesis = replace(getattr(config, "synthesis", SynthesisConfig(thin_share=0.4)), share=1.0)
    rng = torch.Generator().manual_seed(seed)
    good = torch.stack(testing)
    return TuningImages(
        seen, calibrating, testing, [synthesize(good, rng, synthesis) for _ in range(repetitions)]
    )


def search(model: Model, data: TuningImages, reporter: Reporter) -> tuple[list[Trial], dict[str, Any]]:
    """Try every field's candidates in turn; all trials, and the changes that were better beyond chance."""
    config: Any = model.method.config
    fields = {
        name: [value for value in values if value != as_json_value(getattr(config, name))]
        for name, values in model.method.searched.items()
    }
    trials: list[Trial] = []
    best: dict[str, Any] = {}
    with reporter.bar("tuning") as update:
        total = sum(len(values) + 1 for values in fields.values())
        update(0, total, "")
        for name, values in fields.items():
            winner = run_trial(model, data, best, name, as_json_value(getattr(config, name)))
            trials.append(winner)
            update(len(trials), total, name)
            for value in values:
                trial = run_trial(model, data, best, name, value)
                trials.append(trial)
                update(len(trials), total, name)
                winner = trial if trial.beats(winner) else winner
            if winner.value != as_json_value(getattr(config, name)):
                best[name] = winner.value
    return trials, best


def as_json_value(value: Any) -> Any:
    """A config's value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def run_trial(model: Model, data: TuningImages, best: Mapping[str, Any], name: str, value: Any) -> Trial:
    """One candidate, with what was chosen before it."""
    changed = variant_of(model, {**best, name: value}, data.calibrating, data.seen)
    good = changed.predict(data.testing)
    rows = [
        metrics_against_good(good, changed.predict(list(images)), masks) for images, masks in data.repeated
    ]
    metrics = {key: mean(row[key] for row in rows) for key in KEPT}
    merits = [(row["image_auroc"] + row["pixel_ap"]) / 2 for row in rows]
    return Trial(name, value, metrics, merits, float(good.stop_step.float().mean()))


def metrics_against_good(good: Detection, marred: Detection, masks: Tensor) -> dict[str, float]:
    """KEPT of what was found in good images beside what was found in images with anomalies.

    Args:
        good: one row per good image.
        marred: one row per image with an anomaly.
        masks: of the latter, (N,1,S,S) bool; images whose mask came out empty do not count.
    """
    there = masks.flatten(1).any(1)
    count = len(good.score)
    metrics = image_and_pixel_metrics(
        torch.cat([good.score, marred.score[there]]),
        torch.arange(count + int(there.sum())) >= count,
        torch.cat([good.anomaly_map, marred.anomaly_map[there]]),
        torch.cat([masks.new_zeros(count, *masks.shape[1:]), masks[there]]),
    )
    return {key: float(metrics[key] or 0.0) for key in KEPT}


def trial_table(trials: Sequence[Trial], best: Mapping[str, Any]) -> Table:
    """Every trial; what was chosen is marked."""
    titles = ["setting", "", *(key.replace("_", " ") for key in KEPT)]
    table = Table("tuning, on good images and synthetic anomalies", titles)
    for trial in trials:
        mark = "chosen" if trial.field in best and best[trial.field] == trial.value else ""
        cells = [f"{trial.metrics[key]:.3f}" for key in KEPT]
        table.add(f"{trial.field}={as_json(trial.value, trial.field)}", mark, *cells)
    return table


def curves(trials: Sequence[Trial], best: Mapping[str, Any]) -> bytes:
    """The trials as SVG: one panel per field, image AUROC and pixel AP with standard errors of their mean."""
    from matplotlib.figure import Figure

    fields = list(dict.fromkeys(trial.field for trial in trials))
    figure = Figure(figsize=(4 * len(fields), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(fields), squeeze=False)[0], fields, strict=True):
        # The first trial is the present setting, which stays unless another one beats it.
        some = [trial for trial in trials if trial.field == name]
        kept = best.get(name, some[0].value)
        some.sort(key=lambda trial: (trial.value is not None, trial.value))
        places = range(len(some))
        for key in ("image_auroc", "pixel_ap"):
            axes.plot(places, [trial.metrics[key] for trial in some], "o-", label=key.replace("_", " "))
        errors = [stdev(trial.merits) / math.sqrt(len(trial.merits)) for trial in some]
        axes.errorbar(places, [trial.merit for trial in some], errors, fmt="k.--", capsize=3, label="mean")
        axes.axvline([trial.value for trial in some].index(kept), color="0.7", zorder=0)
        axes.set_xticks(places, [as_json(trial.value, name) for trial in some], rotation=45)
        axes.set_title(name)
        axes.set_ylim(0, 1.02)
    axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()
