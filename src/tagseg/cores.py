"""How many cores this process may use, and work on several of them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
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


def in_processes(function: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[tuple[int, Result]]:
    """Yields the number of every item and what `function` makes of it, as they come ready, by processes of their own.

    Every process has its share of the cores and, where there are several GPUs, one of them. What fails ends the work
    once the items that are being worked on are done; nothing else is begun. If this process is killed, so are they.

    Args:
        function: of a module, so that another process finds it.
        items: what travels to the processes.
        jobs: processes, at most as many as there are items.
    """
    context = multiprocessing.get_context("spawn")  # a process that has used a GPU cannot be forked
    jobs = min(jobs, len(items))
    places = context.Queue()
    for place in range(jobs):
        places.put(place)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_take_share, initargs=(places, jobs))
    waiting, left = {}, iter(enumerate(items))
    try:
        for number, item in islice(left, jobs):  # no more, for what a pool has been given cannot be taken back
            waiting[pool.submit(function, item)] = number
        while waiting:
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(done), done.result()
                for number, item in islice(left, 1):
                    waiting[pool.submit(function, item)] = number
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _take_share(places: Any, jobs: int) -> None:
    """Keeps this process to its share of the cores, and to one GPU, before it has used any."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    place = places.get()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = [gpu for gpu in visible.split(",") if gpu] or [str(n) for n in range(_gpus())]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    share = _keep_to_share(place, jobs)
    import cv2
    import numba
    import torch

    torch.set_num_threads(share)
    numba.set_num_threads(min(share, numba.get_num_threads()))
    cv2.setNumThreads(share)


def _end_with_parent() -> None:
    """Waits for the end of the process that began this one, and ends with it: nobody would take what is found."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _keep_to_share(place: int, of: int) -> int:
    """Keeps this process to its share of the cores, and returns how many these are."""
    share = max(1, cpu_count() // of)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[(place * share + n) % len(cores)] for n in range(share)})
    return share


def cores_each(of: int) -> int:
    """Returns how many cores each of several processes on this machine has for itself: all that it may use, where
    whoever has started it keeps it to cores of its own, else an even share."""
    kept = cpu_count() * of <= (os.cpu_count() or 1)
    return cpu_count() if kept else max(1, cpu_count() // of)


@contextmanager
def share_of_cores(place: int, of: int) -> Iterator[None]:
    """Keeps this process to one of several shares of the cores as long as this lasts: several on a machine that all use
    every core would slow each other down. One that whoever has started it keeps to cores of its own has its share."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores_each(of) < cpu_count():
        _keep_to_share(place, of)
    try:
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()  # which begins nothing on them
