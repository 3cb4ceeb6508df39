"""New images below files and folders, as they come."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mendiff.data.image_files import NoImagesError, find_images
from mendiff.errors import InputError
from mendiff.runs.findings import Names, stem_of

POLL_SECONDS = 1.0
"""Seconds between two looks at the folders."""
MOST_TRIES = 10
"""Looks at a file that does not change and can't be read, before it counts as unreadable."""


@dataclass
class Arrival:
    """An image that has no row yet.

    Attributes:
        state: size in bytes and time of the last change in nanoseconds.
        name: of its PNG files; empty until the file has been stable for a look.
        tries: how often it could not be read.
    """

    state: tuple[int, int]
    name: str = ""
    tries: int = 0


class Arrivals:
    """Images that have come; a path counts once, when size and time of its file are stable between two looks.

    Args:
        given: files and folders; InputError if one is missing.
        done: images that have rows.
        names: names of their PNG files, and the images that they belong to.
    """

    def __init__(self, given: Sequence[Path], done: Collection[str], names: Mapping[str, str]) -> None:
        for one in given:
            _images(one, missing=False)
        self._given, self._done = given, set(done)
        self._names = Names(names)
        self._waiting: dict[Path, Arrival] = {}

    def batches(self, size: int) -> Iterator[list[tuple[Path, str]]]:
        """Batches of images with the names of their PNG files, without an end."""
        while True:
            ready = self._look()
            for first in range(0, len(ready), size):
                yield ready[first : first + size]
            time.sleep(POLL_SECONDS)

    def is_settled(self, path: Path, readable: bool) -> bool:
        """Whether the result of an image counts; false for an unreadable one that may still be written."""
        arrival = self._waiting[path]
        arrival.tries += 1
        if not readable and arrival.tries < MOST_TRIES:
            return False
        self._done.add(str(path))
        del self._waiting[path]
        return True

    def _look(self) -> list[tuple[Path, str]]:
        """The images without a row whose files have not changed since the last look."""
        ready, missing = [], set(self._waiting)
        for given in self._given:
            for path in _images(given):
                state = None if str(path) in self._done else _state(path)
                if state is None:
                    continue
                missing.discard(path)
                arrival = self._waiting.setdefault(path, Arrival((-1, -1)))
                if arrival.state != state:
                    arrival.state, arrival.tries = state, 0
                    continue
                arrival.name = arrival.name or self._names.new(path, stem_of(path, given))
                ready.append((path, arrival.name))
        for path in missing:
            del self._waiting[path]
        return ready


def _images(given: Path, missing: bool = True) -> list[Path]:
    """The images below a folder; none for an empty one, or if `missing`, for one that is not there now."""
    try:
        return find_images(given)
    except NoImagesError:
        return []
    except (InputError, OSError):
        if missing:  # such as a network share that will come back
            return []
        raise


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
