"""How a command ends: signals, closed pipes, and what is said of errors that are not ours."""

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

EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INCOMPLETE = 0, 1, 2, 3
SIGNALLED = 128
"""Shells add it to the number of the signal that ended a command: 130 is Ctrl-C, 143 is SIGTERM."""
EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = SIGNALLED + signal.SIGINT, SIGNALLED + signal.SIGPIPE
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
PATIENCE = 5.0
"""Seconds for cleaning up, in which further signals to end are not needed."""
READER_GONE = threading.Event()
"""Set once a table on standard output found no reader any more; nothing is left to be flushed then."""


_ADVICE = {
    errno.ENOSPC: "make room or choose another place",
    errno.EDQUOT: "make room within the quota or choose another place",
    errno.EFBIG: "raise the limit on the size of files (see 'ulimit -f') or choose another place",
}


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Have SIGTERM and SIGHUP end the block as Ctrl-C (SIGINT) does; yields the signals that came."""
    came: list[int] = []
    until = 0.0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal until
        if time.monotonic() < until and number != signal.SIGINT:
            return
        came.append(number)
        until = time.monotonic() + PATIENCE
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


def told_of(error: OSError, place: object = None) -> str:
    """What the system says of a file, or where it names none of `place`, and what can be done."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else place
    parts = [f"{name}: {error.strerror or error}" if name is not None else str(error.strerror or error)]
    return "; ".join([*parts, *([_ADVICE[error.errno] + "."] if error.errno in _ADVICE else [])])


def flushed() -> bool:
    """Write what is left for standard output and error; False where the reader of the first has gone."""
    wanted = not READER_GONE.is_set()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            wanted = wanted and stream is not sys.stdout
            with suppress(OSError, ValueError):  # what is left vanishes, at the interpreter's end, too
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    return wanted
