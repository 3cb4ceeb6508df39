"""Fits with separate statistics or equal shares of categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mendiff.checkpoints.provenance import fitted_of
from mendiff.checkpoints.store import save
from mendiff.data.cache import ImageCache
from mendiff.data.dataset import Category
from mendiff.data.inspected import InspectedArea
from mendiff.errors import InputError
from mendiff.model import Model
from mendiff.runs.places import Place, TakenError, new_folder
from mendiff.runs.reporting import Reporter
from mendiff.runs.thresholds import left_out, report_reliability, warn_of_outliers
from mendiff.training.split import FEWEST_IMAGES, choose, split_seeds


def paths_by_category(categories: Sequence[Category], paths: Sequence[Path]) -> dict[str, list[Path]]:
    """The readable images of every category; InputError for too few."""
    readable = set(paths)
    found = {one.name: [path for path in one.train if path in readable] for one in categories}
    for name, some in found.items():
        if len(some) < FEWEST_IMAGES:
            raise InputError(
                f"--statistics category: expected at least {FEWEST_IMAGES} good images of {name}, got "
                f"{len(some)}; add images, or choose --statistics global."
            )
    return found


def groups_of(images: Any, categories: Sequence[Category]) -> list[list[int]]:
    """Indices of every category's training images, or tiles of these."""
    category = {path: at for at, one in enumerate(categories) for path in one.train}
    groups: list[list[int]] = [[] for _ in categories]
    for index in range(len(images)):
        groups[category[images.source(index)]].append(index)
    return groups


def hold_back(module: Any, by_category: Mapping[str, Sequence[Path]], cache: ImageCache) -> None:
    """Hold back images of every category that gets separate statistics."""
    for some in by_category.values():
        module.held_back += choose([_seed(path, cache) for path in some])


def _seed(path: Path, cache: ImageCache) -> int:
    """Content seed of an image, as in `Split`."""
    return cache.geometry.seed(cache.prepared(path, path))


def save_model(
    model: Model,
    place: Place,
    by_category: Mapping[str, Sequence[Path]],
    areas: Mapping[str, InspectedArea],
    cache: ImageCache,
    reporter: Reporter,
) -> None:
    """Calibrate the categories that get separate statistics, and write the model folder."""
    # Generated singly while the folder is written: every model is a copy of the networks.
    categories = (
        (name, _of_category(replace(model, area=areas.get(name, model.area)), name, some, cache, reporter))
        for name, some in by_category.items()
    )
    try:
        with new_folder(place) as draft:
            draft.rmdir()
            save(draft, model.name, model.method, model.calibration, model.info, categories, model.area)
    except TakenError:
        raise
    except InputError as error:
        raise InputError(
            f"{error} The training result is kept: run the same command with --resume to continue."
        ) from error


def _of_category(
    model: Model, name: str, paths: Sequence[Path], cache: ImageCache, reporter: Reporter
) -> Model:
    """The model with statistics and threshold from the images of a single category."""
    seeds = {_seed(path, cache): path for path in paths}
    fitted = fitted_of(model.info)
    held_back, seen = split_seeds(list(seeds), None if fitted is None else fitted.held_back)
    images, others = (
        [cache.image(seeds[seed], seeds[seed]) if model.plain else seeds[seed] for seed in some]
        for some in (held_back, seen)
    )
    calibrated = model.calibrated(images, others, category=name)
    ignored = left_out(calibrated.method, [seeds[seed] for seed in seen]) if model.plain else []
    scored = [seeds[seed] for seed in (*held_back, *seen)]
    warn_of_outliers(calibrated.calibration, scored, reporter, ignored)
    report_reliability(calibrated.calibration, reporter, f"threshold of {name}", warnings_only=True)
    return calibrated
