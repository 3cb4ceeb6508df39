"""Locks that end with their process, however it ends: what it left is told from what it writes."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from mendiff.data.disk import short_name
from mendiff.data.images import check_writable
from mendiff.errors import InputError

Result = TypeVar("Result")


def hidden_path(out: Path, ending: str) -> Path:
    """A hidden name beside a place, which tells whose it is."""
    out = Path(os.path.realpath(out))
    return out.with_name(f".{short_name(out.name)}.{ending}")


def try_lock(path: Path) -> int | None:
    """Lock a file, made where it is missing; its descriptor, to be closed, or None where another has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks: as good as it gets
            return descriptor
        if _same(path, descriptor):
            return descriptor
        os.close(descriptor)  # whoever had it removed the file as it let go


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def exclusive(what: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Decorate a workflow whose options have an `out`: of several at one place only one runs at a time."""

    def decorate(run: Callable[..., Result]) -> Callable[..., Result]:
        @wraps(run)
        def guarded(options: Any, reporter: Any) -> Result:
            with exclusive_output(options.out, what):
                return run(options, reporter)

        return guarded

    return decorate


def check_free(out: Path, what: str) -> None:
    """Refuse early what `exclusive_output` would refuse."""
    path = hidden_path(out, "lock")
    if path.exists():
        with exclusive_output(out, what):
            pass


@contextmanager
def exclusive_output(out: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Refuse a second command that would do the same at the same place while the block runs.

    Args:
        out: the place; what keeps the lock is a hidden file beside it.
        what: is done, for the message.
        wait: seconds to wait for the other one's end.
    """
    check_writable(out)
    path = hidden_path(out, "lock")
    refusal = f"{out}: another {what} into this place is running; wait for its end, or choose another place."
    with parents_of(path), _locked(path, wait, refusal):
        yield


@contextmanager
def serialized(out: Path) -> Iterator[None]:
    """Wait until no other command moves anything at a place, and keep them waiting while the block runs."""
    with _locked(hidden_path(out, "turn")):
        yield


@contextmanager
def _locked(path: Path, wait: float = math.inf, refusal: str = "") -> Iterator[None]:
    """Keep a lock file while the block runs; who can't get it in so many seconds is refused."""
    until = time.monotonic() + wait
    while (descriptor := try_lock(path)) is None:
        if time.monotonic() >= until:
            raise InputError(refusal)
        time.sleep(0.01)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def parents_of(path: Path) -> Iterator[None]:
    """Make the folders above a path, and remove those that the block left empty."""
    missing = [one for one in path.parents if not one.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for one in missing:
            with suppress(OSError):
                one.rmdir()
