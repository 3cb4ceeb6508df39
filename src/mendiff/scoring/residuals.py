"""Distances between features and their prediction, scaled by the residuals of good images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.scoring.maps import to_grid
from mendiff.scoring.scales import mean_normal_map
from mendiff.scoring.whitening import ChannelWhitening

COARSE = 3
"""Window side of the coarse distance, in positions of each layer."""
SMOOTHED = 1.5
"""Sigma of the blur of the mean residual of good images, in positions."""


class ResidualDistances(nn.Module):
    """Distances from feature residuals (B,C,h,w), with all layers on the grid of the finest.

    There is a distance per layer, or one distance of all layers. An optional coarse distance of all layers
    averages each layer over COARSE x COARSE of its positions first: large, faint defects are significant only
    on average.

    Args:
        channels, strides: channels and strides of the layers.
        by_layer: compute a distance per layer.
        coarse: add the coarse distance.
        position_grid: side of the square grid on which the mean residual of good images is subtracted; 0
            subtracts nothing.
        whiten: use the covariance of the residuals (Mahalanobis distance) instead of their squares.

    Attributes:
        fine: number of distances without the coarse one.
        count: number of distances, l.
        usual: mean residual of good images, (C,position_grid,position_grid).
    """

    usual: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[float],
        *,
        by_layer: bool,
        coarse: bool,
        position_grid: int,
        whiten: bool,
    ) -> None:
        super().__init__()
        self._layers = list(channels)
        self._windows = [int(COARSE * stride / min(strides)) // 2 * 2 + 1 for stride in strides]
        self._parts = self._layers if by_layer else [sum(channels)]
        self._coarse = coarse
        widths = [*self._parts, *([sum(channels)] if coarse else [])]
        self.fine, self.count = len(self._parts), len(widths)
        self.whitenings = nn.ModuleList(ChannelWhitening(width) for width in widths if whiten)
        self.register_buffer("usual", torch.zeros(sum(channels), position_grid, position_grid))

    def fit(self, residuals: Callable[[], Iterable[Tensor]]) -> None:
        """Fit to the residuals of good images, (B,C,h,w) each; they are iterated twice."""
        if self.usual.numel():
            self.usual.copy_(mean_normal_map(residuals(), self.usual.shape[-1], SMOOTHED))
        whitenings = [one for one in self.whitenings if isinstance(one, ChannelWhitening)]
        for residual in residuals() if whitenings else ():
            for whitening, part in zip(whitenings, self._split(residual), strict=True):
                whitening.update(part)
        for whitening in whitenings:
            whitening.finish()

    def forward(self, residual: Tensor) -> Tensor:
        """Mean squares over the channels, (B,C,h,w) to (l,B,1,h,w)."""
        parts = self._split(residual)
        if self.whitenings:
            parts = [whitening(part) for whitening, part in zip(self.whitenings, parts, strict=True)]
        return torch.stack([part.square().mean(1, keepdim=True) for part in parts])

    def _split(self, residual: Tensor) -> list[Tensor]:
        """Residuals of every distance, centred by the mean residual of good images."""
        if self.usual.numel():
            residual = residual - to_grid(self.usual[None], (residual.shape[-2], residual.shape[-1]))
        parts = list(residual.split(self._parts, dim=1))
        return [*parts, self._averaged(residual)] if self._coarse else parts

    def _averaged(self, residual: Tensor) -> Tensor:
        """Every layer averaged over its coarse windows, (B,C,h,w) to the same."""
        layers = zip(residual.split(self._layers, dim=1), self._windows, strict=True)
        return torch.cat([_box_mean(one, side) for one, side in layers], dim=1)


def _box_mean(maps: Tensor, side: int) -> Tensor:
    """Mean over windows of side x side positions, smaller at the border; separable, which saves time."""
    maps = maps.contiguous(memory_format=torch.channels_last)  # 12 times as fast on a CPU
    for sides in ((side, 1), (1, side)):
        margins = (sides[0] // 2, sides[1] // 2)
        maps = F.avg_pool2d(maps, sides, 1, margins, count_include_pad=False)
    return maps
