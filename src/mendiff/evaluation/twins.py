"""Distances of reconstructions to clean twins, photos of the same parts without the defects.

GLAD aims at a small ||x_hat - x|| for the reconstruction x_hat of a defective image and the same image x
without the defect. If x is known, this distance is measured inside the mask, where the defect should be
removed, and outside, where nothing should change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.checkpoints.bundled import open_features
from mendiff.errors import InputError
from mendiff.evaluation.baselines import Features
from mendiff.evaluation.metrics import TWIN_METRICS, Metrics, mean_metrics
from mendiff.scoring.maps import enlarged, to_grid

LAYERS = ("stage1", "stage2", "stage3")
LEAST_ERROR = 1 / (12 * 255**2)
"""Lower limit of the mean squared error: that of rounding to 8 bits; limits the PSNR to 58.9 dB."""
ROUNDING = 1e-9
"""Sums of weights below this are zero apart from rounding of resampled masks."""


@dataclass(frozen=True)
class TwinFigures:
    """TWIN_METRICS of the images of a category that have a twin.

    Attributes:
        images: number of images.
        mean: means over all reconstructions that have a value.
        kinds: means by defect type.
        untouched: means of the original images instead of the reconstructions.
    """

    images: int
    mean: Metrics
    kinds: dict[str, Metrics]
    untouched: Metrics


@torch.no_grad()
def twin_errors(
    rebuilt: Tensor, twins: Tensor, masks: Tensor, features: Features | None = None
) -> list[Metrics]:
    """TWIN_METRICS of every image, inside and outside the mask.

    PSNR is -10 log10(MSE) in dB. MSE is the mean squared difference of values in [0,1] over the pixels inside
    (outside) and the channels, at least LEAST_ERROR. Features f of a layer are compared at every position p:
    d(p) = |f(rebuilt)/|f(rebuilt)| - f(twin)/|f(twin)||^2, in [0,4]. The feature distance is the mean of d,
    weighted with the masked (outside: unmasked) share of each position and averaged over the layers. Because
    of receptive fields, changes inside also affect features outside. Values inside an empty mask and outside
    a full mask are None.

    Args:
        rebuilt: reconstructions (N,3,H,W) in [0,1].
        twins: (N,3,H,W) in [0,1].
        masks: (N,1,H,W) bool.
        features: (B,3,H,W) in [0,1] to maps (B,C,h,w); default is the bundled network.

    Raises:
        InputError: for unequal shapes and reconstructions that are not finite.
    """
    if rebuilt.shape != twins.shape or rebuilt.shape[:1] + rebuilt.shape[2:] != masks[:, 0].shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (rebuilt, twins, masks))
        raise InputError(f"Expected reconstructions, twins and masks of one shape, got {shapes}.")
    if not torch.isfinite(rebuilt).all():
        raise InputError("Expected finite reconstructions, got NaN or infinity; the model is broken.")
    describe = features or bundled_features()
    found = []
    for image, twin, mask in zip(rebuilt.split(1), twins.split(1), masks.split(1), strict=True):
        share = mask.double()
        squared = (image.double() - twin.double()).square().mean(1, keepdim=True)
        pixels = [None if error is None else _psnr(error) for error in _in_and_out(squared, share)]
        values = (*pixels, *_feature_distances(image, twin, share, describe))
        found.append(dict(zip(TWIN_METRICS, values, strict=True)))
    return found


def twin_figures(
    rebuilt: Tensor, images: Tensor, twins: Mapping[int, Tensor], masks: Tensor, labels: Sequence[str]
) -> TwinFigures:
    """TWIN_METRICS of a test set.

    Args:
        rebuilt: reconstructions (N,3,H,W) in [0,1].
        images: original images (N,3,H,W) in [0,1].
        twins: (3,H,W) by the index of their image, at least one.
        masks: (N,1,H,W) bool.
        labels: N defect types.
    """
    rows = sorted(twins)
    clean = torch.stack([twins[row] for row in rows])
    errors = twin_errors(rebuilt[rows], clean, masks[rows])
    kinds: dict[str, list[Metrics]] = {}
    for row, error in zip(rows, errors, strict=True):
        kinds.setdefault(labels[row], []).append(error)
    return TwinFigures(
        images=len(rows),
        mean=mean_metrics(errors, TWIN_METRICS),
        kinds={kind: mean_metrics(some, TWIN_METRICS) for kind, some in sorted(kinds.items())},
        untouched=mean_metrics(twin_errors(images[rows], clean, masks[rows]), TWIN_METRICS),
    )


@cache
def bundled_features() -> Features:
    """All layers of the bundled network."""
    return open_features(LAYERS)


def _psnr(error: float) -> float:
    return -10 * math.log10(max(error, LEAST_ERROR))


def _feature_distances(
    rebuilt: Tensor, twin: Tensor, share: Tensor, features: Features
) -> tuple[float | None, float | None]:
    """Feature distance inside and outside; images (1,3,H,W), share (1,1,H,W) of each pixel in the mask."""
    sides: tuple[list[float], list[float]] = ([], [])
    # Small images are upsampled as in the read-outs.
    described = (features(enlarged(image.float(), features)) for image in (rebuilt, twin))
    for layers in zip(*described, strict=True):
        unit, clean = (F.normalize(layer.double(), dim=1, eps=1e-12) for layer in layers)
        distance = (unit - clean).square().sum(1, keepdim=True)
        grid = (distance.shape[-2], distance.shape[-1])
        for side, value in zip(sides, _in_and_out(distance, to_grid(share, grid)), strict=True):
            side += [] if value is None else [value]
    inside, outside = (sum(side) / len(side) if side else None for side in sides)
    return inside, outside


def _in_and_out(values: Tensor, share: Tensor) -> tuple[float | None, float | None]:
    """Means of values (1,1,h,w) with weights `share` and 1 - `share`, in [0,1]; None for zero weight."""
    weights = [(weight, float(weight.sum())) for weight in (share, 1 - share)]
    inside, outside = (
        float((values * weight).sum()) / total if total > ROUNDING else None for weight, total in weights
    )
    return inside, outside
