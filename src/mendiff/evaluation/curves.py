"""Curves of the metrics for drawing, reduced to a few hundred points."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from mendiff.evaluation.metrics import AUPRO_FPR_LIMIT, rankings
from mendiff.evaluation.ranking import Floats, Ranking

POINTS = 300

Points = list[tuple[float, float]]


def curves(
    scores: Tensor,
    labels: Tensor,
    maps: Tensor | None,
    masks: Tensor | None,
    inspected: Tensor | None = None,
) -> dict[str, Points]:
    """Curves of at most `POINTS` points with coordinates in [0,1].

    image_roc and pixel_roc: false-positive rate and true-positive rate, from (0,0) to (1,1). image_pr and
    pixel_pr: recall and precision from the highest score down, to be drawn as steps. pro: false-positive rate
    and mean overlap of defective regions, up to `AUPRO_FPR_LIMIT`.

    scores (N,) finite, labels (N,) bool, maps (N,1,H,W) finite, masks (N,1,H,W) bool; `inspected` as for
    image_and_pixel_metrics. Curves are missing if one class is missing; those of pixels also without maps or
    masks.
    """
    ranked = rankings(scores, labels, maps, masks, inspected)
    found = {}
    for kind, ranking in (("image", ranked.image), ("pixel", ranked.pixel)):
        if ranking is not None:
            found[f"{kind}_roc"] = _thin(*ranking.roc())
            found[f"{kind}_pr"] = _thin(*_recall_and_precision(ranking))
    if ranked.pixel is not None:
        found["pro"] = _thin(*ranked.pixel.roc(weighted=True, limit=AUPRO_FPR_LIMIT))
    return found


def _recall_and_precision(ranking: Ranking) -> tuple[Floats, Floats]:
    recall = ranking.found / ranking.defective
    precision = ranking.found / (ranking.found + ranking.alarms)
    return np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])


def _thin(x: Floats, y: Floats) -> Points:
    """Keep distinct points at equal distances along the curve, including both ends."""
    new = np.append(True, (np.diff(x) != 0) | (np.diff(y) != 0))
    x, y = x[new], y[new]
    if len(x) > POINTS:
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        wanted = np.linspace(0, length[-1], POINTS)
        kept = np.unique(np.searchsorted(length, wanted).clip(max=len(x) - 1))
        kept[-1] = len(x) - 1
        x, y = x[kept], y[kept]
    return list(zip(x.clip(0, 1).tolist(), y.clip(0, 1).tolist(), strict=True))
