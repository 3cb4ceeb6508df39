"""Finds good images that differ from all others of their category, by simple statistics, without a model."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from mendiff.calibration import find_outliers
from mendiff.data.images import resize
from mendiff.data.reading import AS_STORED, Reading, read_image
from mendiff.data.samples import Category, Finding
from mendiff.errors import InputError

STANDING_OUT = "standing out"
"""Kind of the findings."""
FEWEST = 8
"""Minimum number of images for finding outliers."""
SIDE = 64
SHARES = (0.01, 0.09, 0.4, 0.4, 0.09, 0.01)
"""Shares of an image's sorted values whose means describe it; quantiles are unstable in line drawings."""
NEIGHBOURS, MOST_COMPARED = 3, 2000
FAR = 4.0
"""Minimum distance of an outlier to its neighbours, as a multiple of the median distance."""
LEAST_SPREAD = 2 / 255
"""Lower limit of the spread of grey levels and contrasts."""


def unlike_images(category: Category, reading: Reading = AS_STORED) -> list[Finding]:
    """A warning for every good image that differs from all others, the farthest first.

    Each image is described by its colours and contrasts (see `describe`), in units of their median absolute
    deviation. An outlier has a large mean distance to its nearest neighbours, so a group of similar images is
    no outlier.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda path: _described(path, reading), category.good))
    known = [(path, values) for path, values in zip(category.good, found, strict=True) if values is not None]
    if len(known) < FEWEST:
        return []
    distances = _distances(torch.stack([values for _, values in known]))
    median = distances.median().item()
    findings = []
    for index in find_outliers(distances.tolist()):
        path, times = known[index][0], distances[index].item() / max(median, 1e-12)
        if times >= FAR:
            sentence = (
                f"{path}: differs from the other good images of {category.name} (the distance of colours and "
                f"contrasts to the nearest images is {times:.0f} times the median); check that it is good."
            )
            findings.append(Finding(STANDING_OUT, False, sentence, (path,)))
    return findings


def describe(image: Tensor) -> Tensor:
    """Low to high values of colours and local contrasts; (3,H,W) in [0,1] -> (D,)."""
    across = (image[:, :, 1:] - image[:, :, :-1]).abs().mean(0).flatten()
    down = (image[:, 1:] - image[:, :-1]).abs().mean(0).flatten()
    return torch.cat([_levels(values) for values in (*image.flatten(1), torch.cat([across, down]))])


def _levels(values: Tensor) -> Tensor:
    """Means of the sorted values in SHARES, from low to high."""
    cuts = [round(sum(SHARES[:end]) * len(values)) for end in range(len(SHARES) + 1)]
    ordered = values.sort().values
    return torch.stack([ordered[first:last].mean() for first, last in itertools.pairwise(cuts)])


def _described(path: Path, reading: Reading) -> Tensor | None:
    try:
        return describe(resize(read_image(path, reading), SIDE))
    except InputError:
        return None  # reported by check_data


def _distances(described: Tensor) -> Tensor:
    """Mean distance of every image (N,D) to its nearest neighbours, (N,)."""
    centre = described.median(0).values
    spread = (described - centre).abs().median(0).values.clamp(min=LEAST_SPREAD)
    scaled = (described - centre) / spread
    # Large sets are compared with a regular subset.
    others = torch.linspace(0, len(scaled) - 1, min(len(scaled), MOST_COMPARED)).round().long()
    distances = torch.cdist(scaled, scaled[others])
    distances[others, torch.arange(len(others))] = torch.inf
    return distances.topk(NEIGHBOURS, largest=False).values.mean(1)
