"""A fitted model as the start of a fit to further good images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mendiff.checkpoints.model_folder import categories_of
from mendiff.checkpoints.provenance import fitted_of
from mendiff.checkpoints.store import load
from mendiff.data.dataset import Category
from mendiff.errors import InputError
from mendiff.methods.base import MethodConfig
from mendiff.model import Model
from mendiff.runs.length import Length
from mendiff.training.split import FEWEST_IMAGES, KEPT_AGAIN, choose

SHARE = 0.1
"""Steps that are trained by default, as a share of the steps of the model's own training."""


@dataclass(frozen=True)
class Start:
    """A fitted model to go on from.

    Attributes:
        model: loaded from its folder.
        old: the good images from which it was fitted.
        trains: whether its networks are trained further.
    """

    model: Model
    old: frozenset[Path]
    trains: bool = True

    @property
    def config(self) -> MethodConfig:
        """The model's config with a short training, which keeps its codec."""
        own = self.model.method.config
        steps = max(1, round(SHARE * own.training.steps))
        return Length(steps).of(replace(own, training=replace(own.training, minutes=0.0)))

    @property
    def held_back(self) -> tuple[int, ...]:
        """Content seeds of the model's held-back images."""
        fitted = fitted_of(self.model.info)
        return () if fitted is None else fitted.held_back

    def facts(self, paths: Sequence[Path]) -> dict[str, Any]:
        """What a model that goes on from this one states of it, beside the file of its weights.

        Args:
            paths: old and new images.
        """
        old = len(self.old.intersection(paths))
        tuned = {"tuned": self.model.info["tuned"]} if "tuned" in self.model.info else {}
        return {"started_from": {"old": old, "new": len(paths) - old}, **tuned}

    def hold_back(self, module: Any, images: Any) -> None:
        """Hold back the model's own held-back images, and some of the new images.

        Args:
            module: an anomalib module; gets the seeds.
            images: GoodImages or GoodTiles with old and new images.

        Raises InputError for images that are not those of the model's fit, and for too few new images.
        """
        seeds: dict[bool, set[int]] = {True: set(), False: set()}
        for at, identity in enumerate(images.identities):
            seeds[images.source(at) in self.old].add(identity.seed)
        kept, new = seeds[True] & set(self.held_back), seeds[False] - seeds[True]
        if len(kept) < min(KEPT_AGAIN, len(self.held_back)):
            raise InputError(
                f"--old: expected the good images from which {self.model.source} was fitted, but only "
                f"{len(kept)} of its {len(self.held_back)} held-back images are among these "
                f"{len(seeds[True])}; give the same images again."
            )
        if len(new) < FEWEST_IMAGES:
            raise InputError(
                f"--from: expected at least {FEWEST_IMAGES} different good images that are not among those "
                f"of --old, got {len(new)}; add new images."
            )
        module.held_back = sorted(kept | set(choose(sorted(new))))
        module.new = frozenset(new)

    def groups(self, images: Any) -> list[list[int]]:
        """Indices of old and of new images, which are sampled equally often."""
        old = {at for at in range(len(images)) if images.source(at) in self.old}
        return [sorted(old), [at for at in range(len(images)) if at not in old]]


def read_start(folder: Path, old: Sequence[Category], *, trains: bool) -> Start:
    """Load a model to go on from; InputError for a model without the record that this needs.

    Args:
        folder: of the model.
        old: the good images from which it was fitted.
        trains: see Start.
    """
    if categories_of(folder):
        raise InputError(
            f"{folder}: expected a model with common statistics for --from, got one with statistics per "
            "category; fit all images again."
        )
    start = Start(load(folder), frozenset(path for one in old for path in one.train), trains)
    if not start.held_back:
        raise InputError(
            f"{folder}: expected a model of mendiff fit for --from, which lists its held-back images, got a "
            "model without this list; fit all images again."
        )
    return start


def joined(old: Sequence[Category], new: Sequence[Category]) -> list[Category]:
    """All categories; two of the same name become one."""
    found: dict[str, Category] = {}
    for one in (*old, *new):
        known = found.get(one.name)
        train, test = (known.train, known.test) if known else ((), ())
        found[one.name] = replace(
            known or one,
            train=tuple(dict.fromkeys((*train, *one.train))),
            test=tuple(dict.fromkeys((*test, *one.test))),
        )
    return list(found.values())
