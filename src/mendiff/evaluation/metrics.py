"""How well scores separate defective from good: image and pixel metrics, exact, without bins.

Built on what torchmetrics' and anomalib's metrics are built on. The metric classes themselves are not used
for the curves: torchmetrics' public functions squash scores outside [0,1] by a sigmoid, which saturates and
so makes ties, and each of them would sort the pixels again.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mendiff.errors import InputError

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
METRICS = IMAGE_METRICS + PIXEL_METRICS
AUPRO_FPR_LIMIT = 0.3

Metrics = dict[str, float | None]


def image_and_pixel_metrics(
    scores: Tensor, labels: Tensor, maps: Tensor | None = None, masks: Tensor | None = None
) -> Metrics:
    """Compute `METRICS`, values from 0 to 1; None where the data can't tell.

    scores (N,) finite, labels (N,) bool (True = defective), maps (N,1,H,W) finite, masks (N,1,H,W) bool. The
    image metrics are None when all labels are alike, the pixel metrics when maps or masks are missing, or all
    pixels are alike: a ranking of one class against nothing has no value, and 0, 0.5 and 1 would all be made
    up. AUPRO is integrated up to a false-positive rate of 0.3 and divided by it, as usual. Raises InputError
    for unequal shapes and for scores that are not finite.
    """
    _check(scores, labels, "scores and labels")
    result: Metrics = dict.fromkeys(METRICS)
    result.update(zip(IMAGE_METRICS, _ranking(scores, labels), strict=True))
    if maps is not None and masks is not None:
        _check(maps, masks, "maps and masks")
        result.update(zip(PIXEL_METRICS, (*_ranking(maps, masks), _aupro(maps, masks)), strict=True))
    return result


def summary(per_category: Mapping[str, Metrics], pooled: Metrics | None = None) -> dict[str, dict]:
    """Join categories as {"mean": {...}, "categories": {name: {...}}}, and "pooled" where it is given.

    Each mean is over the categories that have a value, None where none has. Pooled are the metrics of all
    images of all categories in one ranking, as one threshold for all would see them.
    """
    mean: Metrics = {}
    for metric in METRICS:
        values = [v for m in per_category.values() if (v := m.get(metric)) is not None]
        mean[metric] = sum(values) / len(values) if values else None
    joined: dict[str, dict] = {
        "mean": mean,
        "categories": {name: dict(m) for name, m in per_category.items()},
    }
    return joined if pooled is None else {**joined, "pooled": pooled}


def _check(values: Tensor, truth: Tensor, names: str) -> None:
    if values.shape != truth.shape:
        raise InputError(
            f"Expected {names} of one shape, got {tuple(values.shape)} and {tuple(truth.shape)}."
        )
    if not torch.isfinite(values).all():
        raise InputError(f"Expected finite values in {names}, got NaN or infinity; the model is broken.")


def _ranking(values: Tensor, truth: Tensor) -> tuple[float | None, float | None, float | None]:
    """Area under the ROC curve, average precision and largest F1, from one sort."""
    from torchmetrics.functional.classification.precision_recall_curve import _binary_clf_curve

    truth = truth.flatten().bool()
    positives = int(truth.sum())
    negatives = truth.numel() - positives
    if positives == 0 or negatives == 0:
        return None, None, None
    fps, tps, _ = _binary_clf_curve(values.detach().flatten(), truth)
    fp, tp = fps.double(), tps.double()
    del fps, tps
    start = tp.new_zeros(1)
    auroc = torch.trapezoid(torch.cat([start, tp]), torch.cat([start, fp])) / (positives * negatives)
    # Davis and Goadrich 2006: between two points of the curve precision is not linear, hence steps and no
    # trapezia.
    average_precision = (torch.diff(tp, prepend=start) * tp / (tp + fp)).sum() / positives
    f1 = 2 * tp / (tp + fp + positives)
    return float(auroc), float(average_precision), float(f1.max())


def _aupro(maps: Tensor, masks: Tensor) -> float | None:
    """Area under the per-region overlap curve (Bergmann et al. 2020), regions by 8-connectivity."""
    if not masks.any() or masks.all():
        return None
    # Imported here: this pulls Lightning and matplotlib, which takes seconds.
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=AUPRO_FPR_LIMIT)
    metric.update(maps.detach().float(), masks[:, 0].float())
    return float(metric.compute())
