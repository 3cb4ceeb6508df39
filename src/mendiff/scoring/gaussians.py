"""PaDiM's Gaussians: what the features of good images look like at every position."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mendiff.errors import InputError

FEWEST = 4
"""Good images that the Gaussians need: with fewer, shrinkage leaves little but the mean variance."""


def squared_mahalanobis(features: Tensor, mean: Tensor, inverse_covariance: Tensor) -> Tensor:
    """(f - mu)^T Sigma^-1 (f - mu) at every position, (B,h,w) (RAN, eq. 12; Defard et al. 2021).

    Args:
        features: (B,C,h,w).
        mean: (C,h,w).
        inverse_covariance: (h w,C,C), symmetric, positions row by row.
    """
    residual = (features - mean).flatten(2).permute(2, 0, 1)
    distance = ((residual @ inverse_covariance) * residual).sum(-1)
    return distance.T.unflatten(1, features.shape[-2:])


class PositionGaussians(nn.Module):
    """A Gaussian of features per position, from good images that show the part in the same place.

    Args:
        channels: C.

    Attributes:
        grid: positions (h,w) that were fitted; (0,0) before.
    """

    mean: Tensor
    inverse_covariance: Tensor

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, *grid))
        self.register_buffer("inverse_covariance", torch.eye(channels).repeat(grid[0] * grid[1], 1, 1))

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn from the features of good images, (B,C,h,w) each; Ledoit-Wolf shrinkage at every position."""
        # Imported here: scikit-learn takes a second, and only fitting needs it.
        from sklearn.covariance import ledoit_wolf

        features = torch.cat([one.detach().cpu().double() for one in batches])
        if len(features) < FEWEST:
            raise InputError(
                f"images: expected at least {FEWEST} good ones for the Gaussians of gradient denoising, "
                f"got {len(features)}; add some, or choose gradient.dims=0."
            )
        mean = features.mean(0)
        positions = (features - mean).flatten(2).permute(2, 0, 1)
        overall = positions.square().mean()
        inverses = []
        for samples in positions:
            covariance = torch.from_numpy(ledoit_wolf(samples.numpy(), assume_centered=True)[0])
            # A position that never changes (a black border) would divide by nothing.
            floor = 0.01 * overall.clamp(min=1e-12) * torch.eye(len(covariance), dtype=torch.float64)
            inverses.append(torch.linalg.inv(covariance + floor))
        self.mean.copy_(mean)
        self.inverse_covariance.copy_(torch.stack(inverses))

    def forward(self, features: Tensor) -> Tensor:
        """Squared Mahalanobis distance per channel, (B,C,h,w) to (B,1,h,w); about 1 on good images."""
        distance = squared_mahalanobis(features, self.mean, self.inverse_covariance)
        return distance[:, None] / features.shape[1]
