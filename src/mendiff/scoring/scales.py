"""Mean and deviation of anomaly maps on good images, so that maps of different size can be added."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mendiff.errors import InputError

LOG_FLOOR = 1e-4
"""What is added to maps before their logarithm; of pixels in [0,1] the square of 1/100."""


class MapScales(nn.Module):
    """Brings each of several maps to zero mean and unit deviation on good images.

    Args:
        count: of the maps, M.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn from the maps of good images, (M,B,1,H,W) each."""
        sums = torch.zeros(2, len(self.mean), dtype=torch.float64)
        count = 0
        for maps in batches:
            flat = maps.flatten(1).double().cpu()
            sums += torch.stack([flat.sum(1), flat.square().sum(1)])
            count += flat.shape[1]
        if count == 0:
            raise InputError(
                "statistics: expected at least one good image that was held back from training, got none."
            )
        mean, square = sums / count
        self.mean.copy_(mean)
        self.std.copy_((square - mean**2).clamp(min=0).sqrt().clamp(min=1e-8))

    def forward(self, maps: Tensor) -> Tensor:
        """(M,B,1,H,W) to the same, standardised."""
        as_maps = (slice(None), None, None, None, None)
        return (maps - self.mean[as_maps]) / self.std[as_maps]


def logarithm(maps: Tensor) -> Tensor:
    """Logarithm of maps that are not negative but for rounding; (...) to (...)."""
    return (maps.clamp(min=0) + LOG_FLOOR).log()
