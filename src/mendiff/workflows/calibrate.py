"""`mendiff calibrate`: recompute the thresholds of a fitted model from new good images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mendiff.calibration import MINIMUM, Calibration
from mendiff.checkpoints.model_folder import categories_of, read_calibration, read_config, recalibrated
from mendiff.errors import InputError, check_range
from mendiff.runs.places import check_output, new_folder
from mendiff.runs.reporting import Reporter
from mendiff.runs.thresholds import check_rate, report_reliability, warn_of_outliers
from mendiff.workflows.options import CalibrateOptions

if TYPE_CHECKING:
    from mendiff.model import Model


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
    names = categories_of(options.model)
    found: dict[str | None, Calibration]
    found = {name: read_calibration(options.model, name) for name in (None, *names)}
    rate = rate or found[None].false_alarm_rate
    found = {name: one.at_rate(rate) for name, one in found.items()}
    info, paths = read_config(options.model)["info"], []
    if options.data is not None:
        images = _scored(options, options.data, found, reporter)
        paths = [path for some in images.values() for path in some]
        info = {**info, "calibrated": {"images": len(paths), "categories": list(images)}}
    with new_folder(place) as draft:
        recalibrated(options.model, draft, found, info)
    calibration = found[None]
    reporter.say(f"model: {options.out} (threshold {calibration.threshold:.4g} from good images only)")
    report_reliability(calibration, reporter)
    return {
        "model": str(options.out),
        "threshold": calibration.threshold,
        "thresholds": {name: found[name].threshold for name in names},
        "false_alarm_rate": rate,
        "images": len(paths),
        "worth": calibration.worth,
        "standing_out": [str(paths[at]) for at in calibration.outliers] if paths else [],
    }


def _scored(
    options: CalibrateOptions, data: Path, found: dict[str | None, Calibration], reporter: Reporter
) -> dict[str, list[Path]]:
    """Replace calibrations by those of new good images; returns the images by category.

    Args:
        options: of the command.
        data: the images.
        found: the model's calibrations at the false-alarm rate, by category; changed in place.
        reporter: takes messages.
    """
    # Imported here because a rate alone needs no networks, whose libraries take seconds.
    from mendiff.checkpoints.store import load
    from mendiff.data.dataset import open_data
    from mendiff.runs.common import choose_categories, choose_device
    from mendiff.runs.fit_config import use_of_config
    from mendiff.runs.training_images import readable_paths

    device, rate = choose_device(options.device), found[None].false_alarm_rate
    model = load(options.model, device)
    chosen = choose_categories(open_data(data, options.layout), options.categories)
    readable = set(readable_paths(chosen, reporter, use_of_config(model.method.config)))
    images = {category.name: [path for path in category.train if path in readable] for category in chosen}
    every = [path for some in images.values() for path in some]
    found[None] = scores_of(model, every, options.batch_size, reporter, "calibrating").at_rate(rate)
    warn_of_outliers(found[None], every, reporter)
    for name, paths in images.items():
        if name in found:
            own, title = load(options.model, device, name), f"calibrating {name}"
            found[name] = scores_of(own, paths, options.batch_size, reporter, title).at_rate(rate)
            report_reliability(found[name], reporter, f"threshold of {name}", warnings_only=True)
        elif len(found) > 1:
            known = ", ".join(one for one in found if one is not None)
            reporter.say(f"note: the model has no separate threshold for {name}, only for {known}.")
    return images


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
