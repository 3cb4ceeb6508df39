"""How near reconstructions come to clean twins: the same photos of the same parts without their defects.

GLAD means ||x_hat - x|| to be small, x_hat being the reconstruction of a defective image and x the same image
without its defect. Where x is known, this is told apart for the inside of the mask, where something had to be
mended, and the outside, where nothing should have changed.
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
from mendiff.evaluation.controls import Features
from mendiff.evaluation.metrics import TWIN_METRICS, Metrics
from mendiff.scoring.maps import enlarged, to_grid

LAYERS = ("stage1", "stage2", "stage3")
LEAST_ERROR = 1 / (12 * 255**2)
"""Mean squared error of rounding to 8 bits: files can't be told nearer, and no PSNR is infinite (58.9 dB)."""

ROUNDING = 1e-9
"""Weights that sum to less are none, but for the rounding of masks on another grid."""


@dataclass(frozen=True)
class TwinFigures:
    """What was found on the images of a category that have a twin.

    Attributes:
        images: how many.
        mean: TWIN_METRICS of their reconstructions, each the mean over the images that have a value.
        kinds: the same by kind of defect.
        untouched: the same of the images themselves, as if a method had changed nothing.
    """

    images: int
    mean: Metrics
    kinds: dict[str, Metrics]
    untouched: Metrics


@torch.no_grad()
def twin_errors(
    rebuilt: Tensor, twins: Tensor, masks: Tensor, features: Features | None = None
) -> list[Metrics]:
    """TWIN_METRICS of every image; inside is where the mask says so, outside all the rest.

    PSNR is -10 log10(MSE) in dB, where MSE is the mean, over the pixels inside (outside) and the three
    channels, of the squared difference of values in [0,1]; it counts as LEAST_ERROR where it is less.
    Features f of a layer are compared at every position p of its grid by
    d(p) = |f(rebuilt)/|f(rebuilt)| - f(twin)/|f(twin)||^2, from 0 to 4. The distance inside is the mean of d,
    each position weighted with the share of its pixels that is masked (outside: with the rest), averaged over
    the layers. A feature sees more than the pixels of its position, so a little of what is inside shows
    outside. Where a mask is empty the figures inside are None, where it covers all those outside.

    Args:
        rebuilt: reconstructions (N,3,H,W) in [0,1].
        twins: (N,3,H,W) in [0,1].
        masks: (N,1,H,W) bool.
        features: (B,3,H,W) in [0,1] to maps (B,C,h,w); those of the bundled network unless given.

    Raises:
        InputError: for unequal shapes, and for reconstructions that are not finite.
    """
    if rebuilt.shape != twins.shape or rebuilt.shape[:1] + rebuilt.shape[2:] != masks[:, 0].shape:
        shapes = ", ".join(str(tuple(one.shape)) for one in (rebuilt, twins, masks))
        raise InputError(f"Expected reconstructions, twins and masks of one shape, got {shapes}.")
    if not torch.isfinite(rebuilt).all():
        raise InputError("Expected finite reconstructions, got NaN or infinity; the model is broken.")
    describe = features or bundled_features()
    found = []
    for one, twin, mask in zip(rebuilt.split(1), twins.split(1), masks.split(1), strict=True):
        share = mask.double()
        squared = (one.double() - twin.double()).square().mean(1, keepdim=True)
        pixels = [None if error is None else _psnr(error) for error in _in_and_out(squared, share)]
        values = (*pixels, *_feature_distances(one, twin, share, describe))
        found.append(dict(zip(TWIN_METRICS, values, strict=True)))
    return found


def twin_figures(
    rebuilt: Tensor, images: Tensor, twins: Mapping[int, Tensor], masks: Tensor, labels: Sequence[str]
) -> TwinFigures:
    """The figures of a test set.

    Args:
        rebuilt: reconstructions (N,3,H,W) in [0,1].
        images: (N,3,H,W) in [0,1] that they are of.
        twins: (3,H,W) by the row of their image, at least one.
        masks: (N,1,H,W) bool.
        labels: N kinds of defects.
    """
    rows = sorted(twins)
    clean = torch.stack([twins[row] for row in rows])
    errors = twin_errors(rebuilt[rows], clean, masks[rows])
    kinds: dict[str, list[Metrics]] = {}
    for row, one in zip(rows, errors, strict=True):
        kinds.setdefault(labels[row], []).append(one)
    return TwinFigures(
        images=len(rows),
        mean=mean_of(errors),
        kinds={kind: mean_of(some) for kind, some in sorted(kinds.items())},
        untouched=mean_of(twin_errors(images[rows], clean, masks[rows])),
    )


def mean_of(errors: Sequence[Metrics]) -> Metrics:
    """Each figure's mean over the images that have it; None where none has."""
    means: Metrics = {}
    for metric in TWIN_METRICS:
        values = [value for one in errors if (value := one[metric]) is not None]
        means[metric] = sum(values) / len(values) if values else None
    return means


@cache
def bundled_features() -> Features:
    """The bundled network, all layers."""
    return open_features(LAYERS)


def _psnr(error: float) -> float:
    return -10 * math.log10(max(error, LEAST_ERROR))


def _feature_distances(
    one: Tensor, twin: Tensor, share: Tensor, features: Features
) -> tuple[float | None, float | None]:
    """The distance inside and outside; images (1,3,H,W), share (1,1,H,W) of every pixel that is inside."""
    sides: tuple[list[float], list[float]] = ([], [])
    # As our read-outs do: a small image is described at the size that features are made for.
    described = (features(enlarged(image.float(), features)) for image in (one, twin))
    for ours, theirs in zip(*described, strict=True):
        unit, clean = (F.normalize(layer.double(), dim=1, eps=1e-12) for layer in (ours, theirs))
        distance = (unit - clean).square().sum(1, keepdim=True)
        grid = (distance.shape[-2], distance.shape[-1])
        for side, value in zip(sides, _in_and_out(distance, to_grid(share, grid)), strict=True):
            side += [] if value is None else [value]
    inside, outside = (sum(side) / len(side) if side else None for side in sides)
    return inside, outside


def _in_and_out(values: Tensor, share: Tensor) -> tuple[float | None, float | None]:
    """Means of values (1,1,h,w) weighted with the share (1,1,h,w) in [0,1], and with the rest; None for no
    weight.
    """
    weights = [(weight, float(weight.sum())) for weight in (share, 1 - share)]
    inside, outside = (
        float((values * weight).sum()) / total if total > ROUNDING else None for weight, total in weights
    )
    return inside, outside
