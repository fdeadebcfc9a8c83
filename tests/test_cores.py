"""Work in several processes."""

import os
import signal
import subprocess
import sys
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


def outlasting(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(300)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_the_others_end_with_the_one_that_began_them(tmp_path: Path):
    notes = [str(tmp_path / name) for name in "ab"]
    code = "from tagseg.cores import in_processes\nfrom tests.test_cores import outlasting\n"
    code += f"if __name__ == '__main__':\n    list(in_processes(outlasting, {notes}, 2))\n"
    script = tmp_path / "main.py"
    script.write_text(code)
    root = str(Path(__file__).parents[1])
    main = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": f"{root}/src:{root}"})
    wait_for(lambda: all(Path(note).exists() and Path(note).read_text() for note in notes), seconds=120)
    pids = [int(Path(note).read_text()) for note in notes]
    main.send_signal(signal.SIGKILL)
    main.wait()
    wait_for(lambda: not any(is_running(pid) for pid in pids), seconds=20)


def wait_for(happened, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether there is such a process which has not ended; one that nobody has asked about yet has."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
