"""Work in several processes."""

import os
import time
from pathlib import Path

import pytest

from tagseg.cores import cpu_count, in_processes


def noted(place: tuple[str, int]) -> tuple[int, int, int]:
    folder, number = place
    Path(folder, str(number)).touch()
    time.sleep(0.2)
    if number == 1:
        raise ValueError("the second one")
    return number, os.getpid(), cpu_count()


def test_everything_is_done_and_by_others(tmp_path: Path):
    found = dict(in_processes(noted, [(str(tmp_path), n) for n in (0, 2, 3, 4)], jobs=2))
    assert [found[n][0] for n in range(4)] == [0, 2, 3, 4]
    assert os.getpid() not in {pid for _, pid, _ in found.values()}
    assert all(cores == max(1, cpu_count() // 2) for _, _, cores in found.values())


def test_after_a_failure_nothing_is_begun(tmp_path: Path):
    with pytest.raises(ValueError, match="the second one"):
        list(in_processes(noted, [(str(tmp_path), n) for n in range(1, 9)], jobs=2))
    assert len(list(tmp_path.iterdir())) <= 3
