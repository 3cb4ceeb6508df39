"""The training images of a fit, checked and decoded once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mendiff.data.cache import ImageCache
from mendiff.data.checks import Take
from mendiff.data.dataset import Category
from mendiff.data.geometry import Geometry
from mendiff.data.reading import Reading
from mendiff.data.samples import Use
from mendiff.errors import InputError
from mendiff.methods.base import MethodConfig
from mendiff.runs.common import readable_categories
from mendiff.runs.fit_config import Plan, make_config, use_of
from mendiff.runs.reporting import Reporter
from mendiff.training.split import FEWEST_IMAGES


def check_images(
    plan: Plan, categories: Sequence[Category], reporter: Reporter, *, checked: bool = False
) -> tuple[list[Path], MethodConfig, ImageCache]:
    """The training images that can be read, the config for them, and a cache with them at its size.

    An image of 8 bits is decoded once, for the check and for training.

    Args:
        plan: what to fit.
        categories: with the images.
        reporter: names the images that are left out.
        checked: whether `readable_categories` gave the categories.
    """
    every = [path for category in categories for path in category.train]
    config: MethodConfig | None = None
    with suppress(InputError):  # the check may have more to say
        config = make_config(plan, every)
    cache = None if config is None else ImageCache(Geometry.of(config), Reading.of(config))
    if checked:
        paths = training_paths(categories)
    else:
        take = None if cache is None or cache.geometry.tile else cache.take
        paths = readable_paths(categories, reporter, use_of(plan), take)
    if config is None or paths != every:
        config = make_config(plan, paths)
    if cache is None or cache.geometry != Geometry.of(config):
        cache = ImageCache(Geometry.of(config), Reading.of(config))
    return paths, config, cache


def readable_paths(
    categories: Sequence[Category], reporter: Reporter, use: Use | None = None, take: Take | None = None
) -> list[Path]:
    """The readable good training images; others are reported.

    Arguments as for `readable_categories`.
    """
    return training_paths(readable_categories(categories, reporter, use, take))


def training_paths(categories: Sequence[Category]) -> list[Path]:
    """The training images of categories; too few are an error."""
    paths = [path for category in categories for path in category.train]
    if len(paths) < FEWEST_IMAGES:
        raise InputError(
            f"{categories[0].root}: expected at least {FEWEST_IMAGES} good images, for training and for the "
            f"threshold, got {len(paths)}; add images."
        )
    return paths
