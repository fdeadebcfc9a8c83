"""Killed in every stage, the same command ends with the same files as if it had not been."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import TINY

SCRIPT = """
import os, signal, sys
import tagseg
place, skip = sys.argv[3], int(sys.argv[4])
settings = eval(sys.argv[5])
replace = os.replace

def replace_or_die(source, target):
    global skip
    if str(target).endswith(place):
        if skip == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        skip -= 1
    replace(source, target)

if place:
    os.replace = replace_or_die
tagseg.fit(sys.argv[1], sys.argv[2], settings=settings)
"""

KILLS = [  # the file that is about to be put in place, and how many of its kind are before that
    ("run/run.json", 0),
    ("train/last.ckpt", 1),
    ("train/attention.safetensors", 0),
    ("mine/000000.safetensors", 0),
    ("00005.png", 0),
    ("segment/last.ckpt", 1),
    ("segment/model.json", 0),
    ("report/predictions/val_00012.png", 0),
    ("run/report.html", 0),
]


def test_kill_and_go_on(tiny_set: Path, tiny_run: Any, tmp_path: Path):
    run = tmp_path / "run"

    def call(place: str, skip: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, tiny_set, run, place, str(skip), repr(TINY)],
            capture_output=True,
            text=True,
        )

    for place, skip in KILLS:
        done = call(place, skip)
        assert done.returncode == -9, (place, done.stdout, done.stderr)
        assert any(run.rglob("*.partial"))
    last = call("", 0)
    assert last.returncode == 0, last.stderr
    assert "segment: already done, kept" in last.stdout
    assert "report: goes on where it was interrupted" in last.stdout
    assert not any(run.rglob("*.partial"))
    assert not any(run.rglob("*.ckpt"))
    for whole in tiny_run.folder.rglob("*"):
        if whole.suffix in (".png", ".safetensors") or whole.name in ("metrics.json", "model.json"):
            again = run / whole.relative_to(tiny_run.folder)
            assert again.read_bytes() == whole.read_bytes(), whole.name
