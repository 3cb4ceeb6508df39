"""How well scores separate defective from good: image and pixel metrics.

The definitions are those of scikit-learn, torchmetrics and anomalib, which the tests hold them to. Their own
classes are not used: they sort all pixels with their labels, once for every metric, in 32-bit floats, which
takes minutes and 12 GB for a test set of MVTec AD's size; torchmetrics' public functions also squash scores
outside [0,1] by a sigmoid, which saturates and so makes ties.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mendiff.errors import InputError
from mendiff.evaluation.ranking import Floats, Ranking, rank, rank_binned

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_005", "dice")
METRICS = IMAGE_METRICS + PIXEL_METRICS
TWIN_METRICS = ("twin_psnr_inside", "twin_psnr_outside", "twin_features_inside", "twin_features_outside")
"""Of reconstructions, only where there are clean twins; see `mendiff.evaluation.twins`."""
AUPRO_FPR_LIMIT, AUPRO_STRICT_LIMIT = 0.3, 0.05
EXACT_PIXELS = 2000 * 256 * 256
"""Pixel metrics of more pixels are computed from binned values."""

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Rankings:
    """Images and pixels of a test set, ranked; None where one class is missing.

    Attributes:
        image: the images' scores.
        pixel: the maps' values; weighted so that every defective region counts alike (PRO).
    """

    image: Ranking | None
    pixel: Ranking | None


def image_and_pixel_metrics(
    scores: Tensor, labels: Tensor, maps: Tensor | None = None, masks: Tensor | None = None
) -> Metrics:
    """Compute `METRICS`, values from 0 to 1; None where the data can't tell.

    scores (N,) finite, labels (N,) bool (True = defective), maps (N,1,H,W) finite, masks (N,1,H,W) bool. The
    image metrics are None when all labels are alike, the pixel metrics when maps or masks are missing, or all
    pixels are alike: a ranking of one class against nothing has no value, and 0, 0.5 and 1 would all be made
    up. AUPRO is integrated up to a false-positive rate of 0.3 (`aupro`) or 0.05 (`aupro_005`) and divided by
    it, as usual. `dice` is the Dice coefficient of a defective image's map, cut where the F1 of all pixels is
    largest, averaged over these images. Raises InputError for unequal shapes and for values that are not
    finite.
    """
    found = rankings(scores, labels, maps, masks)
    result: Metrics = dict.fromkeys(METRICS)
    if found.image is not None:
        result.update(zip(IMAGE_METRICS, _separation(found.image), strict=True))
    if found.pixel is not None and maps is not None and masks is not None:
        pro = (found.pixel.partial_area(limit) for limit in (AUPRO_FPR_LIMIT, AUPRO_STRICT_LIMIT))
        cut = float(found.pixel.thresholds[found.pixel.f1.argmax()])
        values = (*_separation(found.pixel), *pro, dice(maps, masks, cut))
        result.update(zip(PIXEL_METRICS, values, strict=True))
    return result


def rankings(
    scores: Tensor, labels: Tensor, maps: Tensor | None = None, masks: Tensor | None = None
) -> Rankings:
    """Rank images, and pixels where there are maps and masks; see image_and_pixel_metrics."""
    _check(scores, labels, "scores and labels")
    image = rank(scores.detach().float().numpy(), labels.bool().numpy())
    if maps is None or masks is None:
        return Rankings(image, None)
    _check(maps, masks, "maps and masks")
    values, truth = maps.detach().float().numpy(), masks.bool().numpy()
    if truth.all() or not truth.any():
        return Rankings(image, None)
    weights = region_weights(truth[:, 0])
    if is_exact(maps):
        return Rankings(image, rank(values.ravel(), truth.ravel(), weights))
    parts = ((one.ravel(), mask.ravel()) for one, mask in zip(values, truth, strict=True))
    return Rankings(image, rank_binned(parts, weights))


def is_exact(maps: Tensor) -> bool:
    """Whether the pixel metrics of so many maps are exact; beyond, values are binned to 13 bits."""
    return maps.numel() <= EXACT_PIXELS


def region_weights(masks: npt.NDArray[np.bool_]) -> Floats:
    """Weights of all defective pixels, in their order, that sum to one in every region, masks (N,H,W).

    Regions are 8-connected, as in the per-region overlap of Bergmann et al. 2020.
    """
    from scipy.ndimage import label

    def weigh() -> Iterator[Floats]:
        for mask in masks:
            if mask.any():
                names = label(mask, structure=np.ones((3, 3)))[0][mask]
                yield 1.0 / np.bincount(names)[names]

    return np.concatenate([np.zeros(0), *weigh()])


def dice(maps: Tensor, masks: Tensor, threshold: float) -> float:
    """Mean Dice coefficient of the defective images' maps at a threshold, both (N,1,H,W)."""
    values = []
    for one, mask in zip(maps, masks.bool(), strict=True):
        if mask.any():
            marked = one >= threshold
            values.append(2 * int((marked & mask).sum()) / int(marked.sum() + mask.sum()))
    return sum(values) / len(values)


def named(some: Iterable[Mapping[str, float | None]]) -> tuple[str, ...]:
    """The metrics that are told of some results: all METRICS, and of TWIN_METRICS those that are there."""
    there = {metric for one in some for metric in one}
    return (*METRICS, *(metric for metric in TWIN_METRICS if metric in there))


def summary(per_category: Mapping[str, Metrics], pooled: Metrics | None = None) -> dict[str, dict]:
    """Join categories as {"mean": {...}, "categories": {name: {...}}}, and "pooled" where it is given.

    Each mean is over the categories that have a value, None where none has. Pooled are the metrics of all
    images of all categories in one ranking, as one threshold for all would see them.
    """
    mean: Metrics = {}
    for metric in named(per_category.values()):
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


def _separation(ranking: Ranking) -> tuple[float, float, float]:
    return ranking.auroc, ranking.average_precision, float(ranking.f1.max())
