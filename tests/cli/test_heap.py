"""Freed memory is kept for the next tensor."""

import os
import platform
import subprocess
import sys

import pytest

from mendiff.cli.heap import ALLOCATOR_VARIABLES

CODE = """
import resource
from mendiff.cli.heap import keep_freed_memory

keep_freed_memory()
bytearray(64 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(64 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 64 * 2**20 // 4096

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")


def faults(**variables):
    """Page faults while 64 MB are taken and given back ten times."""
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=environment | variables
    )
    return int(done.stdout)


def test_a_block_that_was_freed_is_taken_again():
    assert faults() < PAGES / 8


def test_what_users_chose_stays():
    assert faults(MALLOC_MMAP_THRESHOLD_="1048576") > PAGES / 8
