"""Which good images are held back from training, for statistics, scores and thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mendiff.calibration import MINIMUM
from mendiff.checkpoints.files import fingerprint
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError

FEWEST_IMAGES = 2
"""One to train on, one to hold back."""
SHARE, LEAST, MOST = 0.15, 4, 64
"""Of the images that are held back: their share, and how many at least and at most; never more than half."""
MOST_SEEN = 200
"""Training images that statistics are fitted to, at most."""
KEPT_AGAIN = 4
"""Held-back images of an earlier fit that are enough to go on with; the usual number where it is smaller."""
MOST_FOR_CODEC = 500
"""Training images that a codec is fitted to, at most: they are all in memory."""


@dataclass(frozen=True)
class Split:
    """Which images of a data set are held back.

    Attributes:
        held_back: content seeds of the held-back images.
        held_back_at: where in the data set they lie.
        trained_at: where images lie that are trained on, at most MOST_FOR_CODEC of them.
        by_name: whether an image is held back, by its name.
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
        """Where the images lie that statistics may be fitted to besides."""
        return self.trained_at[:MOST_SEEN]

    @property
    def scored_at(self) -> list[int]:
        """Where the images lie that the calibration's scores are of, in their order."""
        return [*self.held_back_at, *(self.seen_at if len(self.held_back_at) < MINIMUM else [])]


def split_of(identities: Sequence[tuple[int, str | None]], earlier: Iterable[int] = ()) -> Split:
    """Choose the held-back images; those of an earlier fit stay held back.

    Args:
        identities: (content seed, name) of every training image, in the data set's order.
        earlier: content seeds of what an earlier fit held back.
    """
    seeds = [seed for seed, _ in identities]
    fresh, kept = choose(seeds), sorted(set(seeds) & set(earlier))
    enough = min(KEPT_AGAIN, len(fresh)) <= len(kept) < len(set(seeds))  # some must be left to train on
    held_back = kept if enough else fresh
    others = sorted(set(seeds) - set(held_back))[:MOST_FOR_CODEC]
    return Split(
        held_back,
        [seeds.index(seed) for seed in held_back],
        [seeds.index(seed) for seed in others],
        {name: seed in held_back for seed, name in identities if name},
        fingerprint(seeds),
        len(seeds),
    )


def choose(seeds: Sequence[int]) -> list[int]:
    """The images to hold back: those with the smallest content seeds, which is as good as drawing lots.

    Args:
        seeds: content seeds of all images; equal images have equal ones.
    """
    distinct = sorted(set(seeds))
    if len(distinct) < FEWEST_IMAGES:
        raise InputError(
            f"images: expected at least {FEWEST_IMAGES} different good ones, one to learn from and one to "
            f"set the threshold by, got {len(distinct)}; add some."
        )
    return distinct[: min(max(LEAST, round(SHARE * len(distinct))), MOST, len(distinct) // 2)]


def held_back_and_seen(
    images: Sequence[Tensor], chosen: Sequence[int] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Good images (3,H,W) as a fit splits them: those it held back, and some of those it trained on.

    Args:
        images: all of them.
        chosen: content seeds of the held-back ones; unless given they are chosen as a fit does.
    """
    by_seed = dict(zip(content_seeds(torch.stack(list(images))).tolist(), images, strict=True))
    held_back = choose(list(by_seed)) if chosen is None else sorted(set(chosen) & by_seed.keys())
    seen = sorted(set(by_seed) - set(held_back))[:MOST_SEEN]
    return [by_seed[seed] for seed in held_back], [by_seed[seed] for seed in seen]


def split_images(images: Tensor) -> tuple[Tensor, Tensor]:
    """Good images (N,3,H,W) as those that a fit holds back, chosen by content, and all others."""
    seeds = content_seeds(images)
    apart = torch.isin(seeds, torch.tensor(choose(seeds.tolist())))
    return images[apart], images[~apart]
