"""Randomness that belongs to an image, so that a score never depends on batch, order or worker."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

_DRAWN: Any = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults are


def content_seeds(image: Tensor) -> Tensor:
    """One seed per image from its pixels, (B,3,H,W) in [0,1] to (B,) int64.

    Pixels are rounded to 8 bits first, so that float noise far below a grey level does not change the seed.
    """
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().contiguous()
    digests = [hashlib.blake2b(one.numpy().tobytes(), digest_size=8).digest() for one in pixels]
    seeds = [int.from_bytes(digest, "big") >> 1 for digest in digests]
    return torch.tensor(seeds, dtype=torch.int64, device="cpu")


def variant_seeds(seeds: Tensor, numbers: Tensor) -> Tensor:
    """A seed of its own for every pair of an image's seed and a variant's number, two (B,) to (B,) int64."""
    pairs = zip(seeds.tolist(), numbers.tolist(), strict=True)
    digests = [hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest() for seed, number in pairs]
    seeds_of = [int.from_bytes(digest, "big") >> 1 for digest in digests]
    return torch.tensor(seeds_of, dtype=torch.int64, device="cpu")


class PerImageRandom:
    """One CPU generator per image; successive draws continue each image's own stream.

    Drawing on the CPU and then moving keeps the numbers equal on every device.

    Args:
        seeds: (B,) int64, not negative.

    Attributes:
        generators: one per image, for what draws for a single image.
    """

    def __init__(self, seeds: Tensor) -> None:
        self.generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]

    def like(self, x: Tensor) -> Tensor:
        """Standard normal noise of x's shape, dtype and device, (B,...); row i depends on seed i alone."""
        rows = [torch.randn(x.shape[1:], generator=one, **_DRAWN) for one in self.generators]
        return torch.stack(rows).to(x)

    def integers(self, low: int, high: int) -> Tensor:
        """A whole number per image, low <= n < high, (B,) int64 on the CPU."""
        return torch.cat(
            [torch.randint(low, high, (1,), generator=one, device="cpu") for one in self.generators]
        )

    def uniform(self) -> Tensor:
        """A number in [0,1) per image, (B,) on the CPU."""
        return torch.cat([torch.rand(1, generator=one, **_DRAWN) for one in self.generators])
