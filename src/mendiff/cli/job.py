"""Runs a benchmark job in a separate process: `python -m mendiff.cli.job FOLDER`. See workflows.job."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from mendiff.cli.ending import (
    CLEANUP_SECONDS,
    EXIT_INTERRUPTED,
    SIGNAL_BASE,
    describe_os_error,
    interruptible,
)
from mendiff.cli.terminal import Terminal
from mendiff.errors import InputError
from mendiff.runs.locks import exclusive_output
from mendiff.workflows.job import run
from mendiff.workflows.spec import FAILED, read_moved


def main(folder: Path) -> int:
    """Run the unfinished work of a folder's job.json. Returns 2 for bad input; the reason is in a file."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    reporter = Terminal()
    (folder / FAILED).unlink(missing_ok=True)
    try:
        with interruptible() as signals, exclusive_output(folder, "job", wait=CLEANUP_SECONDS):
            run(read_moved(folder), folder, reporter)
    except KeyboardInterrupt:
        return SIGNAL_BASE + signals[0] if signals else EXIT_INTERRUPTED
    except (InputError, MemoryError, OSError) as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, OSError):
            reason = describe_os_error(error, folder)
        reporter.warn(reason)
        with suppress(OSError):  # a full disk may be the reason
            (folder / FAILED).write_text(reason, errors="backslashreplace")
        return 2
    return 0


def end_with(parent: int) -> None:
    """End this process when its parent has ended, so that a killed benchmark can be restarted at once."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
