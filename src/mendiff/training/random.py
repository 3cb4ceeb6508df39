"""Random numbers of training: an independent stream for every key, such as (seed, step)."""

from __future__ import annotations

import hashlib

from torch import Generator


def seed_of(*key: int) -> int:
    """Seed derived from a key."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def generator(*key: int) -> Generator:
    """CPU generator with a seed derived from a key."""
    return Generator().manual_seed(seed_of(*key))
