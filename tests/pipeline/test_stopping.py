"""How a training ends early: it diverges, a signal stops it, or its checkpoint was tampered with."""

import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import tagseg
from tagseg.errors import BadInput
from tagseg.pipeline.training import _is_whole
from tests.conftest import TINY


def test_divergence_is_told_and_nothing_of_it_is_kept(tiny_set: Path, tmp_path: Path):
    run = tmp_path / "run"
    wild = {**TINY, "train.learning_rate": 1e30, "train.optimiser": "sgd"}
    with pytest.raises(BadInput, match=r"train: training diverged: the loss is (nan|inf) at step \d+ \(batch \d+ of"):
        tagseg.fit(tiny_set, run, recipe="cam", settings=wild, quiet=True)
    assert not (run / "train" / "classifier.json").exists()
    checkpoint = run / "train" / "last.ckpt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(values.isfinite().all() for values in state.values())
    assert tagseg.fit(tiny_set, run, recipe="cam", settings=TINY, quiet=True).metrics.val is not None


class Harm:
    """What a checkpoint of somebody else could hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_executes_nothing(tmp_path: Path):
    path, harm = tmp_path / "last.ckpt", tmp_path / "harmed"
    torch.save({"state_dict": {}, "harm": Harm(harm)}, path, pickle_module=pickle)
    assert zipfile.is_zipfile(path)
    assert not _is_whole(path)
    assert not harm.exists()
    torch.save({"state_dict": {"a": torch.ones(2)}}, path)
    assert _is_whole(path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_in_one_line(tiny_set: Path, tmp_path: Path, number: int, code: int):
    settings = {**TINY, "train.epochs": 500}
    pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "tagseg.cli", "fit", str(tiny_set), "--out", str(tmp_path / "run"), *pairs]
    process = subprocess.Popen([*command, "--recipe", "cam"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "run" / "train" / "last.ckpt").exists():
            break
        time.sleep(0.1)
    process.send_signal(number)
    begun = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert said.splitlines()[-1] == (
        "tagseg: stopped; the same command goes on from the last completed piece of work."
    ), said
    assert "Traceback" not in said
    assert time.monotonic() - begun < 20  # one or two seconds on a machine of its own
    assert not list((tmp_path / "run").rglob("*.partial"))
