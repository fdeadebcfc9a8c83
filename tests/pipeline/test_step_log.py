"""What is said of every few steps of training."""

import csv
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

import tagseg
from tagseg.errors import BadInput
from tagseg.files import read_json
from tagseg.methods.ktse import KTSE
from tagseg.pipeline import step_log
from tests.conftest import TINY, interrupted_in

SETTINGS = {**TINY, "train.epochs": 2, "log.every": 1}


def lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_term_of_every_step(tiny_set: Path, tmp_path: Path):
    tagseg.fit(tiny_set, tmp_path / "run", recipe="ktse", settings=SETTINGS, until="train", quiet=True)
    found = lines(tmp_path / "run/train/log.csv")
    epochs = read_json(tmp_path / "run/train/stage.json")["values"]["epochs"]
    assert [int(line["step"]) for line in found] == list(range(1, len(found) + 1))
    assert {line["epoch"] for line in found} == {"1", "2"}
    for number, epoch in enumerate(epochs, start=1):
        own = [line for line in found if line["epoch"] == str(number)]
        assert sum(float(line["loss"]) for line in own) / len(own) == pytest.approx(epoch["loss"], rel=1e-3)
        for term, mean in (epoch.get("terms") or {}).items():
            told = [float(line[term]) for line in own if line[term]]
            assert sum(told) / len(told) == pytest.approx(mean, rel=1e-3, abs=1e-4)
    assert all(float(line["gradient_norm"]) > 0 for line in found)
    assert all(float(line["images_per_second"]) > 0 for line in found)
    assert all(0 <= float(line["waiting"]) <= 1 for line in found)
    rates = [float(line["rate"]) for line in found]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) > 1


def test_what_is_done_again_is_written_once(tiny_set: Path, tmp_path: Path):
    how: dict[str, Any] = {"recipe": "ktse", "settings": SETTINGS, "until": "train", "quiet": True}
    with interrupted_in(KTSE, epoch=1):
        tagseg.fit(tiny_set, tmp_path / "run", **how)
    log = tmp_path / "run/train/log.csv"
    before = lines(log)
    with log.open("a", encoding="utf-8") as file:
        file.write("99,2,0.1\n")  # of a step that will be done again
    tagseg.fit(tiny_set, tmp_path / "run", **how)
    steps = [int(line["step"]) for line in lines(log)]
    assert steps == list(range(1, len(steps) + 1))
    first = [line for line in before if line["epoch"] == "1"]
    assert [line["loss"] for line in lines(log)][: len(first)] == [line["loss"] for line in first]
    shutil.rmtree(tmp_path / "run")
    fewer = {**SETTINGS, "log.every": 2}
    tagseg.fit(tiny_set, tmp_path / "run", **{**how, "settings": fewer})
    assert [int(line["step"]) for line in lines(log)] == sorted({*steps[1::2], steps[-1]})
    shutil.rmtree(tmp_path / "run")
    tagseg.fit(tiny_set, tmp_path / "run", **{**how, "settings": {**SETTINGS, "log.every": 1000}})
    assert [int(line["step"]) for line in lines(log)] == steps[-1:]


def test_a_logger_is_told_the_same(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lightning.pytorch.loggers import CSVLogger

    monkeypatch.setattr(step_log, "TensorBoardLogger", lambda folder, **how: CSVLogger(folder, **how))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    settings = {**SETTINGS, "log.to": "tensorboard"}
    tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=settings, until="train", quiet=True)
    own, told = (lines(tmp_path / "run" / p) for p in ("train/log.csv", "tensorboard/train/metrics.csv"))
    assert [float(line["loss"]) for line in told] == pytest.approx([float(line["loss"]) for line in own], rel=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="it is installed")
def test_what_is_not_installed_is_said_at_once(tiny_set: Path, tmp_path: Path):
    with pytest.raises(BadInput, match="pip install wandb"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings={**TINY, "log.to": "wandb"}, quiet=True)
    assert not (tmp_path / "run").exists()
