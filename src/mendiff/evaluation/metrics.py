"""Image and pixel metrics of anomaly scores.

The tests compare them with scikit-learn, torchmetrics and anomalib. Their classes are not used: they sort all
pixels with their labels for every metric, which takes minutes and 12 GB for a test set of MVTec AD's size.
torchmetrics also applies a sigmoid to scores outside [0,1], which saturates and causes ties.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
"""Metrics of reconstructions, for data with clean twins; see `mendiff.evaluation.twins`."""
SPRO = "auspro_005"
"""Area under the saturated per-region overlap, for data with saturations; see `mendiff.evaluation.spro`."""
AUPRO_FPR_LIMIT, AUPRO_STRICT_LIMIT = 0.3, 0.05
EXACT_PIXELS = 2000 * 256 * 256
"""Above this number of pixels, pixel metrics are computed from binned values."""

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Rankings:
    """Rankings of images and pixels of a test set; None if one class is missing.

    Attributes:
        image: ranking of scores.
        pixel: ranking of map values, weighted so that all defective regions have equal weight (PRO).
    """

    image: Ranking | None
    pixel: Ranking | None


def image_and_pixel_metrics(
    scores: Tensor,
    labels: Tensor,
    maps: Tensor | None = None,
    masks: Tensor | None = None,
    inspected: Tensor | None = None,
) -> Metrics:
    """Compute `METRICS`, values in [0,1]; None if undefined.

    scores (N,) finite, labels (N,) bool (True = defective), maps (N,1,H,W) finite, masks (N,1,H,W) bool.
    Pixel metrics are those of the pixels where `inspected` (N,1,H,W) bool is True, of all without it.
    Image metrics are None if there is only one class of images; pixel metrics without maps or masks, or if
    there is only one class of pixels. AUPRO is integrated up to a false-positive rate of 0.3 (`aupro`) or
    0.05 (`aupro_005`) and divided by it. `dice` is the Dice coefficient of a defective image's map at the
    threshold of the maximal F1 of all pixels, averaged over defective images. Raises InputError for unequal
    shapes and values that are not finite.
    """
    found = rankings(scores, labels, maps, masks, inspected)
    result: Metrics = dict.fromkeys(METRICS)
    if found.image is not None:
        result.update(zip(IMAGE_METRICS, _separation(found.image), strict=True))
    if found.pixel is not None and maps is not None and masks is not None:
        pro = (found.pixel.partial_area(limit) for limit in (AUPRO_FPR_LIMIT, AUPRO_STRICT_LIMIT))
        cut = float(found.pixel.thresholds[found.pixel.f1.argmax()])
        if inspected is not None:
            maps, masks = torch.where(inspected, maps, maps.min()), masks & inspected
        values = (*_separation(found.pixel), *pro, dice(maps, masks, cut))
        result.update(zip(PIXEL_METRICS, values, strict=True))
    return result


def rankings(
    scores: Tensor,
    labels: Tensor,
    maps: Tensor | None = None,
    masks: Tensor | None = None,
    inspected: Tensor | None = None,
) -> Rankings:
    """Rank images, and pixels if there are maps and masks; see image_and_pixel_metrics."""
    _check(scores, labels, "scores and labels")
    image = rank(scores.detach().float().numpy(), labels.bool().numpy())
    if maps is None or masks is None:
        return Rankings(image, None)
    _check(maps, masks, "maps and masks")
    values, truth = maps.detach().float().numpy(), masks.bool().numpy()
    inside = np.ones_like(truth) if inspected is None else inspected.numpy()
    truth = truth & inside
    if (truth == inside).all() or not truth.any():
        return Rankings(image, None)
    weights = region_weights(truth[:, 0])
    if is_exact(maps):
        return Rankings(image, rank(values[inside], truth[inside], weights))
    parts = ((one[where], mask[where]) for one, mask, where in zip(values, truth, inside, strict=True))
    return Rankings(image, rank_binned(parts, weights))


def is_exact(maps: Tensor) -> bool:
    """Whether pixel metrics of this number of maps are exact; otherwise values are binned to 13 bits."""
    return maps.numel() <= EXACT_PIXELS


def region_weights(masks: npt.NDArray[np.bool_]) -> Floats:
    """Weights of all defective pixels, in order, whose sum is 1 in every region; masks (N,H,W).

    Regions are 8-connected. Source: per-region overlap of Bergmann et al. 2020.
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
    for anomaly_map, mask in zip(maps, masks.bool(), strict=True):
        if mask.any():
            marked = anomaly_map >= threshold
            values.append(2 * int((marked & mask).sum()) / int(marked.sum() + mask.sum()))
    return sum(values) / len(values)


def reported_metrics(results: Iterable[Mapping[str, float | None]]) -> tuple[str, ...]:
    """Names of the metrics of some results: all METRICS, and the TWIN_METRICS and SPRO that occur in them."""
    present = {metric for result in results for metric in result}
    return (*METRICS, *(metric for metric in (*TWIN_METRICS, SPRO) if metric in present))


def mean_metrics(results: Sequence[Mapping[str, float | None]], names: Iterable[str]) -> Metrics:
    """Mean of every metric over the results that have a value; None if none has."""
    means: Metrics = {}
    for name in names:
        values = [value for result in results if (value := result.get(name)) is not None]
        means[name] = sum(values) / len(values) if values else None
    return means


def summary(per_category: Mapping[str, Metrics], pooled: Metrics | None = None) -> dict[str, dict]:
    """Join categories as {"mean": {...}, "categories": {name: {...}}}, and "pooled" if given.

    Means are over the categories that have a value. `pooled` are metrics of all images of all categories in
    one ranking.
    """
    results = list(per_category.values())
    joined: dict[str, dict] = {
        "mean": mean_metrics(results, reported_metrics(results)),
        "categories": {name: dict(metrics) for name, metrics in per_category.items()},
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
