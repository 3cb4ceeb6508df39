"""A job of a benchmark in a process of its own, `python -m mendiff.cli.job FOLDER`; see workflows.job."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from mendiff.cli.ending import EXIT_INTERRUPTED, PATIENCE, SIGNALLED, interruptible, told_of
from mendiff.cli.heap import keep_freed_memory
from mendiff.cli.terminal import Terminal
from mendiff.errors import InputError
from mendiff.workflows.job import run
from mendiff.workflows.locks import exclusive_output
from mendiff.workflows.spec import FAILED, read_moved


def main(folder: Path) -> int:
    """Run what a folder's job.json says and is not done yet; 2 for bad input, with the reason in a file."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    keep_freed_memory()
    reporter = Terminal()
    (folder / FAILED).unlink(missing_ok=True)
    try:
        with interruptible() as signals, exclusive_output(folder, "job", wait=PATIENCE):
            run(read_moved(folder), folder, reporter)
    except KeyboardInterrupt:
        return SIGNALLED + signals[0] if signals else EXIT_INTERRUPTED
    except (InputError, MemoryError, OSError) as error:
        told = told_of(error, folder) if isinstance(error, OSError) else str(error) or type(error).__name__
        reporter.warn(told)
        with suppress(OSError):  # a full disk may be why
            (folder / FAILED).write_text(told, errors="backslashreplace")
        return 2
    return 0


def end_with(parent: int) -> None:
    """End this process once its parent is gone: a benchmark that was killed may be started again at once."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
