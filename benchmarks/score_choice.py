"""Compares ways to make an image score from an anomaly map; no test images are used.

    python benchmarks/score_choice.py MODEL DATA [MODEL DATA ...]

MODEL was fitted on the good images of DATA. Synthetic defects of many sizes and contrasts are added to its
held-back images. Every other held-back image gives what a score needs (quantiles, means, deviations) and the
threshold for 1 % false alarms, the others are measured, and the halves are exchanged. Prints a Markdown
table: image AUROC, the share of synthetic defects above the threshold, and that of good images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Generator, Tensor

from mendiff.calibration import Calibration
from mendiff.checkpoints.store import load
from mendiff.data.dataset import open_data
from mendiff.diffusion.random import content_seeds
from mendiff.model import Model
from mendiff.runs.variants import split_as_fitted
from mendiff.scoring.score import top_share_mean
from mendiff.synthesis.probes import probe

BATCH, SEED, RATE = 8, 1, 0.01
SIGMAS = (1.0, 2.0, 4.0, 8.0)
Score = Callable[[Tensor], Tensor]
"""Maps (N,1,H,W) to scores (N,)."""
Figures = tuple[float, float, float]
"""Image AUROC, and the shares of synthetic defects and of good images above the threshold."""


def smoothed_maximum(maps: Tensor, sigma: float) -> Tensor:
    """Maximum of the map after a Gaussian filter of a width in pixels."""
    blurred = ndimage.gaussian_filter(maps.numpy(), (0, 0, sigma, sigma), mode="reflect")
    return torch.from_numpy(blurred).flatten(1).amax(1)


def scales(good: Tensor) -> Score:
    """The highest of several smoothed maxima, each in standard deviations of good images."""
    known = torch.stack([smoothed_maximum(good, sigma) for sigma in SIGMAS])
    means, deviations = known.mean(1, keepdim=True), known.std(1, keepdim=True)

    def score(maps: Tensor) -> Tensor:
        found = torch.stack([smoothed_maximum(maps, sigma) for sigma in SIGMAS])
        return ((found - means) / deviations).amax(0)

    return score


def component(good: Tensor, quantile: float, mass: bool) -> Score:
    """Size in pixels, or mass above the limit, of the largest component above a quantile of good pixels."""
    limit = float(np.quantile(good.numpy(), quantile))

    def largest(values: np.ndarray) -> float:
        above = np.maximum(values - limit, 0)
        parts, count = ndimage.label(above)
        weights = above if mass else above > 0
        return float(max(ndimage.sum(weights, parts, range(1, count + 1)), default=0.0))

    return lambda maps: torch.tensor([largest(values) for values in maps[:, 0].numpy()])


def scores_of(good: Tensor) -> dict[str, Score]:
    """All scores by name, with what they take from maps of good images."""
    shares = (0.0, 0.0005, 0.002, 0.01, 0.03, 0.1)
    names = ["maximum", *(f"mean of the top {100 * share:g} %" for share in shares[1:])]
    found: dict[str, Score] = {
        name: partial(top_share_mean, share=share) for name, share in zip(names, shares, strict=True)
    }
    found |= {f"maximum after Gaussian {sigma:g}": partial(smoothed_maximum, sigma=sigma) for sigma in SIGMAS}
    found["highest of these four"] = scales(good)
    for quantile in (0.99, 0.999):
        for mass in (False, True):
            name = f"{'mass' if mass else 'size'} of the largest component above the {100 * quantile:g} %"
            found[f"{name} quantile"] = component(good, quantile, mass)
    return found


def maps_of(model: Model, images: Tensor) -> Tensor:
    """Anomaly maps (N,1,H,W) of network inputs."""
    return torch.cat([model.predict_batch(batch).anomaly_map.cpu() for batch in images.split(BATCH)])


def measured(model: Model, paths: list[Path], defects: int) -> dict[str, Figures]:
    """The figures of every score, means over the two halves of the held-back images."""
    held_back, _ = split_as_fitted(model, paths)
    images = torch.stack([model.prepare(path) for path in held_back])
    images = images[content_seeds(images).argsort()]  # no order of the files
    rng = Generator("cpu").manual_seed(SEED)
    good = maps_of(model, images)
    flawed = [maps_of(model, torch.stack([probe(one, rng)[0] for one in images])) for _ in range(defects)]
    halves: list[dict[str, Figures]] = []
    for first in (0, 1):
        known, kept = good[first::2], good[1 - first :: 2]
        defective = torch.cat([maps[1 - first :: 2] for maps in flawed])
        halves.append({name: figures(one, known, kept, defective) for name, one in scores_of(known).items()})
    return {name: means([half[name] for half in halves]) for name in halves[0]}


def means(rows: Sequence[Figures]) -> Figures:
    """The means of figures."""
    area, power, false_alarms = (fmean(column) for column in zip(*rows, strict=True))
    return area, power, false_alarms


def figures(score: Score, known: Tensor, kept: Tensor, defective: Tensor) -> Figures:
    """Image AUROC, power and false alarms of a score with the threshold from known good images."""
    calibration = Calibration(tuple(score(known).tolist()), (0.0,) * len(known), RATE)
    good, bad = score(kept), score(defective)
    labels = [0] * len(good) + [1] * len(bad)
    area = roc_auc_score(labels, torch.cat([good, bad]).numpy())
    power, false_alarms = (float((one > calibration.threshold).float().mean()) for one in (bad, good))
    return float(area), power, false_alarms


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", nargs="+", type=Path, metavar="MODEL DATA")
    parser.add_argument("--defects", type=int, default=4, help="of each held-back image")
    options = parser.parse_args()
    columns = {}
    for folder, data in zip(options.pairs[::2], options.pairs[1::2], strict=True):
        model = load(folder, "cpu")
        paths = [path for category in open_data(data) for path in category.train]
        columns[f"{model.name} {data.name}"] = measured(model, paths, options.defects)
    print(f"| score | {' | '.join(columns)} | mean |\n|{'---|' * (len(columns) + 2)}")
    for name in next(iter(columns.values())):
        rows = [column[name] for column in columns.values()]
        cells = (
            f"{area:.3f} / {100 * power:.0f} / {100 * false_alarms:.0f}"
            for area, power, false_alarms in [*rows, means(rows)]
        )
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
