"""Whitening of features: on their own, and given those of a reconstruction or a prediction."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.errors import InputError

CONTEXT = (3, 7)
"""Sides of the windows over which the reconstruction's features are averaged as context."""
_KEPT: Any = {"dtype": torch.float64, "device": "cpu"}


class Moments:
    """Mean and covariance of vectors, gathered batch by batch in float64 on the CPU.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._reset()

    def _reset(self) -> None:
        self.count = 0
        self._sum = torch.zeros(self._channels, **_KEPT)
        self._products = torch.zeros(self._channels, self._channels, **_KEPT)

    def update(self, features: Tensor) -> None:
        """Take in every position of (B,C,h,w)."""
        flat = features.transpose(0, 1).flatten(1).double().cpu()
        self.count += flat.shape[1]
        self._sum += flat.sum(1)
        self._products += flat @ flat.T

    def finish(self) -> tuple[Tensor, Tensor]:
        """(mean (C,), covariance (C,C)) of all that was taken in; starts anew."""
        if self.count < 2:
            raise InputError(
                "statistics: expected at least one good image that was held back from training, got none."
            )
        mean = self._sum / self.count
        covariance = self._products / self.count - torch.outer(mean, mean)
        self._reset()
        return mean, covariance


class ChannelWhitening(nn.Module):
    """Features brought to zero mean and unit covariance on good images: no channel or layer dominates.

    Args:
        channels: C.
        shrinkage: share of the mean variance that is added to the covariance's diagonal.
    """

    mean: Tensor
    root: Tensor

    def __init__(self, channels: int, shrinkage: float = 0.01) -> None:
        super().__init__()
        self._shrinkage = shrinkage
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("root", torch.eye(channels))
        self._moments = Moments(channels)

    def update(self, features: Tensor) -> None:
        """Take in the features of good images, (B,C,h,w)."""
        self._moments.update(features)

    def finish(self) -> None:
        """Set mean and whitening from all that was taken in."""
        mean, covariance = self._moments.finish()
        values, vectors = torch.linalg.eigh(_lifted(covariance, self._shrinkage))
        # Symmetric (ZCA): of all whitenings the one that leaves channels most like themselves.
        self.mean.copy_(mean)
        self.root.copy_(vectors @ values.rsqrt().diag() @ vectors.T)

    def forward(self, features: Tensor) -> Tensor:
        """(B,C,h,w) to the same, whitened."""
        return torch.einsum("dc,bchw->bdhw", self.root, features - self.mean[:, None, None])

    def undo(self, difference: Tensor) -> Tensor:
        """Of the features themselves, from a difference of whitened ones, (B,C,h,w) to the same."""
        return torch.einsum("dc,bchw->bdhw", torch.linalg.inv(self.root), difference)


class ConditionalWhitening(nn.Module):
    """Features of good images as a Gaussian whose mean is linear in the features of their reconstruction.

    A plain difference of features counts blur and drift of a small denoiser, which every good image shows,
    as defects. The best linear prediction of the input's features from the reconstruction's (at the place and
    averaged around it) takes that away; what it leaves is whitened by its own covariance. A perfect
    reconstruction predicts by the identity; one that tells nothing leaves PaDiM's distance.

    Args:
        channels: C.
        shrinkage: share of its mean variance that is added to the residual covariance's diagonal.
        ridge: the same for the predictors' covariance; both grow where there are few positions.
    """

    mean: Tensor
    weight: Tensor
    root: Tensor

    def __init__(self, channels: int, shrinkage: float = 0.05, ridge: float = 0.01) -> None:
        super().__init__()
        self._shrinkage, self._ridge = shrinkage, ridge
        predictors = (1 + len(CONTEXT)) * channels
        self.register_buffer("mean", torch.zeros(predictors + channels))
        # What the prediction adds to the reconstruction's own features; kept apart, so that the difference of
        # two like features is taken before anything is rounded.
        self.register_buffer("weight", torch.zeros(channels, predictors))
        self.register_buffer("root", torch.eye(channels))
        self._moments = Moments(predictors + channels)

    def update(self, features: Tensor, rebuilt: Tensor) -> None:
        """Take in the features of good images and of their reconstructions, (B,C,h,w) each."""
        self._moments.update(torch.cat([_with_context(rebuilt), features], dim=1))

    def finish(self) -> None:
        """Set prediction and whitening from all that was taken in."""
        count = self._moments.count
        mean, covariance = self._moments.finish()
        known = covariance.shape[0] - len(self.root)
        predictors, cross, own = (
            covariance[:known, :known],
            covariance[:known, known:],
            covariance[known:, known:],
        )
        # Few positions could be predicted perfectly by chance: the fewer, the more is added.
        weight = torch.linalg.solve(_lifted(predictors, self._ridge + known / count), cross)
        # The residual's covariance for this weight, which the ridge keeps from being the best one.
        residual = own - weight.T @ cross - cross.T @ weight + weight.T @ predictors @ weight
        inverse = torch.linalg.inv(_lifted(residual, self._shrinkage + len(own) / count))
        self.mean.copy_(mean)
        self.weight.copy_(weight.T - torch.eye(*self.weight.shape, **_KEPT))
        self.root.copy_(torch.linalg.cholesky(inverse))

    def forward(self, features: Tensor, rebuilt: Tensor) -> Tensor:
        """Squared Mahalanobis distance per channel, two (B,C,h,w) to (B,1,h,w); 1 on average on good ones."""
        known, channels = self.weight.shape[1], len(self.root)
        mean = self.mean[:, None, None]
        correction = torch.einsum("cp,bphw->bchw", self.weight, _with_context(rebuilt) - mean[:known])
        residual = (features - rebuilt) - (mean[known:] - mean[:channels]) - correction
        return (residual.permute(0, 2, 3, 1) @ self.root).square().mean(-1)[:, None]


def _with_context(features: Tensor) -> Tensor:
    """Features and their averages over windows around every place, (B,C,h,w) to (B,3C,h,w)."""
    around = [F.avg_pool2d(features, side, 1, side // 2, count_include_pad=False) for side in CONTEXT]
    return torch.cat([features, *around], dim=1)


def _lifted(covariance: Tensor, share: float) -> Tensor:
    lift = share * covariance.diagonal().mean().clamp(min=1e-12)
    return covariance + lift * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
