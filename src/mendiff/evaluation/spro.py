"""Saturated per-region overlap (sPRO): a defect counts as found before all of its pixels are marked.

Source: Bergmann et al. 2022, "Beyond Dents and Scratches" (MVTec LOCO AD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

FPR_LIMIT = 0.05
"""The false-positive rate up to which the curve is integrated, as in the published tables."""
STEPS = 500


@dataclass(frozen=True)
class Region:
    """A defect in a test image.

    Attributes:
        image: index of the image.
        mask: (S,S) bool.
        share: of the defect's pixels that must be marked for an overlap of 1, in (0,1].
    """

    image: int
    mask: Tensor
    share: float


def au_spro(maps: Tensor, masks: Tensor, regions: Sequence[Region], limit: float = FPR_LIMIT) -> float | None:
    """Area under the sPRO curve up to a false-positive rate, divided by that rate; None if undefined.

    The overlap of a region at a threshold is min(marked pixels / (share * pixels), 1); the curve is its mean
    over all regions. The false-positive rate is the share of marked pixels among the good pixels of all
    images. Regions without pixels, which resizing may cause, are left out.

    Args:
        maps: (N,1,S,S) finite.
        masks: (N,1,S,S) bool, the union of the regions of each image.
        regions: of the defective images.
        limit: of the false-positive rate.
    """
    values, truth = maps[:, 0].float().numpy(), masks[:, 0].numpy()
    good = np.sort(values[~truth])[::-1]
    inside = [(np.sort(values[one.image][one.mask.numpy()]), one.share) for one in regions]
    inside = [(found, share) for found, share in inside if len(found)]
    if not len(good) or not inside:
        return None
    # Thresholds at evenly spaced false-positive rates, just beyond the limit, from high to low.
    places = np.unique(np.linspace(0, min(limit * len(good) + 1, len(good) - 1), STEPS).round().astype(int))
    thresholds = good[places]
    rates = np.searchsorted(-good, -thresholds, side="left") / len(good)  # pixels above the threshold
    overlap = np.zeros(len(thresholds))
    for found, share in inside:
        marked = len(found) - np.searchsorted(found, thresholds, side="right")
        overlap += np.minimum(marked / (share * len(found)), 1.0)
    overlap /= len(inside)
    rates, overlap = np.append(rates, 1.0), np.append(overlap, 1.0)  # where everything is marked
    last = float(np.interp(limit, rates, overlap))
    kept = rates < limit
    x, y = np.append(rates[kept], limit), np.append(overlap[kept], last)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum()) / limit
