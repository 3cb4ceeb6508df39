"""Where an adaptive search stopped: how its steps spread, and whether larger defects stop it earlier.

A search walks from much noise to little: who stops early stops at a high timestep.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from scipy.stats import spearmanr
from torch import Tensor

FEWEST = 4
"""Defective images from which a rank correlation is told."""


def stop_figures(steps: Tensor, labels: Tensor, masks: Tensor | None) -> dict[str, Any]:
    """What stop steps tell of a test set.

    Args:
        steps: (N,) timesteps at which images stopped.
        labels: (N,) bool, true for defective ones.
        masks: (N,1,H,W) bool, or None.

    Returns:
        "good" and "defective": number of images by timestep, the highest first. "area_rank": Spearman's rank
        correlation of the stop step with the masked share over defective images, in [-1,1]; None without
        masks, for fewer than FEWEST images, and where all stopped alike.
    """
    found: dict[str, Any] = {
        name: counted(steps[chosen]) for name, chosen in (("good", ~labels), ("defective", labels))
    }
    return found | {"area_rank": None if masks is None else area_rank(steps[labels], masks[labels])}


def counted(steps: Tensor) -> dict[str, int]:
    """Number of images by timestep, the highest first."""
    return {str(step): number for step, number in sorted(Counter(steps.tolist()).items(), reverse=True)}


def area_rank(steps: Tensor, masks: Tensor) -> float | None:
    """Spearman's rank correlation of stop steps (N,) with the size of masks (N,1,H,W); None if undefined."""
    areas = masks.flatten(1).float().mean(1)
    if len(steps) < FEWEST or len(areas.unique()) < 2 or len(steps.unique()) < 2:
        return None
    rank = float(spearmanr(steps.tolist(), areas.tolist()).statistic)
    return rank if math.isfinite(rank) else None
