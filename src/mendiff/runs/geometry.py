"""What `--resize`, `--tile`, `--region` and `--ignore` change in a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mendiff.calibration import MINIMUM, Calibration
from mendiff.data.dataset import Category
from mendiff.data.image_files import find_images
from mendiff.data.inspected import InspectedArea
from mendiff.data.reading import image_size
from mendiff.errors import InputError
from mendiff.methods.base import MethodConfig, Progress
from mendiff.model import Model
from mendiff.runs.fit_config import Plan
from mendiff.runs.reporting import Reporter
from mendiff.scoring.readout import RECONSTRUCTED
from mendiff.training.split import Split


def describe_geometry(config: MethodConfig) -> str:
    """How images become network inputs, in words."""
    side = config.image_size
    if config.tile:
        scale = "at their own scale" if config.tile == side else f"resized to {side} pixels"
        overlap = f"which overlap by at least {100 * config.tile_overlap:.0f} %"
        return f"in tiles of {config.tile} pixels {scale}, {overlap}"
    if config.resize == "letterbox":
        return f"resized to {side} pixels with their aspect ratio, and padded"
    return f"resized to {side} x {side} pixels"


def say_geometry(config: MethodConfig, reporter: Reporter) -> None:
    """Tell how images become network inputs, unless they are stretched."""
    if config.tile:
        reporter.say(
            f"images: {describe_geometry(config)}; a tile may show any place of a part, so statistics by "
            "position are off"
        )
    elif config.resize == "letterbox":
        reporter.say(f"images: {describe_geometry(config)}; --resize stretch makes squares")


def read_areas(plan: Plan, categories: Sequence[Category], paths: Sequence[Path]) -> dict[str, InspectedArea]:
    """The inspected areas of a plan by category; that of all categories under "".

    Args:
        plan: with masks.
        categories: of the data.
        paths: readable images.

    Raises InputError for masks that don't fit the images.
    """
    names = [one.name for one in categories]
    regions, ignored = _masks("--region", plan.region, names), _masks("--ignore", plan.ignore, names)
    started = plan.start.model.area if plan.start is not None else None
    areas = {} if started is None else {"": started}
    for name in {**regions, **ignored}:
        area = InspectedArea.read(regions.get(name, regions.get("")), ignored.get(name, ignored.get("")))
        if area is not None:
            areas[name] = area
    if any(areas) and plan.statistics != "category":
        if len(names) > 1:
            raise InputError(
                "--region and --ignore: expected a file for all images, or --statistics category with a "
                "folder of files per category, got a folder; add --statistics category."
            )
        areas = {"": areas[names[0]]}
    readable = set(paths)
    for category in categories:
        area = areas.get(category.name, areas.get(""))
        for path in category.train:
            if area is not None and path in readable:
                area.check(*image_size(path), str(path))
    return areas


def _masks(option: str, place: Path | None, names: Sequence[str]) -> dict[str, Path]:
    """Mask files by category, or a single one under ""."""
    if place is None:
        return {}
    if not place.is_dir():
        return {"": place}
    found = {path.stem: path for path in find_images(place) if path.stem in names}
    if not found:
        raise InputError(
            f"{option} {place}: expected a mask file, or a folder with a file per category named like it, "
            f"such as {names[0]}.png, found none."
        )
    return found


def calibration_of(
    model: Model, split: Split, images: Any, progress: Progress
) -> tuple[Calibration, list[Path]]:
    """The calibration from the scores of whole held-back images, and their paths.

    If only a single image was held back, scores of training images are added.

    Args:
        model: with its geometry and its inspected area.
        split: of the fit.
        images: GoodImages or GoodTiles of the fit.
        progress: called per image.
    """
    held_back = list(dict.fromkeys(images.source(at) for at in split.held_back_at))
    seen: list[Path] = []
    if len(held_back) < MINIMUM:
        seen = list(dict.fromkeys(images.source(at) for at in split.seen_at))[:RECONSTRUCTED]
    scored = [*held_back, *seen]
    return replace(model.calibration_of(scored, progress=progress), seen=len(seen)), scored
