"""Time and memory of all metrics on a test set of MVTec AD's size, compared with the usual implementation.

    python benchmarks/metrics_speed.py                      # 1,725 maps of 256x256; the loop on 60 of them
    python benchmarks/metrics_speed.py --maps 500 --loop 40

The usual implementation, as in GLAD's published evaluation: scikit-learn's curves of all pixels, and the
per-region overlap with loops over 200 thresholds and all regions of all masks. It is slow and runs only on a
few maps; our metrics are measured on the same maps, alternately, in several rounds.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import find_objects, label
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor

from mendiff.evaluation.metrics import image_and_pixel_metrics

THRESHOLDS = 200
SIDE = 256


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=int, default=1725)
    parser.add_argument("--loop", type=int, default=60, help="maps for the comparison")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    maps, masks = blobs(options.maps)
    scores, labels = maps.amax((1, 2, 3)), masks.flatten(1).any(1)
    before = peak()
    seconds = timed(lambda: image_and_pixel_metrics(scores, labels, maps, masks))
    print(f"{options.maps} maps of {SIDE}x{SIDE}: {seconds:.1f} s, at most {peak():.2f} GB in all")
    print(f"(of which {before:.2f} GB at most while the maps were made)")
    few = slice(0, options.loop)
    ours, usual = [], []
    for _ in range(options.rounds):
        ours.append(timed(lambda: image_and_pixel_metrics(scores[few], labels[few], maps[few], masks[few])))
        usual.append(timed(lambda: usual_order(maps[few, 0].numpy(), masks[few, 0].numpy())))
    fast, slow = np.median(ours), np.median(usual)
    print(f"{options.loop} maps: {fast:.2f} s, usual implementation {slow:.2f} s, {slow / fast:.0f} times")
    exact = image_and_pixel_metrics(scores[few], labels[few], maps[few], masks[few])
    theirs = usual_order(maps[few, 0].numpy(), masks[few, 0].numpy())
    for name, value in theirs.items():
        print(f"{name}: {exact[name]:.4f}, usual {value:.4f}")


def blobs(count: int) -> tuple[Tensor, Tensor]:
    """Noise maps with raised blobs, and masks of the blobs; a third of the images have none."""
    generator = torch.Generator().manual_seed(0)
    masks = F.interpolate(torch.randn(count, 1, 8, 8, generator=generator), SIDE, mode="bicubic") > 1.6
    masks[::3] = False
    return torch.rand(count, 1, SIDE, SIDE, generator=generator) + 0.3 * masks, masks


def usual_order(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Pixel metrics by scikit-learn, and AUPRO from 200 thresholds with a loop over all regions."""
    truth, values = masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(truth, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    rates, overlaps = [], []
    for threshold in np.linspace(values.min(), values.max(), THRESHOLDS):
        found = maps > threshold
        shares = []
        for one, mask in zip(found, masks, strict=True):
            regions, _ = label(mask, structure=np.ones((3, 3)))
            for name, box in enumerate(find_objects(regions), start=1):
                region = regions[box] == name
                shares.append(one[box][region].mean())
        overlaps.append(np.mean(shares))
        rates.append((found & ~masks).sum() / (~masks).sum())
    x, y = np.array(rates)[::-1], np.array(overlaps)[::-1]
    inside = x < 0.3
    x, y = x[inside] / x[inside].max(), y[inside]
    return {
        "pixel_auroc": roc_auc_score(truth, values),
        "pixel_ap": average_precision_score(truth, values),
        "pixel_f1max": float(f1.max()),
        "aupro": float(auc(x, y)),
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak() -> float:
    """Peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
