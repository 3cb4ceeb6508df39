"""How methods tell of what takes long: learning from good images what is usual."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Progress = Callable[[str, int, int, str], None]
"""Called with what is done, how much of it and of how much, and a note."""
Item = TypeVar("Item")

USUAL, FLAWS = "learning what is usual", "looking for flaws"


def unwatched(*_: object) -> None:
    """Where nobody asks for progress."""


def track(items: Iterable[Item], title: str, progress: Progress) -> Iterator[Item]:
    """Pass items on, and tell after each how many were."""
    known = list(items)
    for number, item in enumerate(known, start=1):
        yield item
        progress(title, number, len(known), "")
