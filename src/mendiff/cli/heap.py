"""Keep freed memory for the next tensor. Returning it costs time on a CPU (benchmarks/heap_speed.py)."""

from __future__ import annotations

import contextlib
import ctypes
import os

TRIM, MAPPED = -1, -3
"""glibc's numbers for M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (malloc.h)."""
LARGEST_KEPT = 256 * 2**20
"""In bytes. Larger blocks, such as weights of full-size networks, are still returned to the system."""
NEVER = 2**31 - 1
ALLOCATOR_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Environment variables with which a user selects an allocator or its settings."""


def keep_freed_memory() -> None:
    """Let glibc reuse blocks of up to LARGEST_KEPT bytes.

    Does nothing without glibc, or if one of ALLOCATOR_VARIABLES is set.

    By default glibc returns large blocks to the system and requests new ones. The system then zeroes each
    page on first access.
    """
    if any(name in os.environ for name in ALLOCATOR_VARIABLES):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(MAPPED, LARGEST_KEPT)
        libc.mallopt(TRIM, NEVER)
