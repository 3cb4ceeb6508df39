"""Per-image random numbers, so that a score does not depend on batch, order or worker."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor

from mendiff.diffusion.noise import NormalStream, seed_of

_DRAWN: Any = {"dtype": torch.float32, "device": "cpu"}  # independent of torch's defaults


def content_seeds(image: Tensor) -> Tensor:
    """A seed per image, computed from its pixels, (B,3,H,W) in [0,1] or uint8 to (B,) int64.

    Pixels are rounded to 8 bits first, so that small float errors do not change the seed.
    """
    levels = image.detach()
    if levels.dtype != torch.uint8:
        levels = (levels.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = levels.cpu().contiguous()
    return torch.tensor([seed_of(one.numpy()) for one in pixels], dtype=torch.int64, device="cpu")


def variant_seeds(seeds: Tensor, numbers: Tensor) -> Tensor:
    """A seed for every pair of image seed and variant number, two (B,) to (B,) int64."""
    pairs = zip(seeds.tolist(), numbers.tolist(), strict=True)
    digests = [hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest() for seed, number in pairs]
    seeds_of = [int.from_bytes(digest, "big") >> 1 for digest in digests]
    return torch.tensor(seeds_of, dtype=torch.int64, device="cpu")


class PredictionNoise:
    """The noise of predictions, a stream per image; successive draws continue the streams.

    It is equal on all devices, processors and versions of torch; see mendiff.diffusion.noise.

    Args:
        seeds: (B,) int64, not negative.
    """

    def __init__(self, seeds: Tensor) -> None:
        self._streams = [NormalStream(int(seed)) for seed in seeds]

    def like(self, x: Tensor) -> Tensor:
        """Standard normal noise of x's shape, dtype and device, (B,...); row i depends on seed i alone."""
        count = math.prod(x.shape[1:])
        rows = [torch.tensor(one.draw(count), **_DRAWN) for one in self._streams]
        return torch.stack(rows).view(x.shape).to(x)


class PerImageRandom:
    """A CPU generator per image for training; successive draws continue the stream of each image.

    Numbers are drawn on the CPU and then moved, so they are equal on all devices.

    Args:
        seeds: (B,) int64, not negative.

    Attributes:
        generators: the generators, for functions that process single images.
    """

    def __init__(self, seeds: Tensor) -> None:
        self.generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]

    def like(self, x: Tensor) -> Tensor:
        """Standard normal noise of x's shape, dtype and device, (B,...); row i depends on seed i alone."""
        rows = [torch.randn(x.shape[1:], generator=one, **_DRAWN) for one in self.generators]
        return torch.stack(rows).to(x)

    def integers(self, low: int, high: int) -> Tensor:
        """A random integer per image, low <= n < high, (B,) int64 on the CPU."""
        return torch.cat(
            [torch.randint(low, high, (1,), generator=one, device="cpu") for one in self.generators]
        )

    def uniform(self) -> Tensor:
        """A random number in [0,1) per image, (B,) on the CPU."""
        return torch.cat([torch.rand(1, generator=one, **_DRAWN) for one in self.generators])
