"""The noise of predictions: a function of the pixels of an image that any language can compute.

torch's generators give other numbers on other processors and in other versions. This noise is the same
everywhere, bit for bit. It needs NumPy only, because exported models run without torch.

The seed of an image is the first 63 bits of the BLAKE2b hash (8 bytes, big endian) of its 8-bit pixels, in
the order (3,H,W). Word k = 0, 1, ... of its stream is the output of splitmix64 for the state
seed + (k + 1) * GOLDEN, modulo 2^64. The four 16-bit parts of a word, lowest first, are indices n into the
table of the quantiles (n + 1/2) / 65536 of the standard normal distribution, rounded to float32. A draw of
several numbers uses whole words; the next draw starts with the next word.

Source: Steele, Lea & Flood 2014 (splitmix64).
"""

from __future__ import annotations

import hashlib
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

GOLDEN = 0x9E3779B97F4A7C15
"""Difference of consecutive states."""
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
LEVELS = 2**16
"""Number of different values, from -4.32 to 4.32. Their variance is 1 - 2e-5."""
PER_WORD = 4


def seed_of(pixels: npt.NDArray[np.uint8]) -> int:
    """The seed of an image, (3,H,W) uint8: below 2^63."""
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def words(seed: int, first: int, count: int) -> npt.NDArray[np.uint64]:
    """Words first, ..., first + count - 1 of the stream of a seed, (count,)."""
    states = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    z = states * np.uint64(GOLDEN) + np.uint64(seed)
    for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(multiplier)
    return z ^ (z >> np.uint64(31))


@cache
def quantiles() -> npt.NDArray[np.float32]:
    """The values of the noise in ascending order, (65536,)."""
    upper = [NormalDist().inv_cdf((n + 0.5) / LEVELS) for n in range(LEVELS // 2, LEVELS)]
    table = np.concatenate([np.negative(upper[::-1]), upper]).astype(np.float32)
    table.flags.writeable = False
    return table


class NormalStream:
    """The standard normal numbers of a seed; successive draws continue the stream.

    Args:
        seed: from 0 to 2^64 - 1.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._next = seed, 0

    def draw(self, count: int) -> npt.NDArray[np.float32]:
        """The next numbers, (count,)."""
        used = -(-count // PER_WORD)
        drawn = words(self._seed, self._next, used)
        self._next += used
        parts = drawn.astype("<u8", copy=False).view("<u2")[:count]
        numbers: npt.NDArray[np.float32] = quantiles()[parts]
        return numbers
