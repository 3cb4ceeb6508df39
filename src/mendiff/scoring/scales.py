"""Standardisation of anomaly maps by their mean and deviation on good images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.errors import InputError
from mendiff.scoring.maps import gaussian_blur, to_grid

LOG_FLOOR = 1e-4
"""Added to maps before the logarithm; for pixels in [0,1] the square of 1/100."""
SMALLEST_SHARE = 0.01
"""Lower bound of a mean normal map, as a share of its mean, where maps are divided by it."""
NO_IMAGES = "statistics: expected at least one good image that was held back from training, got none."


class MapScales(nn.Module):
    """Standardises each of several maps to zero mean and unit deviation on good images.

    Args:
        count: number of maps, M.
        position_grid: side of the square grid on which the mean normal map is subtracted first. Good images
            have higher values near the border and where aligned parts are hard to predict. 0 subtracts
            nothing.
        divide: divide by the mean normal map instead of subtracting it; for maps that are not negative.

    Attributes:
        usual: the mean normal maps, (M,1,position_grid,position_grid).
    """

    mean: Tensor
    std: Tensor
    usual: Tensor

    def __init__(self, count: int, position_grid: int = 0, *, divide: bool = False) -> None:
        super().__init__()
        self.position_grid, self.divide = position_grid, divide
        self._images = 0  # of the mean normal maps
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))
        self.register_buffer("usual", torch.zeros(count, 1, position_grid, position_grid))

    def fit_mean_maps(self, batches: Iterable[Tensor]) -> None:
        """Compute the mean normal maps from maps of good images, (M,B,1,H,W) each."""
        self._images = 0

        def by_image() -> Iterator[Tensor]:
            for maps in batches:
                self._images += maps.shape[1]
                yield maps[:, :, 0].transpose(0, 1)

        self.usual.copy_(mean_normal_map(by_image(), self.position_grid, sigma=1.0)[:, None])

    @contextmanager
    def without(self, maps: Tensor) -> Iterator[None]:
        """Context in which the mean normal maps lack an image, given its maps (M,1,1,H,W) of the last fit."""
        every = self.usual.clone()
        if self.position_grid and self._images > 1:
            own = mean_normal_map([maps[:, :, 0].transpose(0, 1)], self.position_grid, sigma=1.0)[:, None]
            self.usual.copy_((self._images * every - own) / (self._images - 1))
        try:
            yield
        finally:
            self.usual.copy_(every)

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Compute mean and deviation of maps of good images, (M,B,1,H,W) each."""
        sums = torch.zeros(2, len(self.mean), dtype=torch.float64, device="cpu")
        count = 0
        for maps in batches:
            flat = self._centred(maps).flatten(1).double().cpu()
            sums += torch.stack([flat.sum(1), flat.square().sum(1)])
            count += flat.shape[1]
        if count == 0:
            raise InputError(NO_IMAGES)
        mean, square = sums / count
        self.mean.copy_(mean)
        self.std.copy_((square - mean**2).clamp(min=0).sqrt().clamp(min=1e-8))

    def forward(self, maps: Tensor) -> Tensor:
        """Standardised maps, (M,B,1,H,W) to the same."""
        as_maps = (slice(None), None, None, None, None)
        return (self._centred(maps) - self.mean[as_maps]) / self.std[as_maps]

    def _centred(self, maps: Tensor) -> Tensor:
        """Maps without their mean normal maps, or divided by them, (M,B,1,H,W)."""
        if not self.position_grid:
            return maps
        normal = F.interpolate(self.usual, maps.shape[-2:], mode="bilinear", align_corners=False)
        if not self.divide:
            return maps - normal[:, None]
        least = SMALLEST_SHARE * normal.mean((2, 3), keepdim=True)
        return maps / torch.maximum(normal, least).clamp(min=1e-12)[:, None]


def mean_normal_map(batches: Iterable[Tensor], side: int, sigma: float) -> Tensor:
    """Mean map of good images on a square grid, batches of (B,C,h,w) to (C,side,side).

    It is smoothed by a Gaussian of `sigma` positions, because the mean of a few dozen images is noisy.
    """
    total: Tensor | None = None
    count = 0
    for maps in batches:
        more = to_grid(maps.sum(0, keepdim=True), (side, side))
        total = more if total is None else total + more
        count += len(maps)
    if total is None:
        raise InputError(NO_IMAGES)
    return gaussian_blur(total / count, sigma)[0]


def logarithm(maps: Tensor) -> Tensor:
    """Logarithm of maps that are negative by rounding errors at most; any shape to the same."""
    return (maps.clamp(min=0) + LOG_FLOOR).log()
