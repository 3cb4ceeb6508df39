"""Whitening of features, unconditional and conditional on the features of a reconstruction."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.errors import InputError
from mendiff.scoring.scales import NO_IMAGES

CONTEXT = (3, 7)
"""Sides of the windows over which features of the reconstruction are averaged as predictors."""
_KEPT: Any = {"dtype": torch.float64, "device": "cpu"}


class Moments:
    """Mean and covariance of vectors, accumulated over batches in float64 on the CPU.

    Args:
        channels: number of channels, C.
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._reset()

    def _reset(self) -> None:
        self.count = 0
        self._sum = torch.zeros(self._channels, **_KEPT)
        self._products = torch.zeros(self._channels, self._channels, **_KEPT)

    def update(self, features: Tensor) -> None:
        """Add every position of (B,C,h,w)."""
        flat = features.transpose(0, 1).flatten(1).double().cpu()
        self.count += flat.shape[1]
        self._sum += flat.sum(1)
        self._products += flat @ flat.T

    def finish(self) -> tuple[Tensor, Tensor]:
        """Return mean (C,) and covariance (C,C), and reset."""
        if self.count < 2:
            raise InputError(NO_IMAGES)
        mean = self._sum / self.count
        covariance = self._products / self.count - torch.outer(mean, mean)
        self._reset()
        return mean, covariance


class ChannelWhitening(nn.Module):
    """Whitens features to zero mean and unit covariance on good images; all channels have equal weight.

    Args:
        channels: number of channels, C.
        shrinkage: share of the mean variance that is added to the diagonal of the covariance.
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
        """Add features of good images, (B,C,h,w)."""
        self._moments.update(features)

    def finish(self) -> None:
        """Compute mean and whitening from all added features."""
        mean, covariance = self._moments.finish()
        values, vectors = torch.linalg.eigh(_regularised(covariance, self._shrinkage))
        # Symmetric (ZCA) whitening changes the channels least.
        self.mean.copy_(mean)
        self.root.copy_(vectors @ values.rsqrt().diag() @ vectors.T)

    def forward(self, features: Tensor) -> Tensor:
        """Whitened features, (B,C,h,w) to the same."""
        return torch.einsum("dc,bchw->bdhw", self.root, features - self.mean[:, None, None])

    def undo(self, difference: Tensor) -> Tensor:
        """Differences of features from differences of whitened features, (B,C,h,w) to the same."""
        return torch.einsum("dc,bchw->bdhw", torch.linalg.inv(self.root), difference)


class ConditionalWhitening(nn.Module):
    """Gaussian of image features whose mean is linear in the features of the reconstruction.

    Plain differences of features contain blur and colour shifts of small denoisers, also in good images.
    Ridge regression predicts the features of the image from those of the reconstruction, at the position and
    averaged around it. The residual is whitened by its covariance. For a perfect reconstruction the
    prediction is the identity; for an uninformative reconstruction the result is PaDiM's distance.

    Args:
        channels: number of channels, C.
        shrinkage: share of the mean residual variance that is added to the diagonal of its covariance.
        ridge: the same for the covariance of the predictors. Both are larger for few positions.
    """

    mean: Tensor
    weight: Tensor
    root: Tensor

    def __init__(self, channels: int, shrinkage: float = 0.05, ridge: float = 0.01) -> None:
        super().__init__()
        self._shrinkage, self._ridge = shrinkage, ridge
        predictors = (1 + len(CONTEXT)) * channels
        self.register_buffer("mean", torch.zeros(predictors + channels))
        # The prediction minus the features of the reconstruction. The difference of two similar features is
        # computed separately, before rounding.
        self.register_buffer("weight", torch.zeros(channels, predictors))
        self.register_buffer("root", torch.eye(channels))
        self._moments = Moments(predictors + channels)

    def update(self, features: Tensor, reconstructed: Tensor) -> None:
        """Add features of good images and of their reconstructions, (B,C,h,w) each."""
        self._moments.update(torch.cat([_with_context(reconstructed), features], dim=1))

    def finish(self) -> None:
        """Compute prediction and whitening from all added features."""
        count = self._moments.count
        mean, covariance = self._moments.finish()
        known = covariance.shape[0] - len(self.root)
        predictors, cross, own = (
            covariance[:known, :known],
            covariance[:known, known:],
            covariance[known:, known:],
        )
        # With few positions the regression would overfit, so the ridge grows with their inverse number.
        weight = torch.linalg.solve(_regularised(predictors, self._ridge + known / count), cross)
        # The residual covariance of this weight; with a ridge it is not the minimum.
        residual = own - weight.T @ cross - cross.T @ weight + weight.T @ predictors @ weight
        inverse = torch.linalg.inv(_regularised(residual, self._shrinkage + len(own) / count))
        self.mean.copy_(mean)
        self.weight.copy_(weight.T - torch.eye(*self.weight.shape, **_KEPT))
        self.root.copy_(torch.linalg.cholesky(inverse))

    def forward(self, features: Tensor, reconstructed: Tensor) -> Tensor:
        """Squared Mahalanobis distance per channel, two (B,C,h,w) to (B,1,h,w); mean 1 on good images."""
        known, channels = self.weight.shape[1], len(self.root)
        mean = self.mean[:, None, None]
        correction = torch.einsum("cp,bphw->bchw", self.weight, _with_context(reconstructed) - mean[:known])
        residual = (features - reconstructed) - (mean[known:] - mean[:channels]) - correction
        return (residual.permute(0, 2, 3, 1) @ self.root).square().mean(-1)[:, None]


def _with_context(features: Tensor) -> Tensor:
    """Features and their averages over windows around every position, (B,C,h,w) to (B,3C,h,w)."""
    around = [F.avg_pool2d(features, side, 1, side // 2, count_include_pad=False) for side in CONTEXT]
    return torch.cat([features, *around], dim=1)


def _regularised(covariance: Tensor, share: float) -> Tensor:
    """The covariance with a share of its mean variance added to the diagonal."""
    added = share * covariance.diagonal().mean().clamp(min=1e-12)
    return covariance + added * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
