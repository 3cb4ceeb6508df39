"""Mean and deviation of anomaly maps on good images, so that maps of different size can be added."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.errors import InputError
from mendiff.scoring.maps import gaussian_blur, to_grid

LOG_FLOOR = 1e-4
"""What is added to maps before their logarithm; of pixels in [0,1] the square of 1/100."""


SMALLEST_SHARE = 0.01
"""Of its mean: what a usual map is taken to be at least where maps are divided by it."""
NONE_LEFT = "statistics: expected at least one good image that was held back from training, got none."


class MapScales(nn.Module):
    """Brings each of several maps to zero mean and unit deviation on good images.

    Args:
        count: of the maps, M.
        places: side of a square grid on which the usual map of good images is taken off first: maps are
            higher near the border, or where an aligned part is always hard to predict. 0 treats all places
            alike.
        divide: divide by the usual map, in place of subtracting it: for maps that are not negative.
    """

    mean: Tensor
    std: Tensor
    usual: Tensor

    def __init__(self, count: int, places: int = 0, *, divide: bool = False) -> None:
        super().__init__()
        self.places, self.divide = places, divide
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))
        self.register_buffer("usual", torch.zeros(count, 1, places, places))

    def fit_places(self, batches: Iterable[Tensor]) -> None:
        """Learn what maps usually are at every place, from those of good images, (M,B,1,H,W) each."""
        by_image = (maps[:, :, 0].transpose(0, 1) for maps in batches)
        self.usual.copy_(usual_by_place(by_image, self.places, sigma=1.0)[:, None])

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn from the maps of good images, (M,B,1,H,W) each."""
        sums = torch.zeros(2, len(self.mean), dtype=torch.float64, device="cpu")
        count = 0
        for maps in batches:
            flat = self._by_place(maps).flatten(1).double().cpu()
            sums += torch.stack([flat.sum(1), flat.square().sum(1)])
            count += flat.shape[1]
        if count == 0:
            raise InputError(NONE_LEFT)
        mean, square = sums / count
        self.mean.copy_(mean)
        self.std.copy_((square - mean**2).clamp(min=0).sqrt().clamp(min=1e-8))

    def forward(self, maps: Tensor) -> Tensor:
        """(M,B,1,H,W) to the same, standardised."""
        as_maps = (slice(None), None, None, None, None)
        return (self._by_place(maps) - self.mean[as_maps]) / self.std[as_maps]

    def _by_place(self, maps: Tensor) -> Tensor:
        if not self.places:
            return maps
        usual = F.interpolate(self.usual, maps.shape[-2:], mode="bilinear", align_corners=False)
        if not self.divide:
            return maps - usual[:, None]
        least = SMALLEST_SHARE * usual.mean((2, 3), keepdim=True)
        return maps / torch.maximum(usual, least).clamp(min=1e-12)[:, None]


def usual_by_place(batches: Iterable[Tensor], side: int, sigma: float) -> Tensor:
    """Mean of good images' maps (B,C,h,w) on a square grid, (C,side,side).

    A few dozen images leave noise, and neighbouring places are much alike: it is smoothed by `sigma` places.
    """
    total: Tensor | None = None
    count = 0
    for maps in batches:
        more = to_grid(maps.sum(0, keepdim=True), (side, side))
        total = more if total is None else total + more
        count += len(maps)
    if total is None:
        raise InputError(NONE_LEFT)
    return gaussian_blur(total / count, sigma)[0]


def logarithm(maps: Tensor) -> Tensor:
    """Logarithm of maps that are not negative but for rounding; (...) to (...)."""
    return (maps.clamp(min=0) + LOG_FLOOR).log()
