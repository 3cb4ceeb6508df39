"""Statistics of the stop steps of adaptive searches, and their correlation with the size of defects.

A search goes from high to low timesteps, so an early stop has a high timestep.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from scipy.stats import spearmanr
from torch import Tensor

FEWEST = 4
"""Minimum number of defective images for a rank correlation."""


def stop_figures(steps: Tensor, labels: Tensor, masks: Tensor | None) -> dict[str, Any]:
    """Statistics of the stop steps of a test set.

    Args:
        steps: (N,) stop steps.
        labels: (N,) bool, true for defective images.
        masks: (N,1,H,W) bool, or None.

    Returns:
        "good" and "defective": number of images by timestep, in descending order. "area_rank": Spearman's
        rank correlation of stop step and defect area of defective images, in [-1,1]; None if undefined or
        without masks.
    """
    found: dict[str, Any] = {
        name: counted(steps[chosen]) for name, chosen in (("good", ~labels), ("defective", labels))
    }
    return found | {"area_rank": None if masks is None else area_rank(steps[labels], masks[labels])}


def counted(steps: Tensor) -> dict[str, int]:
    """Number of images by timestep, in descending order."""
    return {str(step): number for step, number in sorted(Counter(steps.tolist()).items(), reverse=True)}


def area_rank(steps: Tensor, masks: Tensor) -> float | None:
    """Spearman's rank correlation of stop steps (N,) with the size of masks (N,1,H,W); None if undefined."""
    areas = masks.flatten(1).float().mean(1)
    if len(steps) < FEWEST or len(areas.unique()) < 2 or len(steps.unique()) < 2:
        return None
    rank = float(spearmanr(steps.tolist(), areas.tolist()).statistic)
    return rank if math.isfinite(rank) else None
