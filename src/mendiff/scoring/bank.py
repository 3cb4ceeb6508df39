"""A memory bank of good images' features: how far every position is from the nearest that was ever good."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.errors import InputError
from mendiff.scoring.maps import to_grid

PIXELS_PER_POSITION = 8
"""Side of what a position of the bank stands for, unless the features are coarser."""
DRAW_SEED = 0
NONE = "statistics: expected at least one good image for the memory bank, got none."


class PatchBank(nn.Module):
    """Positions of good images, described by all feature layers, and the distance to the nearest of them.

    Every layer is averaged over neighbourhoods, brought to unit length and to one grid; a distance is one
    minus the mean of the layers' cosine similarities.

    Args:
        channels: of every layer.
        size: positions that are kept, drawn at random.
        pool: side of the neighbourhoods, odd.

    Attributes:
        vectors: (size, sum of channels) in half precision.

    Source: PatchCore (Roth et al. 2022), without its selection of positions.
    """

    vectors: Tensor

    def __init__(self, channels: Sequence[int], size: int, pool: int = 3) -> None:
        super().__init__()
        self.pool = pool
        self.register_buffer("vectors", torch.zeros(size, sum(channels), dtype=torch.float16))

    def fit(self, batches: Iterable[tuple[Sequence[Tensor], tuple[int, int]]]) -> None:
        """Learn from good images' features: (one (B,C,h,w) per layer, height and width of the images).

        Raises InputError without any.
        """
        known = [self._described(layers, size).flatten(2).transpose(1, 2).half() for layers, size in batches]
        if not known:
            raise InputError(NONE)
        listed = torch.cat([one.flatten(0, 1) for one in known])
        rng = torch.Generator("cpu").manual_seed(DRAW_SEED)
        drawn = torch.randperm(len(listed), generator=rng)[: len(self.vectors)]
        # Where there are fewer than it has room for, all are there several times, which changes nothing.
        times = -(-len(self.vectors) // len(drawn))
        self.vectors.copy_(listed[drawn.repeat(times)[: len(self.vectors)].to(listed.device)])

    def forward(self, layers: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Distance of every position to the nearest that is known, (B,1,h,w) in [0,2].

        Args:
            layers: features of the images, one (B,C,h,w) per layer.
            size: height and width of the images in pixels.
        """
        described = self._described(layers, size)
        known = self.vectors.to(described.dtype)
        nearest = [(one.flatten(1).T @ known.T).amax(1) for one in described]  # one by one: less memory
        return 1 - torch.stack(nearest).view(len(described), 1, *described.shape[-2:])

    def _described(self, layers: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """All layers on one grid, of unit length together, (B,D,h,w)."""
        finest = layers[0].shape[-2:]
        grid = (
            min(finest[0], size[0] // PIXELS_PER_POSITION),
            min(finest[1], size[1] // PIXELS_PER_POSITION),
        )
        pooled = [
            F.avg_pool2d(one.float(), self.pool, stride=1, padding=self.pool // 2, count_include_pad=False)
            for one in layers
        ]
        units = [F.normalize(to_grid(one, grid), dim=1) / len(layers) ** 0.5 for one in pooled]
        return torch.cat(units, dim=1)
