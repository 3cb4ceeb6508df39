"""Selects the good images that are held back from training for calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mendiff.checkpoints.files import fingerprint
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError

FEWEST_IMAGES = 2
"""One image for training and one held-back image."""
SHARE, LEAST, MOST = 0.15, 4, 64
"""Share, minimum and maximum number of held-back images; never more than half of the images."""
MOST_SEEN = 200
"""Maximum number of training images for statistics."""
KEPT_AGAIN = 4
"""Minimum number of held-back images of an earlier fit that are reused; fewer for small data sets."""
MOST_FOR_CODEC = 500
"""Maximum number of training images for fitting a codec, which are all in memory."""


class Identity(NamedTuple):
    """An item of a data set: an image, or one of several parts of an image, which are held back together.

    Attributes:
        seed: content seed of the image.
        name: of the item, if it has one.
        part: number of the part.
    """

    seed: int
    name: str | None
    part: int = 0


@dataclass(frozen=True)
class Split:
    """Held-back images of a data set.

    Attributes:
        held_back: content seeds of the held-back images.
        held_back_at: their indices in the data set.
        trained_at: indices of training images, at most MOST_FOR_CODEC.
        by_name: whether an image is held back, by name.
        data: fingerprint of all images.
        images: their number.
    """

    held_back: list[int] = field(default_factory=list)
    held_back_at: list[int] = field(default_factory=list)
    trained_at: list[int] = field(default_factory=list)
    by_name: dict[str, bool] = field(default_factory=dict)
    data: str = ""
    images: int = 0

    @property
    def seen_at(self) -> list[int]:
        """Indices of training images that are also used for statistics."""
        return self.trained_at[:MOST_SEEN]

    def scored_at(self, count: int) -> list[int]:
        """Indices of the `count` images whose scores are used for calibration, in order."""
        return [*self.held_back_at, *self.seen_at][:count]


def split_of(
    identities: Iterable[Identity | tuple[int, str | None]],
    earlier: Iterable[int] = (),
    new: Iterable[int] = (),
) -> Split:
    """Choose the held-back images; those of an earlier fit remain held back.

    Args:
        identities: seed, name and, if it is not 0, part of every item, in the order of the data set; see
            Identity.
        earlier: content seeds of the held-back images of an earlier fit.
        new: content seeds of images that an earlier fit lacked. They alternate with the others, so that a
            limited number of items has both.
    """
    items = [Identity(*one) for one in identities]
    seeds = [item.seed for item in items if item.part == 0]
    fresh, kept = choose(seeds), sorted(set(seeds) & set(earlier))
    enough = min(KEPT_AGAIN, -(-len(fresh) // 2)) <= len(kept) < len(set(seeds))  # some remain for training
    held_back = kept if enough else fresh
    places: dict[tuple[int, int], int] = {}
    for at, item in enumerate(items):
        places.setdefault((item.part, item.seed), at)  # equal images count once
    # First parts come first, so that a limited number of items is of many images.
    added = set(new)
    ranks = {
        seed: rank
        for group in (set(seeds) - added, set(seeds) & added)
        for rank, seed in enumerate(sorted(group))
    }
    by_rank = sorted(places.items(), key=lambda place: (place[0][0], ranks[place[0][1]], place[0][1]))
    ordered = [(seed, at) for (_, seed), at in by_rank]
    return Split(
        held_back,
        [at for seed, at in ordered if seed in held_back][:MOST_SEEN],
        [at for seed, at in ordered if seed not in held_back][:MOST_FOR_CODEC],
        {item.name: item.seed in held_back for item in items if item.name},
        fingerprint(seeds),
        len(seeds),
    )


def choose(seeds: Sequence[int]) -> list[int]:
    """Choose the images with the smallest content seeds, which is a random choice.

    Args:
        seeds: content seeds of all images; equal images have equal seeds.
    """
    distinct = sorted(set(seeds))
    if len(distinct) < FEWEST_IMAGES:
        raise InputError(
            f"images: expected at least {FEWEST_IMAGES} different good images, for training and for the "
            f"threshold, got {len(distinct)}; add some."
        )
    return distinct[: min(max(LEAST, round(SHARE * len(distinct))), MOST, len(distinct) // 2)]


def held_back_and_seen(
    images: Sequence[Tensor], chosen: Sequence[int] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Split good images (3,H,W) into held-back images and at most MOST_SEEN training images.

    Args:
        images: all good images.
        chosen: content seeds of the held-back images; by default, as `choose`.
    """
    by_seed = dict(zip(content_seeds(torch.stack(list(images))).tolist(), images, strict=True))
    held_back, seen = split_seeds(list(by_seed), chosen)
    return [by_seed[seed] for seed in held_back], [by_seed[seed] for seed in seen]


def split_seeds(seeds: Sequence[int], chosen: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
    """held_back_and_seen for content seeds of images."""
    held_back = choose(seeds) if chosen is None else sorted(set(chosen) & set(seeds))
    return held_back, sorted(set(seeds) - set(held_back))[:MOST_SEEN]


def split_images(images: Tensor) -> tuple[Tensor, Tensor]:
    """Split good images (N,3,H,W) into held-back images and all others, by content."""
    seeds = content_seeds(images)
    held_back = torch.isin(seeds, torch.tensor(choose(seeds.tolist())))
    return images[held_back], images[~held_back]
