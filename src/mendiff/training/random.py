"""Random numbers of a training: a stream of its own for every key, such as (seed, step)."""

from __future__ import annotations

import hashlib

from torch import Generator


def seed_of(*key: int) -> int:
    """A seed of its own for every key."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def generator(*key: int) -> Generator:
    """A CPU generator of its own for every key."""
    return Generator().manual_seed(seed_of(*key))
