"""PaDiM's Gaussians: what the features of good images look like at every position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mendiff.errors import InputError
from mendiff.scoring.maps import to_grid

FEWEST = 4
"""Good images that a covariance of every position needs; with fewer there is one for all positions."""


def squared_mahalanobis(features: Tensor, mean: Tensor, inverse_covariance: Tensor) -> Tensor:
    """(f - mu)^T Sigma^-1 (f - mu) at every position, (B,h,w) (RAN, eq. 12; Defard et al. 2021).

    Args:
        features: (B,C,h,w).
        mean: (C,h,w).
        inverse_covariance: (h w,C,C), symmetric, positions row by row.
    """
    residual = (features - mean).flatten(2).permute(2, 0, 1)
    distance = ((residual @ inverse_covariance) * residual).sum(-1)
    by_position: Tensor = distance.T.unflatten(1, features.shape[-2:])
    return by_position


class PositionGaussians(nn.Module):
    """PaDiM: a Gaussian of some features per position, from good images with the part in the same place.

    Args:
        dims: which channels of all feature layers together, (D,).
        grid: positions (h,w).
    """

    dims: Tensor
    mean: Tensor
    inverse_covariance: Tensor

    def __init__(self, dims: Tensor, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("dims", dims)
        self.register_buffer("mean", torch.zeros(len(dims), *grid))
        self.register_buffer("inverse_covariance", torch.eye(len(dims)).repeat(grid[0] * grid[1], 1, 1))

    def fit(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Learn from the feature layers of good images, with Ledoit-Wolf shrinkage at every position.

        One image says nothing of how a position varies, and two or three say little: the covariance is then
        that of all positions around their common mean, which is wider.
        """
        # Imported here: scikit-learn takes a second, and only fitting needs it.
        from sklearn.covariance import ledoit_wolf

        found = [self._describe(layers).detach().cpu().double() for layers in batches]
        if not found:
            raise InputError("images: expected good ones for PaDiM's Gaussians, got none; add some.")
        features = torch.cat(found)
        mean = features.mean(0)
        few = len(features) < FEWEST
        centre = mean.mean((1, 2), keepdim=True) if few else mean
        positions = (features - centre).flatten(2).permute(2, 0, 1)
        if few:
            positions = positions.flatten(0, 1)[None]
        # A position that never changes, such as a black border, would divide by nothing.
        unit = torch.eye(len(self.dims), dtype=torch.float64, device="cpu")
        floor = 0.01 * positions.square().mean().clamp(min=1e-12) * unit
        inverses = []
        for samples in positions:
            covariance, _ = ledoit_wolf(samples.numpy(), assume_centered=True)
            inverses.append(torch.linalg.inv(torch.from_numpy(covariance) + floor))
        self.mean.copy_(mean)
        self.inverse_covariance.copy_(torch.stack(inverses))  # one serves for all positions

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Squared Mahalanobis distance per feature, one (B,C,H,W) per layer to (B,1,h,w); about 1 if good."""
        features = self._describe(layers)
        distance = squared_mahalanobis(features, self.mean, self.inverse_covariance)
        return distance[:, None] / len(self.dims)

    def _describe(self, layers: Sequence[Tensor]) -> Tensor:
        """The chosen channels of all layers on the Gaussians' grid, (B,D,h,w)."""
        return torch.cat([to_grid(one, self.grid) for one in layers], dim=1)[:, self.dims]
