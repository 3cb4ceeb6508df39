"""Which good images are held back from training, for statistics, scores and thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError

FEWEST_IMAGES = 2
"""One to train on, one to hold back."""
SHARE, LEAST, MOST = 0.15, 4, 64
"""Of the images that are held back: their share, and how many at least and at most; never more than half."""
MOST_SEEN = 200
"""Training images that statistics are fitted to, at most."""


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
