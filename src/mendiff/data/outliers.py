"""Good images that look unlike all others of their category, found from a few numbers of each; no model."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from mendiff.calibration import find_outliers
from mendiff.data.images import resize
from mendiff.data.reading import read_image
from mendiff.data.samples import Category, Finding
from mendiff.errors import InputError

STANDING_OUT = "standing out"
FEWEST = 8
"""Images of which some can be told to be unlike the others."""
SIDE = 64
SHARES = (0.01, 0.09, 0.4, 0.4, 0.09, 0.01)
"""Of an image's values, from the lowest up, whose means describe it: quantiles jump in line drawings."""
NEIGHBOURS, MOST_COMPARED = 3, 2000
FAR = 4.0
"""How many times the usual distance to its neighbours an image has to have at least."""
LEAST_SPREAD = 2 / 255
"""Spread of grey levels and contrasts below which images count as equal."""


def unlike_images(category: Category) -> list[Finding]:
    """A warning for every good training image that looks unlike all others, the farthest first.

    Each image is described by low, usual and high values of its colours and contrasts (see `describe`), in
    units of their usual spread among the images. What counts is the mean distance to the nearest few others:
    a second kind of part among the images is no outlier, a single one is.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_described, category.train))
    known = [(path, one) for path, one in zip(category.train, found, strict=True) if one is not None]
    if len(known) < FEWEST:
        return []
    distances = _distances(torch.stack([one for _, one in known]))
    usual = distances.median().item()
    findings = []
    for place in find_outliers(distances.tolist()):
        path, times = known[place][0], distances[place].item() / max(usual, 1e-12)
        if times >= FAR:
            sentence = (
                f"{path}: looks unlike the other good images of {category.name} (colours or contrast are "
                f"{times:.0f} times as far from the nearest as usual); look whether it is good."
            )
            findings.append(Finding(STANDING_OUT, False, sentence, (path,)))
    return findings


def describe(image: Tensor) -> Tensor:
    """Low to high values of the colours and of the contrasts to the next pixel, of (3,H,W) in [0,1], (D,)."""
    across = (image[:, :, 1:] - image[:, :, :-1]).abs().mean(0).flatten()
    down = (image[:, 1:] - image[:, :-1]).abs().mean(0).flatten()
    return torch.cat([_levels(one) for one in (*image.flatten(1), torch.cat([across, down]))])


def _levels(values: Tensor) -> Tensor:
    """Means of SHARES of the values, from the lowest to the highest."""
    cuts = [round(sum(SHARES[:end]) * len(values)) for end in range(len(SHARES) + 1)]
    ordered = values.sort().values
    return torch.stack([ordered[first:last].mean() for first, last in itertools.pairwise(cuts)])


def _described(path: Path) -> Tensor | None:
    try:
        return describe(resize(read_image(path), SIDE))
    except InputError:
        return None  # told elsewhere


def _distances(described: Tensor) -> Tensor:
    """Mean distance of every image (N,D) to the nearest few of the others, (N,)."""
    centre = described.median(0).values
    spread = (described - centre).abs().median(0).values.clamp(min=LEAST_SPREAD)
    scaled = (described - centre) / spread
    # A huge set is compared with an even choice of it.
    others = torch.linspace(0, len(scaled) - 1, min(len(scaled), MOST_COMPARED)).round().long()
    apart = torch.cdist(scaled, scaled[others])
    apart[others, torch.arange(len(others))] = torch.inf
    return apart.topk(NEIGHBOURS, largest=False).values.mean(1)
