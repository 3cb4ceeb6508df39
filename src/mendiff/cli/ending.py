"""How a command ends: signals, closed pipes and messages for errors of the operating system."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INCOMPLETE, EXIT_DRIFT = 0, 1, 2, 3, 4
SIGNAL_BASE = 128
"""Exit code offset: shells report 128 plus the signal number. 130 is Ctrl-C, 143 is SIGTERM."""
EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = SIGNAL_BASE + signal.SIGINT, SIGNAL_BASE + signal.SIGPIPE
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
CLEANUP_SECONDS = 5.0
"""Seconds allowed for cleanup. Further termination signals are ignored during this time."""
OUTPUT_CLOSED = threading.Event()
"""Set when the reader of standard output has closed it. Nothing needs to be flushed then."""


_ADVICE = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space within the quota or choose another folder",
    errno.EFBIG: "raise the file size limit (see 'ulimit -f') or choose another folder",
}


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Make SIGTERM and SIGHUP end the block like Ctrl-C (SIGINT). Yields the list of received signals."""
    came: list[int] = []
    until = 0.0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal until
        if time.monotonic() < until and number != signal.SIGINT:
            return
        came.append(number)
        until = time.monotonic() + CLEANUP_SECONDS
        raise KeyboardInterrupt

    before = {}
    for one in ENDING:
        if signal.getsignal(one) in (signal.SIG_DFL, signal.default_int_handler):  # nohup ignores SIGHUP
            with suppress(ValueError):  # not in the main thread
                before[one] = signal.signal(one, end)
    try:
        yield came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def describe_os_error(error: OSError, path: object = None) -> str:
    """The system's message for a file, with advice. `path` is used where the error names no file."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else path
    parts = [f"{name}: {error.strerror or error}" if name is not None else str(error.strerror or error)]
    return "; ".join([*parts, *([_ADVICE[error.errno] + "."] if error.errno in _ADVICE else [])])


def flushed() -> bool:
    """Flush standard output and standard error. Returns False if the reader of standard output has gone."""
    wanted = not OUTPUT_CLOSED.is_set()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            wanted = wanted and stream is not sys.stdout
            with suppress(OSError, ValueError):  # discard the rest, also at interpreter exit
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
    return wanted
