"""Freed memory is kept for the next tensor: giving it back costs time on a CPU (benchmarks/heap_speed.py)."""

from __future__ import annotations

import contextlib
import ctypes
import os

TRIM, MAPPED = -1, -3
"""glibc's numbers for M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (malloc.h)."""
LARGEST_KEPT = 256 * 2**20
"""Larger blocks, such as weights of full-size networks, still go back to the system, in bytes."""
NEVER = 2**31 - 1
OWN_CHOICE = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables by which a user chooses an allocator or its settings."""


def keep_freed_memory() -> None:
    """Let glibc reuse blocks of up to LARGEST_KEPT bytes; nothing where there is no glibc or users chose.

    By default it gives large blocks back to the system and asks for them anew; the system then fills each of
    their pages with zeros when it is first touched.
    """
    if any(name in os.environ for name in OWN_CHOICE):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(MAPPED, LARGEST_KEPT)
        libc.mallopt(TRIM, NEVER)
