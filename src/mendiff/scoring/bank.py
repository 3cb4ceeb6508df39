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
CANDIDATES, ROUNDS, SKETCH = 300_000, 4, 64
"""Positions to choose from, at most; in how many rounds; numbers that describe one while choosing."""
CHUNK = 256
"""Positions whose distances are computed together: few enough to stay in a processor's cache."""
NONE = "statistics: expected at least one good image for the memory bank, got none."


class PatchBank(nn.Module):
    """Positions of good images, described by all feature layers, and the distance to the nearest of them.

    Every layer is averaged over neighbourhoods, brought to unit length and to one grid; a distance is one
    minus the mean of the layers' cosine similarities.

    Args:
        channels: of every layer.
        size: positions that are kept (see `covering`).
        pool: side of the neighbourhoods, odd.

    Attributes:
        vectors: (size, sum of channels) in half precision.

    Source: PatchCore (Roth et al. 2022), whose greedy selection of positions is drawn here.
    """

    vectors: Tensor

    def __init__(self, channels: Sequence[int], size: int, pool: int = 3) -> None:
        super().__init__()
        self.pool = pool
        self.register_buffer("vectors", torch.zeros(size, sum(channels), dtype=torch.float16))

    def fit(self, batches: Iterable[tuple[Sequence[Tensor], tuple[int, int]]], seed: int = DRAW_SEED) -> None:
        """Learn from good images' features: (one (B,C,h,w) per layer, height and width of the images).

        Positions are drawn by a seed. Raises InputError without any images.
        """
        known = [self._described(layers, size).flatten(2).transpose(1, 2).half() for layers, size in batches]
        if not known:
            raise InputError(NONE)
        listed = torch.cat([one.flatten(0, 1) for one in known])
        drawn = covering(listed, len(self.vectors), torch.Generator("cpu").manual_seed(seed))
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
        asked = described.flatten(2).transpose(1, 2).flatten(0, 1)
        nearest = torch.cat([(one @ known.T).amax(1) for one in asked.split(CHUNK)])
        return 1 - nearest.view(len(described), 1, *described.shape[-2:])

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


def covering(vectors: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Indices of `count` vectors that stand for all, rare ones too; all of them where there are no more.

    A quarter is drawn evenly, the others in rounds, each vector with a chance in proportion to its squared
    distance from the nearest that was drawn before: plain background, which most of an image may be, takes
    little of the room.

    Args:
        vectors: of unit length, (N,D).
        count: to draw.
        rng: CPU generator.

    Source: the seeding of k-means++ (Arthur & Vassilvitskii 2007), many at a time.
    """
    chosen_from = torch.randperm(len(vectors), generator=rng)[:CANDIDATES]
    if len(vectors) <= count:
        return chosen_from
    listed = vectors[chosen_from.to(vectors.device)].float()
    if listed.shape[1] > SKETCH:
        directions = torch.randn(listed.shape[1], SKETCH, generator=rng, dtype=torch.float32, device="cpu")
        listed = F.normalize(listed @ directions.to(listed), dim=1)
    drawn = torch.arange(min(-(-count // ROUNDS), len(listed)))
    fresh, far = drawn, listed.new_full((len(listed),), 2.0)
    while len(drawn) < count:
        known = listed[fresh.to(listed.device)].T
        nearest = [(1 - one @ known).amin(1) for one in listed.split(CHUNK)]
        far = torch.minimum(far, torch.cat(nearest).clamp(min=1e-6))
        far[fresh.to(far.device)] = 0
        # The smallest of exponential waiting times: draws without putting back.
        waits = torch.empty(len(listed), dtype=torch.float32).exponential_(generator=rng) / far.cpu().square()
        fresh = waits.topk(min(len(fresh), count - len(drawn)), largest=False).indices
        drawn = torch.cat([drawn, fresh])
    return chosen_from[drawn]
