"""How far features are from their prediction, by what the differences are on good images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.scoring.maps import to_grid
from mendiff.scoring.scales import usual_by_place
from mendiff.scoring.whitening import ChannelWhitening

COARSE = 3
"""Side of the windows of the coarse distance, in positions of each layer."""
SMOOTHED = 1.5
"""Deviation of the blur over the usual difference, in places."""


class ResidualDistances(nn.Module):
    """Distances of feature differences (B,C,h,w), all layers on the finest one's grid.

    One of every layer, or of all together; and, if wanted, a coarse one of all together, each layer averaged
    over COARSE x COARSE of its own positions first: a large, faint defect is hardly unusual at any position,
    but it is on average.

    Args:
        channels, strides: of the layers.
        by_layer: whether each has a distance of its own.
        coarse: whether the coarse one follows.
        places: side of a square grid on which the usual difference of good images is taken off first; 0
            takes off none.
        whiten: measure by the covariance of the differences (Mahalanobis), not by their squares.

    Attributes:
        fine: number of distances before the coarse one.
        count: number of distances, l.
    """

    usual: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[float],
        *,
        by_layer: bool,
        coarse: bool,
        places: int,
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
        self.register_buffer("usual", torch.zeros(sum(channels), places, places))

    def fit(self, residuals: Callable[[], Iterable[Tensor]]) -> None:
        """Learn from the differences on good images, (B,C,h,w) each; they are gone through twice."""
        if self.usual.numel():
            self.usual.copy_(usual_by_place(residuals(), self.usual.shape[-1], SMOOTHED))
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
        if self.usual.numel():
            residual = residual - to_grid(self.usual[None], (residual.shape[-2], residual.shape[-1]))
        parts = list(residual.split(self._parts, dim=1))
        return [*parts, self._averaged(residual)] if self._coarse else parts

    def _averaged(self, residual: Tensor) -> Tensor:
        layers = zip(residual.split(self._layers, dim=1), self._windows, strict=True)
        return torch.cat([_box_mean(one, side) for one, side in layers], dim=1)


def _box_mean(maps: Tensor, side: int) -> Tensor:
    """Mean over side x side positions, fewer at the rim: one axis after the other is far less work."""
    maps = maps.contiguous(memory_format=torch.channels_last)  # twelve times as fast on a CPU
    for sides in ((side, 1), (1, side)):
        margins = (sides[0] // 2, sides[1] // 2)
        maps = F.avg_pool2d(maps, sides, 1, margins, count_include_pad=False)
    return maps
