"""Whitening of feature differences: what varies between good parts and their reconstructions counts less."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mendiff.errors import InputError


class Whitening(nn.Module):
    """Mean and inverse covariance root of vectors seen at many positions of good images.

    Args:
        channels: C.
        shrinkage: share of the mean variance that is added to the covariance's diagonal, against overfitting.
    """

    mean: Tensor
    root: Tensor

    def __init__(self, channels: int, shrinkage: float = 0.05) -> None:
        super().__init__()
        self._shrinkage = shrinkage
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("root", torch.eye(channels))
        self._reset()

    def update(self, vectors: Tensor) -> None:
        """Take in (B,C,h,w)."""
        flat = vectors.transpose(0, 1).flatten(1).double().cpu()
        self._count += flat.shape[1]
        self._sum += flat.sum(1)
        self._products += flat @ flat.T

    def finish(self) -> None:
        """Set mean and root from all that was taken in."""
        if self._count < 2:
            raise InputError(
                "statistics: expected at least one good image that was held back from training, got none."
            )
        mean = self._sum / self._count
        covariance = self._products / self._count - torch.outer(mean, mean)
        ridge = self._shrinkage * covariance.diagonal().mean().clamp(min=1e-12)
        covariance += ridge * torch.eye(len(mean), dtype=torch.float64)
        self.mean.copy_(mean)
        self.root.copy_(torch.linalg.cholesky(torch.linalg.inv(covariance)))
        self._reset()

    def forward(self, vectors: Tensor) -> Tensor:
        """Squared Mahalanobis distance per channel, (B,C,h,w) to (B,1,h,w): 1 on average on good images."""
        centred = (vectors - self.mean[:, None, None]).permute(0, 2, 3, 1)
        return (centred @ self.root).square().mean(-1)[:, None]

    def _reset(self) -> None:
        channels = len(self.mean)
        self._count = 0
        self._sum = torch.zeros(channels, dtype=torch.float64)
        self._products = torch.zeros(channels, channels, dtype=torch.float64)
