"""`mendiff calibrate`: recompute the thresholds of a fitted model from new good images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mendiff.calibration import MINIMUM, Calibration
from mendiff.checkpoints.model_folder import categories_of
from mendiff.checkpoints.store import load, save
from mendiff.data.dataset import open_data
from mendiff.errors import InputError, check_range
from mendiff.model import Model
from mendiff.runs.common import choose_categories, choose_device
from mendiff.runs.fit_config import use_of_config
from mendiff.runs.places import check_output, new_folder
from mendiff.runs.reporting import Reporter
from mendiff.runs.thresholds import check_rate, report_reliability, warn_of_outliers
from mendiff.runs.training_images import readable_paths
from mendiff.workflows.options import CalibrateOptions


def run(options: CalibrateOptions, reporter: Reporter) -> dict[str, Any]:
    """Write a model folder `out` with the networks and statistics of `model` and new thresholds."""
    place = check_output(options.out, options.overwrite, "a model")
    if options.out.resolve() == options.model.resolve():
        raise InputError(f"{options.out}: expected another folder than the model's; choose another -o.")
    if options.data is None and options.false_alarm_rate is None:
        raise InputError(
            "DATA: expected good images, or --false-alarm-rate to change only the rate, got neither."
        )
    check_range("--batch-size", options.batch_size, 1)
    rate = None if options.false_alarm_rate is None else check_rate(options.false_alarm_rate)
    device = choose_device(options.device)
    loaded = load(options.model, device)
    images: dict[str, list[Path]] = {}
    if options.data is not None:
        use = use_of_config(loaded.method.config)
        chosen = choose_categories(open_data(options.data, options.layout), options.categories)
        readable = set(readable_paths(chosen, reporter, use))
        images = {category.name: [path for path in category.train if path in readable] for category in chosen}
    model = _calibrated(loaded, images, rate, options.batch_size, reporter)
    of_categories = _of_categories(model, images, options.batch_size, reporter)
    with new_folder(place) as draft:
        draft.rmdir()
        save(draft, model.name, model.method, model.calibration, model.info, of_categories, model.area)
    calibration, paths = model.calibration, [path for some in images.values() for path in some]
    reporter.say(f"model: {options.out} (threshold {model.threshold:.4g} from good images only)")
    report_reliability(calibration, reporter)
    return {
        "model": str(options.out),
        "threshold": model.threshold,
        "thresholds": {
            name: load(options.out, category=name).threshold for name in categories_of(options.out)
        },
        "false_alarm_rate": calibration.false_alarm_rate,
        "images": sum(map(len, images.values())),
        "worth": calibration.worth,
        "standing_out": [str(paths[at]) for at in calibration.outliers] if paths else [],
    }


def _calibrated(
    model: Model, images: dict[str, list[Path]], rate: float | None, batch_size: int, reporter: Reporter
) -> Model:
    """The model with the false-alarm rate, and with a threshold from all images, if there are any."""
    model = model if rate is None else model.with_false_alarm_rate(rate)
    paths = [path for some in images.values() for path in some]
    if not paths:
        return model
    calibration = scores_of(model, paths, batch_size, reporter, "calibrating")
    warn_of_outliers(calibration, paths, reporter)
    source = {"images": len(paths), "categories": list(images)}
    return replace(model, calibration=calibration, info={**model.info, "calibrated": source})


def _of_categories(
    model: Model, images: dict[str, list[Path]], batch_size: int, reporter: Reporter
) -> Iterator[tuple[str, Model]]:
    """The models of the categories with their own threshold; generated singly, since each is a copy."""
    device = str(next(model.method.parameters()).device)
    names = categories_of(model.source)
    for name in images:
        if names and name not in names:
            reporter.say(
                f"note: the model has no separate threshold for {name}, only for {', '.join(names)}."
            )
    for name in names:
        own = load(model.source, device, name).with_false_alarm_rate(model.calibration.false_alarm_rate)
        if name in images:
            calibration = scores_of(own, images[name], batch_size, reporter, f"calibrating {name}")
            report_reliability(calibration, reporter, f"threshold of {name}", warnings_only=True)
            own = replace(own, calibration=calibration)
        yield name, own


def scores_of(
    model: Model, paths: Sequence[Path], batch_size: int, reporter: Reporter, title: str
) -> Calibration:
    """Calibration of a fitted model on new good images, at the model's false-alarm rate.

    Raises InputError for too few different images, and for training images of the model.
    """
    seeds: list[int] = []
    scores: list[float] = []
    peaks: list[float] = []
    count = 1 if model.geometry.tile else batch_size  # tiles of a large image fill batches
    batches = [paths[first : first + count] for first in range(0, len(paths), count)]
    for batch in reporter.track(batches, f"{title}: batches"):
        prepared = [model.prepare(path) for path in batch]
        seeds += map(model.geometry.seed, prepared)
        for row in model.rows(prepared, batch_size):
            scores.append(float(row.score))
            peaks.append(float(row.anomaly_map.max()))
    _check_unseen(model, seeds, paths[0].parent)
    return Calibration(tuple(scores), tuple(peaks), model.calibration.false_alarm_rate)


def _check_unseen(model: Model, seeds: Sequence[int], place: Path) -> None:
    """Raise InputError for too few different images, and for training images.

    A model folder lists only the held-back images of its fit. These alone may be used again. If they come
    with other images, the others are most likely training images.
    """
    distinct = set(seeds)
    if len(distinct) < MINIMUM:
        raise InputError(
            f"{place}: expected at least {MINIMUM} different good images, got {len(distinct)}; add some."
        )
    known = distinct & set((model.info.get("fitted") or {}).get("held_back", ()))
    if known and known != distinct:
        raise InputError(
            f"{place}: expected good images that are not training images, but {len(known)} of these "
            f"{len(distinct)} are held-back images of the model's fit, so most of the others are training "
            "images; give new images."
        )
