"""PaDiM: Gaussians of the features of good images at every position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mendiff.errors import InputError
from mendiff.scoring.maps import to_grid

FEWEST = 4
"""Good images needed for a covariance per position; fewer images share a covariance of all positions."""


def squared_mahalanobis(features: Tensor, mean: Tensor, inverse_covariance: Tensor) -> Tensor:
    """(f - mu)^T Sigma^-1 (f - mu) at every position, (B,h,w) (RAN, eq. 12; Defard et al. 2021).

    Args:
        features: (B,C,h,w).
        mean: (C,h,w).
        inverse_covariance: (h w,C,C), symmetric, positions in row-major order.
    """
    residual = (features - mean).flatten(2).permute(2, 0, 1)
    distance = ((residual @ inverse_covariance) * residual).sum(-1)
    by_position: Tensor = distance.T.unflatten(1, features.shape[-2:])
    return by_position


class PositionGaussians(nn.Module):
    """PaDiM: a Gaussian of selected features per position, for images with aligned parts.

    Args:
        dims: indices of the selected channels in the concatenation of all layers, (D,).
        grid: number of positions, (h,w).
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
        """Fit to the feature layers of good images, with Ledoit-Wolf shrinkage at every position.

        Fewer than FEWEST images are too few for a covariance per position. All positions then share the
        covariance around their common mean, which is larger.
        """
        # Imported here: the import takes a second, and only fitting needs it.
        from sklearn.covariance import ledoit_wolf

        selected = [self._selected(layers).detach().cpu().double() for layers in batches]
        if not selected:
            raise InputError("images: expected good images for PaDiM's Gaussians, got none; add some.")
        features = torch.cat(selected)
        mean = features.mean(0)
        few = len(features) < FEWEST
        centre = mean.mean((1, 2), keepdim=True) if few else mean
        positions = (features - centre).flatten(2).permute(2, 0, 1)
        if few:
            positions = positions.flatten(0, 1)[None]
        # A constant position, such as a black border, would have a singular covariance.
        unit = torch.eye(len(self.dims), dtype=torch.float64, device="cpu")
        floor = 0.01 * positions.square().mean().clamp(min=1e-12) * unit
        inverses = []
        for samples in positions:
            covariance, _ = ledoit_wolf(samples.numpy(), assume_centered=True)
            inverses.append(torch.linalg.inv(torch.from_numpy(covariance) + floor))
        self.mean.copy_(mean)
        self.inverse_covariance.copy_(torch.stack(inverses))  # a shared one is broadcast

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Squared Mahalanobis distance per feature, (B,1,h,w); about 1 for good images."""
        features = self._selected(layers)
        distance = squared_mahalanobis(features, self.mean, self.inverse_covariance)
        return distance[:, None] / len(self.dims)

    def _selected(self, layers: Sequence[Tensor]) -> Tensor:
        """The selected channels of all layers on the grid, (B,D,h,w)."""
        return torch.cat([to_grid(one, self.grid) for one in layers], dim=1)[:, self.dims]
