"""The curves behind the metrics, thinned to a few hundred points, to be drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from mendiff.evaluation.metrics import AUPRO_FPR_LIMIT

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
    found = _named("image", scores, labels)
    if maps is not None and masks is not None:
        found.update(_named("pixel", maps, masks))
        if masks.any() and not masks.all():
            found["pro"] = _thin(*_pro(maps, masks))
    return found


def _named(kind: str, values: Tensor, truth: Tensor) -> dict[str, Points]:
    """The two curves of a ranking, empty where all values are of one class."""
    truth = truth.flatten().bool()
    positives = int(truth.sum())
    negatives = truth.numel() - positives
    if positives == 0 or negatives == 0:
        return {}
    alarms, found = _counts(values.detach().flatten(), truth)
    zero = found.new_zeros(1)
    recall = torch.cat([zero, found / positives])
    precision = found / (found + alarms)
    return {
        f"{kind}_roc": _thin(torch.cat([zero, alarms / negatives]), recall),
        f"{kind}_pr": _thin(recall, torch.cat([precision[:1], precision])),
    }


def _counts(values: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """(good, defective) values at or above every distinct value, the highest first; float64, (K,) each."""
    ordered, order = values.sort(descending=True)
    last = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool, device=values.device)])
    found = truth[order].cumsum(0)[last].double()
    every = last.nonzero().flatten().double() + 1
    return every - found, found


def _pro(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The per-region overlap curve (Bergmann et al. 2020), by the metric that AUPRO comes from."""
    # Imported here: this pulls Lightning and matplotlib, which takes seconds.
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=AUPRO_FPR_LIMIT)
    metric.update(maps.detach().float(), masks[:, 0].float())
    x, y = metric._compute()
    return x.double(), y.double()


def _thin(x: Tensor, y: Tensor) -> Points:
    """Keep points at even distances along the curve, its ends always."""
    length = torch.cat([x.new_zeros(1), (x.diff().abs() + y.diff().abs()).cumsum(0)])
    if len(x) > POINTS:
        wanted = torch.linspace(0, float(length[-1]), POINTS, dtype=length.dtype)
        kept = torch.searchsorted(length, wanted).clamp(max=len(x) - 1).unique()
        kept[-1] = len(x) - 1
        x, y = x[kept], y[kept]
    return list(zip(x.clamp(0, 1).tolist(), y.clamp(0, 1).tolist(), strict=True))
