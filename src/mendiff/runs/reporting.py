"""Reporters take the output of workflows: progress, messages, warnings, tables."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

Item = TypeVar("Item")
Update = Callable[[int, int, str], None]
"""Called with (done, total, note)."""
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def one_line(text: object) -> str:
    """Text for a terminal, with control characters and surrogates escaped."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


@dataclass
class Table:
    """A table of results.

    Attributes:
        title: of the table.
        columns: titles of the columns, which may have several lines.
        rows: a cell per column.
        sections: indices of the rows below which a line is drawn.
        words: indices of text columns; others are numbers.
        header: whether the titles of the columns are shown.
        narrowest: minimum width of the first column in letters.
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    sections: set[int] = field(default_factory=set)
    words: Sequence[int] = (0,)
    header: bool = True
    narrowest: int = 0

    def add(self, *cells: str, section: bool = False) -> None:
        """Add a row; `section` draws a line below it."""
        if section:
            self.sections.add(len(self.rows))
        self.rows.append(cells)


class Reporter:
    """Writes messages to Python's logger "mendiff"; shows no progress and no tables."""

    _log = logging.getLogger("mendiff")

    def say(self, text: str) -> None:
        """A message of a single line."""
        self._log.info(text)

    def warn(self, text: str) -> None:
        """A warning of a single line."""
        self._log.warning(text)

    def table(self, table: Table) -> None:
        """Show a table of results."""

    def result(self, text: str, style: str = "") -> None:
        """Show a line of results, with a colour."""

    def item(self, text: str, row: Mapping[str, Any]) -> None:
        """Show a result of a command without an end: a line of text, or with --json a line of JSON."""

    def brief(self) -> Reporter:
        """A reporter that hides finished progress bars."""
        return self

    def bar(self, title: str) -> AbstractContextManager[Update]:
        """A progress bar; yields a function of (done, total, note). The title ends with what is counted."""
        return nullcontext(lambda done, total, note: None)

    @contextmanager
    def stages(self) -> Iterator[Callable[[str, int, int, str], None]]:
        """Progress of several stages; yields a function of (title, done, total, note)."""
        with ExitStack() as shown:
            now: tuple[str, Update | None] = ("", None)

            def update(title: str, done: int, total: int, note: str) -> None:
                nonlocal now
                if title != now[0] or now[1] is None:
                    shown.close()
                    now = (title, shown.enter_context(self.bar(title)))
                assert now[1] is not None
                now[1](done, total, note)

            yield update

    def track(self, items: Sequence[Item], title: str) -> Iterator[Item]:
        """Yield the items and show progress."""
        with self.bar(title) as update:
            update(0, len(items), "")
            for index, item in enumerate(items):
                yield item
                update(index + 1, len(items), "")


class Silent(Reporter):
    """Reports nothing, for processes of rank above 0."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""
