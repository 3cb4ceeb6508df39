"""File locks that the system releases when their process ends, even if it is killed."""

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
    """A hidden path beside an output, derived from its name."""
    out = Path(os.path.realpath(out))
    return out.with_name(f".{short_name(out.name)}.{ending}")


def try_lock(path: Path) -> int | None:
    """Lock a file, creating it if missing; returns its descriptor, or None if it is locked already."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks
            return descriptor
        if _same(path, descriptor):
            return descriptor
        os.close(descriptor)  # the previous owner removed the file


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def exclusive(what: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Decorate a workflow with the option `out`: only a single one runs per output folder."""

    def decorate(run: Callable[..., Result]) -> Callable[..., Result]:
        @wraps(run)
        def guarded(options: Any, reporter: Any) -> Result:
            with exclusive_output(options.out, what):
                return run(options, reporter)

        return guarded

    return decorate


def check_free(out: Path, what: str) -> None:
    """Raise InputError early if `exclusive_output` would."""
    path = hidden_path(out, "lock")
    if path.exists():
        with exclusive_output(out, what):
            pass


@contextmanager
def exclusive_output(out: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Lock an output folder while the block runs; InputError if another command has locked it.

    Args:
        out: the folder; the lock is a hidden file beside it.
        what: name of the work, for the message.
        wait: seconds to wait for the other command.
    """
    check_writable(out)
    path = hidden_path(out, "lock")
    refusal = f"{out}: another {what} into this folder is running; wait for its end, or choose another -o."
    with parents_of(path), _locked(path, wait, refusal):
        yield


@contextmanager
def serialized(out: Path) -> Iterator[None]:
    """Serialise moves of folders at an output: other commands wait while the block runs."""
    with _locked(hidden_path(out, "turn")):
        yield


@contextmanager
def _locked(path: Path, wait: float = math.inf, refusal: str = "") -> Iterator[None]:
    """Hold a lock file while the block runs; InputError if it is not free within `wait` seconds."""
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
    """Create the parent folders of a path, and remove those that are empty after the block."""
    missing = [one for one in path.parents if not one.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for one in missing:
            with suppress(OSError):
                one.rmdir()
