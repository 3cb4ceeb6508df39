"""`mendiff tune`: tune inference settings on good images and synthetic anomalies only.

The published code tunes thresholds on the test set. Here the held-back images of the fit are split in halves:
the first calibrates every candidate, the second is scored with and without synthetic anomalies.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.files import as_json, write_json
from mendiff.checkpoints.model_folder import categories_of
from mendiff.checkpoints.provenance import fitted_of
from mendiff.checkpoints.store import load, save
from mendiff.data.dataset import Category, open_data
from mendiff.data.images import write_bytes
from mendiff.data.samples import Use
from mendiff.errors import InputError
from mendiff.evaluation.metrics import image_and_pixel_metrics
from mendiff.model import MOST_TILES, Model
from mendiff.runs.common import choose_categories, choose_device
from mendiff.runs.places import check_output, new_folder
from mendiff.runs.reporting import Reporter, Table
from mendiff.runs.training_images import readable_paths
from mendiff.runs.variants import seeds_of, split_as_fitted, split_by_seed, variant_of
from mendiff.synthesis.blend import SynthesisConfig, synthesize
from mendiff.types import Detection
from mendiff.workflows.options import TuneOptions

METRICS = ("image_auroc", "pixel_auroc", "pixel_ap")
SMALLEST_GAIN = 0.01
"""Smallest relevant gain of the mean of image AUROC and pixel AP."""
FEWEST = 6
"""Fewest held-back images: three for calibration, three for the comparison."""
TUNING = "tuning.json"


@dataclass(frozen=True)
class Trial:
    """Results of a candidate.

    Attributes:
        field, value: the changed setting.
        metrics: METRICS, on good images with and without synthetic anomalies.
        merits: mean of image AUROC and pixel AP for every repetition, with different anomalies each.
        stop_step: mean stop step; 0 for methods without adaptive stopping.
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
        """Whether the gain exceeds SMALLEST_GAIN and twice the standard error of paired differences."""
        gains = [ours - theirs for ours, theirs in zip(self.merits, other.merits, strict=True)]
        return mean(gains) > max(SMALLEST_GAIN, 2 * stdev(gains) / math.sqrt(len(gains)))


@dataclass(frozen=True)
class TuningImages:
    """Network inputs on which candidates are compared: images, letterboxed images or some of their tiles.

    Attributes:
        seen: of some training images (3,S,S).
        calibrating, testing: of the two halves of the held-back images.
        repeated: for every repetition the testing images with anomalies (N,3,S,S) and their masks (N,1,S,S).
    """

    seen: list[Tensor]
    calibrating: list[Tensor]
    testing: list[Tensor]
    repeated: list[tuple[Tensor, Tensor]]


def run(options: TuneOptions, reporter: Reporter) -> dict[str, Any]:
    """Tune the model and write it with the best settings."""
    place = check_output(options.out, options.overwrite, "a tuned model")
    if options.repetitions < 2:
        raise InputError(
            f"--repetitions: expected at least 2, for a standard error, got {options.repetitions}."
        )
    loaded = load(options.model, choose_device(options.device))
    if not loaded.method.searched:
        raise InputError(f"{options.model}: expected a method with tunable settings, got {loaded.name}.")
    chosen = choose_categories(open_data(options.data, options.layout), options.categories)
    paths = readable_paths(chosen, reporter, Use(reading=loaded.reading))
    by_category = _split_by_category(options.model, loaded, chosen, paths)
    held_back, seen = _split(loaded, paths, by_category)
    data = tuning_images(loaded, held_back, seen, options.repetitions, options.seed)
    trials, best = search(_of_inputs(loaded, data), data, reporter)
    tuned = variant_of(loaded, best, [*held_back[::2], *held_back[1::2]], seen) if best else loaded

    def of_category(name: str) -> Model:
        fitted = load(options.model, category=name)
        if not best:
            return fitted
        return replace(tuned, area=fitted.area).calibrated(*by_category[name], category=name)

    # Generated singly while the folder is written: every model is a copy of the networks.
    of_categories = ((name, of_category(name)) for name in by_category)
    report = {"changes": best, "trials": [asdict(trial) for trial in trials], "images": len(paths)}
    with new_folder(place) as draft:
        info = tuned.info | {"tuned": best}
        save(draft / "model", tuned.name, tuned.method, tuned.calibration, info, of_categories, tuned.area)
        write_json(draft / TUNING, report)
        write_bytes(draft / "tuning.svg", curves(trials, best))
    reporter.table(trial_table(trials, best))
    reporter.say(f"model: {options.out / 'model'}; curves: {options.out / 'tuning.svg'}")
    return {"model": str(options.out / "model"), **report}


def _split_by_category(
    folder: Path, model: Model, chosen: Sequence[Category], paths: Sequence[Path]
) -> dict[str, tuple[list[Path], list[Path]]]:
    """(held-back, training images) of every category with its own statistics, as split by the fit.

    Args:
        folder: of the model.
        model: loaded from `folder`.
        chosen: categories of the data.
        paths: of their readable images.
    """
    names, readable, fitted = categories_of(folder), set(paths), fitted_of(model.info)
    given = [one.name for one in chosen]
    if names and sorted(given) != names:
        raise InputError(
            f"data: expected the categories for which {folder} has statistics ({', '.join(names)}), got "
            f"{', '.join(given)}; give the data and the --categories of its fit."
        )
    kept = None if fitted is None else fitted.held_back
    split = {}
    for one in chosen if names else ():
        images = [path for path in one.train if path in readable]
        split[one.name] = split_by_seed(images, seeds_of(model, images), kept)
    return split


def _split(
    model: Model, paths: Sequence[Path], by_category: Mapping[str, tuple[list[Path], list[Path]]]
) -> tuple[list[Path], list[Path]]:
    """(held-back, training images) of all categories, as split by the fit."""
    if not by_category or fitted_of(model.info) is not None:
        held_back, seen = split_as_fitted(model, paths)
    else:
        chosen = seeds_of(model, [path for kept, _ in by_category.values() for path in kept])
        held_back, seen = split_by_seed(paths, seeds_of(model, paths), chosen)
    if len(held_back) < FEWEST:
        raise InputError(
            f"{paths[0].parent}: expected at least {FEWEST} held-back good images, half of them for "
            f"calibration, half for the comparison, got {len(held_back)} of {len(paths)}; add good images."
        )
    return held_back, seen


def tuning_images(
    model: Model, held_back: Sequence[Path], seen: Sequence[Path], repetitions: int, seed: int
) -> TuningImages:
    """Network inputs of images, and synthetic anomalies in those of a half of the held-back images.

    Args:
        model: fitted.
        held_back: held-back good images of its fit.
        seen: some of its training images.
        repetitions: number of anomaly sets.
        seed: of the anomalies.
    """
    most = max(1, MOST_TILES // (len(held_back) + len(seen)))
    halves = (held_back[::2], held_back[1::2], seen)
    calibrating, testing, known = (
        list(model.geometry.sample((model.prepare(path) for path in some), most)) if some else []
        for some in halves
    )
    config: Any = model.method.config
    synthesis = replace(getattr(config, "synthesis", SynthesisConfig(thin_share=0.4)), share=1.0)
    rng = torch.Generator().manual_seed(seed)
    good = torch.stack(testing)
    return TuningImages(
        known, calibrating, testing, [synthesize(good, rng, synthesis) for _ in range(repetitions)]
    )


def _of_inputs(model: Model, data: TuningImages) -> Model:
    """A model of whole square images with the same networks, for which network inputs are images."""
    if model.plain:
        return model
    changes = {"resize": "stretch", "tile": 0}
    return variant_of(replace(model, area=None), changes, data.calibrating, data.seen)


def search(model: Model, data: TuningImages, reporter: Reporter) -> tuple[list[Trial], dict[str, Any]]:
    """Evaluate the candidates of all fields in turn; returns all trials and the significant changes."""
    config: Any = model.method.config
    fields = {
        name: [value for value in values if value != as_json_value(attrgetter(name)(config))]
        for name, values in model.method.searched.items()
    }
    trials: list[Trial] = []
    best: dict[str, Any] = {}
    with reporter.bar("tuning: candidates") as update:
        total = sum(len(values) + 1 for values in fields.values())
        update(0, total, "")
        for name, values in fields.items():
            winner = run_trial(model, data, best, name, as_json_value(attrgetter(name)(config)))
            trials.append(winner)
            update(len(trials), total, name)
            for value in values:
                trial = run_trial(model, data, best, name, value)
                trials.append(trial)
                update(len(trials), total, name)
                winner = trial if trial.beats(winner) else winner
            if winner.value != as_json_value(attrgetter(name)(config)):
                best[name] = winner.value
    return trials, best


def as_json_value(value: Any) -> Any:
    """A config value as JSON returns it: tuples as lists."""
    return list(value) if isinstance(value, tuple) else value


def run_trial(model: Model, data: TuningImages, best: Mapping[str, Any], name: str, value: Any) -> Trial:
    """Evaluate a candidate together with the changes chosen before."""
    changed = variant_of(model, {**best, name: value}, data.calibrating, data.seen)
    good = changed.predict(data.testing)
    rows = [
        metrics_against_good(good, changed.predict(list(images)), masks) for images, masks in data.repeated
    ]
    metrics = {key: mean(row[key] for row in rows) for key in METRICS}
    merits = [(row["image_auroc"] + row["pixel_ap"]) / 2 for row in rows]
    return Trial(name, value, metrics, merits, float(good.stop_step.float().mean()))


def metrics_against_good(good: Detection, anomalous: Detection, masks: Tensor) -> dict[str, float]:
    """METRICS for good images against images with anomalies.

    Args:
        good: results for good images.
        anomalous: results for N images with anomalies.
        masks: of these N images, (N,1,S,S) bool; images with an empty mask are ignored.
    """
    nonempty = masks.flatten(1).any(1)
    count = len(good.score)
    metrics = image_and_pixel_metrics(
        torch.cat([good.score, anomalous.score[nonempty]]),
        torch.arange(count + int(nonempty.sum())) >= count,
        torch.cat([good.anomaly_map, anomalous.anomaly_map[nonempty]]),
        torch.cat([masks.new_zeros(count, *masks.shape[1:]), masks[nonempty]]),
    )
    return {key: float(metrics[key] or 0.0) for key in METRICS}


def trial_table(trials: Sequence[Trial], best: Mapping[str, Any]) -> Table:
    """Table of all trials, with chosen values marked."""
    titles = ["setting", "", *(key.replace("_", " ") for key in METRICS)]
    table = Table("tuning, on good images and synthetic anomalies", titles)
    for trial in trials:
        mark = "chosen" if trial.field in best and best[trial.field] == trial.value else ""
        cells = [f"{trial.metrics[key]:.3f}" for key in METRICS]
        table.add(f"{trial.field}={as_json(trial.value, trial.field)}", mark, *cells)
    return table


def curves(trials: Sequence[Trial], best: Mapping[str, Any]) -> bytes:
    """The trials as SVG: a panel per field with image AUROC, pixel AP, and their mean with standard error."""
    from matplotlib.figure import Figure

    fields = list(dict.fromkeys(trial.field for trial in trials))
    figure = Figure(figsize=(4 * len(fields), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(fields), squeeze=False)[0], fields, strict=True):
        # The first trial is the current setting, kept unless another trial beats it.
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
