"""How many cores this process may use, and work on several of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Returns the number of cores that this process may use, which a container or `taskset` may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 4, threads: int = 2
) -> Iterator[Result]:
    """Yields `map(function, items)` in order, with at most `ahead` results computed in advance by threads.

    If it is left early, by an error or because the process is to stop, what has not begun is not begun any more.
    """
    pool = ThreadPoolExecutor(threads)
    pending: deque[Any] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
