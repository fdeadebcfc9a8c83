"""How many cores this process may use."""

from __future__ import annotations

import os


def cpu_count() -> int:
    """Returns the number of cores that this process may use, which a container or `taskset` may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
