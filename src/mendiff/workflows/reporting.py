"""What workflows tell while they run: progress, notes, warnings and tables of results."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")
Update = Callable[[int, int, str], None]
"""Called with (done, total, note)."""
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def one_line(text: object) -> str:
    """Text for a terminal: what would move its cursor, or is no text, is written out."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


@dataclass
class Table:
    """A table of results.

    Attributes:
        title: above it.
        columns: titles; a title of several lines is allowed.
        rows: a cell for each column.
        sections: numbers of the rows below which a line is drawn.
        words: numbers of the columns that hold words, and not figures.
        header: whether the titles of columns are shown.
        narrowest: letters that the first column has room for at least.
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    sections: set[int] = field(default_factory=set)
    words: Sequence[int] = (0,)
    header: bool = True
    narrowest: int = 0

    def add(self, *cells: str, section: bool = False) -> None:
        """Add a row, and below it a line where a section ends."""
        if section:
            self.sections.add(len(self.rows))
        self.rows.append(cells)


class Reporter:
    """Tells through Python's logging, under the name "mendiff"; shows no progress and no tables."""

    _log = logging.getLogger("mendiff")

    def say(self, text: str) -> None:
        """News of one line."""
        self._log.info(text)

    def warn(self, text: str) -> None:
        """One line that matters."""
        self._log.warning(text)

    def table(self, table: Table) -> None:
        """Show a table of results."""

    def result(self, text: str, style: str = "") -> None:
        """Show a line of results, in a colour."""

    def brief(self) -> Reporter:
        """The same reporter for works whose end is no news."""
        return self

    def bar(self, title: str) -> AbstractContextManager[Update]:
        """Progress of one work; yields what to call with (done, total, note)."""
        return nullcontext(lambda done, total, note: None)

    @contextmanager
    def stages(self) -> Iterator[Callable[[str, int, int, str], None]]:
        """Progress of works one after another; yields what to call with (title, done, total, note)."""
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
        """Pass items on and show how far they are."""
        with self.bar(title) as update:
            update(0, len(items), "")
            for index, item in enumerate(items):
                yield item
                update(index + 1, len(items), "")


class Silent(Reporter):
    """Tells nothing at all: another process does."""

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""
