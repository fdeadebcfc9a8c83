"""Numba kernels, each compiled twice: for all cores on one photograph, and for one core without Python's lock, for a
pool of threads with a photograph each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

import numba
import torch

_ALL_CORES = threading.Lock()


def compiled(functions: dict[str, Callable[..., None]], parallel: bool, *, reordered: bool = True) -> SimpleNamespace:
    """Returns kernels by name, which are compiled when they are first called, and read from the disk from then on.

    Args:
        functions: the kernels.
        parallel: whether they are for all cores.
        reordered: whether sums may be reordered ("fastmath"). Numba then makes other code of a parallel kernel when it
            compiles it than when it reads it from the disk, so that results may differ in their last bits between the
            first run on a machine and the next: not for a kernel of which that is known, and that training depends on.
    """
    kernels = SimpleNamespace(parallel=parallel)
    for name, function in functions.items():
        # numba's files on the disk are told apart by this name, not by the options
        twin = FunctionType(function.__code__, function.__globals__, function.__name__)
        twin.__qualname__ = f"{function.__name__}_{'parallel' if parallel else 'serial'}"
        build = numba.njit(cache=True, nogil=True, fastmath=reordered, parallel=parallel, error_model="numpy")
        setattr(kernels, name, build(twin))
    return kernels


def run(kernels: SimpleNamespace, kernel: str, *arguments: Any) -> None:
    """Call a kernel of either build by its name."""
    if kernels.parallel:
        on_all_cores(getattr(kernels, kernel), *arguments)
    else:
        getattr(kernels, kernel)(*arguments)


def on_all_cores(kernel: Callable[..., None], *arguments: Any) -> None:
    """Call a kernel on as many threads as torch has, one kernel at a time: not every threading layer of numba bears
    more. Numba's start sets torch's number of threads, which is undone."""
    with _ALL_CORES:
        threads = torch.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        kernel(*arguments)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
