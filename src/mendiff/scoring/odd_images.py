"""Images with positions far from those of all other images; distances of PatchCore (Roth et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mendiff.scoring.score import top_share_mean

POSITIONS, MOST_KNOWN, COMPARED = 4000, 400, 1024
"""Number of positions that images are compared with, of images from which these are drawn, and (about) of an
image's positions that `surely_odd` compares."""
TOP_SHARE = 0.01
"""The distance of an image is the mean over this share of its positions, the farthest."""
FEW = 4.0
"""A limit is 1 + FEW / n times as high for n images, since their spread is less certain."""
LEAST_SPREAD = 0.02
"""Lower limit of the spread of log distances: images that are nearly equal differ by noise."""
SURELY, LOCALLY = 7.0, 5.0
"""Robust standard deviations above the median from which an image is left out of statistics: of the distance
of its farthest positions, and of the smaller of this and of its ratio to the median distance in the image."""
ROUNDING = 1e-4
"""Distances below this are rounding errors of vectors in half precision."""
FEWEST, GROUP = 8, 50
"""Fewest images among which one can be odd. More odd ones than 1 + N / GROUP are a rare kind of part."""


class Positions:
    """Positions of good images, drawn evenly.

    Args:
        known: vectors of unit length of every image, (P,D), by the number of the image.
    """

    def __init__(self, known: Mapping[int, Tensor]) -> None:
        rng = torch.Generator("cpu").manual_seed(0)
        each = -(-POSITIONS // len(known))
        drawn = [
            vectors[torch.randperm(len(vectors), generator=rng)[:each].to(vectors.device)]
            for vectors in known.values()
        ]
        self._vectors = torch.cat(drawn).float()
        owners = [index for index, some in zip(known, drawn, strict=True) for _ in some]
        self._owners = torch.tensor(owners, device=self._vectors.device)

    def distances(self, vectors: Tensor, index: int = -1) -> Tensor:
        """Distance of every position (P,D) to the nearest position of images of other index, (P,)."""
        likeness = (vectors.float() @ self._vectors.T).masked_fill(self._owners == index, -1.0)
        return 1 - likeness.amax(1)


def farthest(distances: Tensor) -> float:
    """The distance of an image: the mean over the farthest of its positions, given as (P,)."""
    return float(top_share_mean(distances.view(1, 1, 1, -1), TOP_SHARE))


def above_median(distances: Sequence[float]) -> Tensor:
    """Log distances above their median, (N,) in robust standard deviations."""
    logs = torch.tensor(distances, dtype=torch.float32).clamp(min=1e-6).log()
    centred = logs - logs.median()
    return centred / max(1.4826 * float(centred.abs().median()), LEAST_SPREAD)  # of a normal distribution


def is_far(deviations: Tensor, limit: float) -> Tensor:
    """Which deviations of `above_median` exceed a limit, given their number, (N,) bool."""
    return deviations > limit * (1 + FEW / len(deviations))


def surely_odd(images: Tensor) -> list[int]:
    """Indices of images with positions that no other image has, such as a defect among good images.

    Good images of a loose spread have a high distance, too, but at most of their positions: a small defect
    is recognised by its ratio to the median distance in the same image.

    Args:
        images: vectors of unit length, (N,P,D).
    """
    if len(images) < FEWEST:
        return []
    chosen = torch.linspace(0, len(images) - 1, min(len(images), MOST_KNOWN)).round().long().tolist()
    positions = Positions({index: images[index] for index in chosen})
    some = images[:, :: max(1, images.shape[1] // COMPARED)]
    found = [positions.distances(vectors, index) for index, vectors in enumerate(some)]
    far = [farthest(distances) for distances in found]
    middle = [max(float(distances.median()), ROUNDING) for distances in found]
    high = above_median(far)
    local = torch.minimum(high, above_median([one / other for one, other in zip(far, middle, strict=True)]))
    odd = (is_far(high, SURELY) | is_far(local, LOCALLY)).nonzero().flatten().tolist()
    return odd if len(odd) <= 1 + len(images) // GROUP else []
