"""Several batches at the same time, each in a thread; graphs and NumPy compute without Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], streams: int) -> Iterator[Result]:
    """The results of a function in the order of the items.

    Args:
        function: safe in several threads.
        items: taken when a stream is free, so at most 2 * `streams` of them and their results are in memory.
        streams: number of calls at the same time; 1 calls in this thread.
    """
    if streams == 1:
        yield from map(function, items)
        return
    left = iter(items)
    with ThreadPoolExecutor(streams) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            pending.extend(pool.submit(function, one) for one in islice(left, 2 * streams))
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(function, one) for one in islice(left, 1))
        finally:
            for one in pending:
                one.cancel()
