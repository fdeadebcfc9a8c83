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
from safetensors.torch import load_file

import tagseg
from tagseg.errors import BadInput
from tagseg.files import read_json
from tagseg.pipeline.premise import read_premise
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


STRAYING = """'''CAM that tells how far its labels have strayed from it, epoch by epoch.'''

from pathlib import Path

import torch

from tagseg.methods.cam import CAM
from tagseg.methods.settings.cam import CAMSettings


class StrayingSettings(CAMSettings):
    '''Settings of CAM.'''


class Straying(CAM):
    '''CAM whose labels run away from it.'''

    Settings = StrayingSettings
    must_fall = "apart"

    def training_step(self, batch, number):
        loss = super().training_step(batch, number)
        told = {} if self.current_epoch < 2 else {"apart": (0, 0, 1.0, 0.5, 1.1, 0.1)[self.current_epoch]}
        return self.told(loss, **told)

    def on_train_epoch_end(self):
        if self.current_epoch == 1 and self.global_rank == 0:
            torch.save(self.state_dict(), Path(__file__).with_name("second.pt"))


METHOD = Straying
"""


@pytest.fixture(scope="module")
def straying(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "straying.py"
    path.write_text(STRAYING)
    return str(path)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_that_runs_away_is_ended(tiny_set: Path, tmp_path: Path, straying: str, processes: int):
    """It goes back to the epoch before the labels set in, the second; the report says so."""
    settings = {**TINY, "train.epochs": 6, "processes": processes}
    run = tagseg.fit(tiny_set, tmp_path / "run", recipe=straying, settings=settings, until="premise", quiet=True).folder
    epochs = read_json(run / "train" / "stage.json")["values"]["epochs"]
    assert [epoch.get("terms", {}).get("apart") for epoch in epochs] == [None, None, 1.0, 0.5, 1.1]
    assert [epoch.get("kept") for epoch in epochs] == [None, True, None, None, None]
    assert read_premise(run).kept_epoch == 2
    assert "it was ended; its maps are those of the network after epoch 2" in read_premise(run).sentences[-1]
    kept = load_file(run / "train" / "classifier.safetensors")
    second = torch.load(Path(straying).with_name("second.pt"), weights_only=True)
    assert all(torch.equal(value, second[name]) for name, value in kept.items())


@pytest.mark.parametrize("epochs", [6, 5])
def test_what_was_ended_stays_so(
    tiny_set: Path,
    tmp_path: Path,
    straying: str,
    epochs: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Killed between the end of the training and that of the stage, it goes on with the same network.

    It runs away in the fifth epoch, which may be the last one.
    """
    run, settings = tmp_path / "run", {**TINY, "train.epochs": epochs}

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tagseg.pipeline.stages.train.save_classifier", killed)
    with pytest.raises(KeyboardInterrupt):
        tagseg.fit(tiny_set, run, recipe=straying, settings=settings, until="train", quiet=True)
    monkeypatch.undo()
    tagseg.fit(tiny_set, run, recipe=straying, settings=settings, until="train")
    assert "ended after epoch 5, for the maps agree less with the labels" in capsys.readouterr().out
    other = tmp_path / "other"
    tagseg.fit(tiny_set, other, recipe=straying, settings=settings, until="train", quiet=True)
    one, two = (load_file(path / "train" / "classifier.safetensors") for path in (run, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [len(read_json(path / "train" / "stage.json")["values"]["epochs"]) for path in (run, other)] == [5, 5]
