"""Memory bank: distance of features to the nearest features of good images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.errors import InputError
from mendiff.scoring.maps import to_grid
from mendiff.scoring.odd_images import surely_odd

PIXELS_PER_POSITION = 8
"""Smallest distance between positions of the bank's grid; coarser features keep their own grid."""
DRAW_SEED = 0
CANDIDATES, ROUNDS, SKETCH = 300_000, 4, 64
"""Selection of positions: largest number of candidates, rounds, and dimensions of the random projection."""
CHUNK = 256
"""Positions per matrix product; few enough for a processor's cache."""
NO_IMAGES = "statistics: expected at least one good image for the memory bank, got none."


class PatchBank(nn.Module):
    """Feature vectors of positions in good images, and the distance to the nearest of them.

    Every layer is averaged over neighbourhoods, resized to a common grid and normalised to unit length. The
    distance is one minus the mean cosine similarity of the layers.

    Args:
        channels: channels of every layer.
        size: number of stored positions (see `covering`).
        pool: side of the neighbourhoods, odd.

    Attributes:
        vectors: stored features, (size, sum of channels) in half precision.
        odd: indices of the images of the last fit that it left out (see scoring/odd_images.py).

    Source: PatchCore (Roth et al. 2022), with random instead of greedy selection of positions.
    """

    vectors: Tensor

    def __init__(self, channels: Sequence[int], size: int, pool: int = 3) -> None:
        super().__init__()
        self.pool = pool
        self.register_buffer("vectors", torch.zeros(size, sum(channels), dtype=torch.float16))
        self.odd: tuple[int, ...] = ()
        # Index of the image of each vector, of the last fit.
        self._image_of = torch.zeros(0, dtype=torch.int64)

    def fit(self, batches: Iterable[tuple[Sequence[Tensor], tuple[int, int]]], seed: int = DRAW_SEED) -> None:
        """Select positions of good images; not of an image that is far from all others, such as a defect.

        Args:
            batches: (features, one (B,C,h,w) per layer; height and width of the images). None raises
                InputError.
            seed: seed of the selection.
        """
        known = [self._embedded(layers, size).flatten(2).transpose(1, 2).half() for layers, size in batches]
        if not known:
            raise InputError(NO_IMAGES)
        images = torch.cat(known)
        self.odd = tuple(surely_odd(images))
        kept = [index for index in range(len(images)) if index not in self.odd]
        listed = (images[kept] if self.odd else images).flatten(0, 1)
        drawn = covering(listed, len(self.vectors), torch.Generator("cpu").manual_seed(seed))
        # Fewer positions than `size` are stored repeatedly, which changes no distance.
        times = -(-len(self.vectors) // len(drawn))
        stored = drawn.repeat(times)[: len(self.vectors)]
        self.vectors.copy_(listed[stored.to(listed.device)])
        self._image_of = torch.tensor(kept)[stored // images.shape[1]]

    @contextmanager
    def without(self, image: int) -> Iterator[None]:
        """Context in which the bank lacks the vectors of an image; a bank of no other images stays as it is.

        Args:
            image: index of the image in the batches of the last fit.
        """
        every, others = self.vectors, (self._image_of != image).to(self.vectors.device)
        if others.any():
            self.vectors = every[others]
        try:
            yield
        finally:
            self.vectors = every

    def forward(self, layers: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Distance of every position to the nearest stored position, (B,1,h,w) in [0,2].

        Args:
            layers: features of the images, one (B,C,h,w) per layer.
            size: height and width of the images in pixels.
        """
        found = self._embedded(layers, size)
        known = self.vectors.to(found.dtype)
        beyond = beyond_unit(known)
        queries = found.flatten(2).transpose(1, 2).flatten(0, 1)
        distances = torch.cat([distance_to_nearest(one, known, beyond) for one in queries.split(CHUNK)])
        return distances.view(len(found), 1, *found.shape[-2:])

    def _embedded(self, layers: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return embedded(layers, size, self.pool)


def distance_to_nearest(queries: Tensor, known: Tensor, beyond: Tensor) -> Tensor:
    """One minus the largest product with a known vector, (...,Q) in [0,2].

    The matrix product selects the vector; the distance is taken from the difference of the two vectors. One
    minus a product close to one would lose the digits in which good positions differ, and these would change
    with the batch.

    Args:
        queries: (...,Q,D) of unit length.
        known: (N,D), rounded from vectors of unit length.
        beyond: (N,), see `beyond_unit`.
    """
    nearest = (queries @ known.T).argmax(-1)
    # For |q| = 1 this is 1 - q.k.
    return ((queries - known[nearest]).square().sum(-1) - beyond[nearest]) / 2


def beyond_unit(known: Tensor) -> Tensor:
    """Squared lengths minus one, (N,), of vectors rounded to half precision."""
    return known.square().sum(1) - 1


def embedded(layers: Sequence[Tensor], size: tuple[int, int], pool: int = 3) -> Tensor:
    """All layers on one grid, concatenated to vectors of unit length, (B,D,h,w); see PatchBank."""
    finest = layers[0].shape[-2:]
    grid = (
        min(finest[0], size[0] // PIXELS_PER_POSITION),
        min(finest[1], size[1] // PIXELS_PER_POSITION),
    )
    pooled = [
        F.avg_pool2d(one.float(), pool, stride=1, padding=pool // 2, count_include_pad=False)
        for one in layers
    ]
    units = [F.normalize(to_grid(one, grid), dim=1) / len(layers) ** 0.5 for one in pooled]
    return torch.cat(units, dim=1)


def covering(vectors: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Indices of up to `count` vectors that represent all vectors, rare ones included.

    A quarter is drawn uniformly. The others are drawn in rounds, with probability proportional to the squared
    distance to the nearest vector drawn before. Uniform background thus takes little of the bank.

    Args:
        vectors: vectors of unit length, (N,D).
        count: number to draw.
        rng: CPU generator.

    Source: the seeding of k-means++ (Arthur & Vassilvitskii 2007), several vectors per round.
    """
    candidates = torch.randperm(len(vectors), generator=rng)[:CANDIDATES]
    if len(vectors) <= count:
        return candidates
    listed = vectors[candidates.to(vectors.device)].float()
    if listed.shape[1] > SKETCH:
        directions = torch.randn(listed.shape[1], SKETCH, generator=rng, dtype=torch.float32, device="cpu")
        listed = F.normalize(listed @ directions.to(listed), dim=1)
    drawn = torch.arange(min(-(-count // ROUNDS), len(listed)))
    newest, distance = drawn, listed.new_full((len(listed),), 2.0)
    while len(drawn) < count:
        known = listed[newest.to(listed.device)].T
        nearest = [(1 - one @ known).amin(1) for one in listed.split(CHUNK)]
        distance = torch.minimum(distance, torch.cat(nearest).clamp(min=1e-6))
        distance[newest.to(distance.device)] = 0
        # The smallest exponential waiting times are a weighted sample without replacement.
        waits = torch.empty(len(listed), dtype=torch.float32).exponential_(generator=rng)
        waits = waits / distance.cpu().square()
        newest = waits.topk(min(len(newest), count - len(drawn)), largest=False).indices
        drawn = torch.cat([drawn, newest])
    return candidates[drawn]
