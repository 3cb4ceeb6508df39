"""Progress and notes on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable

from mendiff.cli.ending import OUTPUT_CLOSED
from mendiff.data.json_text import as_json
from mendiff.runs.reporting import Reporter, Table, Update, one_line

LINE_SECONDS = 30.0
"""Seconds between two lines of progress where no terminal can show a bar."""


class Lines:
    """Progress for a file or a pipe: a line from time to time instead of a bar.

    Args:
        say: prints a line.
        title: name of the task.
        last: whether to print a line at the end.
    """

    def __init__(self, say: Callable[[str], None], title: str, last: bool) -> None:
        self._say, self._title, self._last = say, title, last
        self._began = self._last_line = time.monotonic()
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int, note: str) -> None:
        """Print the progress, at most every LINE_SECONDS."""
        now = time.monotonic()
        # A resumed task does not begin at 0, and the preparation of the first step may take long.
        self._first = self._first or (done, now)
        if not (done == total and self._last) and now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        first, then = self._first
        parts = [f"{self._title} {done}/{total}", _clock(now - self._began)]
        if done > first:
            parts.append(f"{_clock((now - then) * (total - done) / (done - first))} left")
        self._say(", ".join([*parts, note] if note else parts))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class Output(Console):
    """A console whose reader may close it, such as `head`. The work continues; the exit code reports it."""

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True
        if not self.stderr:
            OUTPUT_CLOSED.set()


class Terminal(Reporter):
    """Progress and messages on standard error, tables of results on standard output.

    Args:
        quiet: print warnings only.
        fleeting: remove progress bars when they are full.
    """

    def __init__(self, quiet: bool = False, fleeting: bool = False) -> None:
        self.quiet, self.fleeting = quiet, fleeting
        self.console = Output(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """Print a message in one line."""
        if not self.quiet:
            self.console.print(one_line(text), soft_wrap=True, markup=False)

    def warn(self, text: str) -> None:
        """Print a warning in one line, also with --json."""
        self.console.print(one_line(f"warning: {text}"), style="yellow", soft_wrap=True, markup=False)

    def table(self, table: Table) -> None:
        """Print a table of results on standard output."""
        if self.quiet:
            return
        drawn = RichTable(title=table.title, title_justify="left", show_header=table.header)
        for number, title in enumerate(table.columns):
            words = number in table.words
            # Long names are folded, not truncated.
            drawn.add_column(
                title,
                justify="left" if words else "right",
                overflow="fold",
                min_width=table.narrowest if number == 0 and table.narrowest else None,
            )
        for number, row in enumerate(table.rows):
            drawn.add_row(*row, end_section=number in table.sections)
        Output(highlight=False).print(drawn)

    def result(self, text: str, style: str = "") -> None:
        """Print a line of results on standard output."""
        if not self.quiet:
            Output(highlight=False).print(one_line(text), style=style or None, soft_wrap=True, markup=False)

    def item(self, text: str, row: Mapping[str, Any]) -> None:
        """Print a result on standard output at once, with --json as JSON."""
        if not self.quiet:
            self.result(text)
        else:
            print(as_json(row, "--json"), flush=True)

    def brief(self) -> Terminal:
        """A copy that removes progress bars when they are full."""
        return Terminal(self.quiet, fleeting=True)

    @contextmanager
    def bar(self, title: str) -> Iterator[Update]:
        """Show a progress bar with the remaining time."""
        if not self.console.is_terminal and not self.quiet:
            yield Lines(self.say, title, last=not self.fleeting)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(
            *columns, console=self.console, disable=self.quiet, transient=self.fleeting
        ) as progress:
            task = progress.add_task(title, total=None, note="")

            def update(done: int, total: int, note: str) -> None:
                progress.update(task, completed=done, total=total, note=note)

            yield update
