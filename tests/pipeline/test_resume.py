"""Killed in every stage, the same command ends with the same files as if it had not been."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tagseg
from tests.conftest import TINY

SCRIPT = """
import os, signal, sys
import tagseg
data, run, kills, settings = sys.argv[1], sys.argv[2], eval(sys.argv[3]), eval(sys.argv[4])

def fit(place, skip):
    replace = os.replace

    def replace_or_die(source, target):
        nonlocal skip
        if str(target).endswith(place):
            if skip == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            skip -= 1
        replace(source, target)

    if place:
        os.replace = replace_or_die
    tagseg.fit(data, run, recipe="cam", settings=settings)

import tagseg.pipeline.fit, lightning.pytorch  # once; every fit is a process of its own that knows them already
for place, skip in [*kills, ("", 0)]:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        if place:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        fit(place, skip)
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    left = any(name.endswith(".partial") for _, _, names in os.walk(run) for name in names)
    assert os.waitstatus_to_exitcode(status) == (-9 if place else 0), (place, status)
    assert left == bool(place), place
"""

KILLS = [  # the file that is about to be put in place, and how many of its kind are before that
    ("train/last.ckpt", 1),
    ("mine/000000.safetensors", 0),
    ("00005.png", 0),
    ("segment/last.ckpt", 1),
    ("run/report.html", 0),
]
MORE_KILLS = [
    ("run/run.json", 0),
    ("train/classifier.safetensors", 0),
    ("segment/model.json", 0),
    ("report/predictions/val_00012.png", 0),
]


CUMULATIVE = {  # views lose what was found before, and a second network learns the maps
    **TINY,
    "method": "oaa+++",
    "train.epochs": 4,
    **{f"train.integral.{key}": TINY[f"train.{key}"] for key in ("epochs", "batch_size", "side")},
}
KILLS_OF_CUMULATIVE = [  # before the maps of an epoch are joined, between that and its end, in the second network
    ("accumulated/round-001.npy", 0),
    ("train/last.ckpt", 1),
    ("accumulated/round-004.npy", 0),
    ("integral/last.ckpt", 1),
]
MORE_KILLS_OF_CUMULATIVE = [
    ("train/last.ckpt", 0),
    ("accumulated/round-002.npy", 0),
    ("train/last.ckpt", 1),
    ("train/classifier.safetensors", 0),
    ("mine/000000.safetensors", 0),
]


def kill_and_go_on(data: Path, run: Path, settings: dict[str, Any], kills: list[tuple[str, int]]) -> str:
    """Kill at every place in turn; what the last call, which is left alone, says."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, data, run, repr(kills), repr(settings)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


few_and_more = pytest.mark.parametrize("more", [False, pytest.param(True, marks=pytest.mark.long)])


@few_and_more
def test_cumulative_maps_survive(more: bool, tiny_set: Path, tmp_path: Path):
    undisturbed = tmp_path / "undisturbed"
    tagseg.fit(tiny_set, undisturbed, recipe="cam", settings=CUMULATIVE, quiet=True)
    kill_and_go_on(tiny_set, tmp_path / "run", CUMULATIVE, MORE_KILLS_OF_CUMULATIVE if more else KILLS_OF_CUMULATIVE)
    for place in ("train", "integral", "mine"):
        for whole in sorted((undisturbed / place).rglob("*")):
            if whole.suffix in (".npy", ".safetensors"):
                again = tmp_path / "run" / whole.relative_to(undisturbed)
                assert again.read_bytes() == whole.read_bytes(), whole
    assert len(list((tmp_path / "run" / "train" / "accumulated").glob("round-*.npy"))) == 4


@few_and_more
def test_kill_and_go_on(more: bool, tiny_set: Path, tiny_run: Any, tmp_path: Path):
    run = tmp_path / "run"
    said = kill_and_go_on(tiny_set, run, TINY, MORE_KILLS if more else KILLS)
    assert "segment: already done, kept" in said
    assert "report: goes on where it was interrupted" in said
    assert not any(run.rglob("*.partial"))
    assert not any(run.rglob("*.ckpt"))
    for whole in tiny_run.folder.rglob("*"):
        if whole.suffix in (".png", ".safetensors") or whole.name in ("metrics.json", "model.json"):
            again = run / whole.relative_to(tiny_run.folder)
            assert again.read_bytes() == whole.read_bytes(), whole.name
