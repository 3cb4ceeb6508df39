"""The curves behind the metrics, thinned to a few hundred points, to be drawn."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from mendiff.evaluation.metrics import AUPRO_FPR_LIMIT, rankings
from mendiff.evaluation.ranking import Floats, Ranking

POINTS = 300

Points = list[tuple[float, float]]


def curves(scores: Tensor, labels: Tensor, maps: Tensor | None, masks: Tensor | None) -> dict[str, Points]:
    """The curves that the data can tell, each at most `POINTS` points with both coordinates in 0..1.

    image_roc and pixel_roc run from (0,0) to (1,1): share of good images or pixels flagged, share of
    defective ones. image_pr and pixel_pr are recall and precision from the highest score down, to be drawn in
    steps. pro is the share of good pixels and the mean overlap of defective regions, up to
    `AUPRO_FPR_LIMIT`.

    scores (N,) finite, labels (N,) bool, maps (N,1,H,W) finite, masks (N,1,H,W) bool. A curve is missing
    where one class is, and those of pixels without maps or masks.
    """
    ranked = rankings(scores, labels, maps, masks)
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
    """Keep points at even distances along the curve, its ends always, and none twice."""
    new = np.append(True, (np.diff(x) != 0) | (np.diff(y) != 0))
    x, y = x[new], y[new]
    if len(x) > POINTS:
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        wanted = np.linspace(0, length[-1], POINTS)
        kept = np.unique(np.searchsorted(length, wanted).clip(max=len(x) - 1))
        kept[-1] = len(x) - 1
        x, y = x[kept], y[kept]
    return list(zip(x.clip(0, 1).tolist(), y.clip(0, 1).tolist(), strict=True))
