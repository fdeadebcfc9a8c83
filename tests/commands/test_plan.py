"""What a run would do."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tagseg
from tagseg.cli import app
from tagseg.commands import plan as planning
from tagseg.data.reading import read_dataset
from tagseg.files import read_json
from tagseg.pipeline.settings import resolve
from tests.conftest import TINY

KTSE: dict[str, Any] = {**TINY, "train.epochs": 5, "train.batch_size": 4, "train.warmup": 0.4, "train.width": 16}


def test_it_says_what_a_run_does(tiny_set: Path, tmp_path: Path):
    """As many steps and photographs as the run then has, and about as long."""
    data = read_dataset(tiny_set)
    found = tagseg.plan(tiny_set, recipe="ktse", settings=KTSE, out=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())
    work = {piece.name: piece for piece in found.work}
    assert (work["train, warm-up"].count, work["train"].count) == (2 * 3, 3 * 3)
    assert (work["segment"].count, work["segment"].batch) == (2 * 3, 4)
    assert work["mine"].count == len(data.train)
    assert work["report"].count == len(data.val)
    assert all(piece.seconds > 0 for piece in found.work)
    assert found.disk > 0
    assert found.memory[0] > 1e8
    tagseg.fit(tiny_set, tmp_path / "run", recipe="ktse", settings=KTSE, quiet=True)
    seconds = sum(e["seconds"] for e in read_json(tmp_path / "run/train/stage.json")["values"]["epochs"])
    planned = work["train"].total + work["train, warm-up"].total
    assert planned / 8 < seconds < 8 * planned  # a few photographs on a machine that does other things too


def test_processes_share_the_steps(tiny_set: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    small = planning._small
    monkeypatch.setattr(planning, "_small", lambda settings, of: seen.append(settings) or small(settings, of))
    learnt = {"masks.refine": "irn", "masks.irn.side": 64, "masks.irn.radius": 3, "masks.irn.batch_size": 6}
    settings = {**TINY, **learnt, "segment.batch_size": 3}
    found = tagseg.plan(tiny_set, recipe="cam", settings=settings, processes=4, quiet=True)
    assert seen[0].processes == 1  # the trial itself
    shared = {piece.name: piece.processes for piece in found.work if piece.unit == "steps"}
    assert shared == {"train": 4, "affinity": 4, "segment": 3}
    assert (seen[0].accumulate, seen[0].segment.batch_size) == (1, 3)


def test_what_is_not_shared_and_what_is_shared_by_the_smaller_batch():
    chosen = resolve("photos/cam", {"processes": 4})
    assert {name: t.processes for name, t in planning._trainings(chosen).items()} == {
        "train": 4,
        "relabel": 1,
        "segment": 1,
    }
    ktse = planning._trainings(resolve("voc/ktse", {"processes": 16}))
    assert (ktse["train"].processes, ktse["train"].warm, ktse["affinity"].processes) == (8, 10, 16)
    assert (ktse["segment"].processes, ktse["segment"].part) == (8, 2)  # pairs of BECO are not parted


def test_the_default_recipe_and_the_command(tiny_set: Path, tmp_path: Path):
    sets = {
        **{k: v for k, v in TINY.items() if k in ("backbone", "weights")},
        "encoder.name": "test_vit",
        "encoder.weights": "random",
        "encoder.side": 64,
        "train.side": 65,
        "mine.side": 65,
    }
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(app, ["plan", str(tiny_set), "--out", str(tmp_path), "--quiet", *words])
    assert done.exit_code == 0, done.output
    for name in ("| features |", "| frozen |", "| relabel | 3 steps | 16 |", "| segment | 20 steps |", "Memory:"):
        assert name in done.output


def test_what_will_not_fit_is_refused(tiny_set: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "room_mb", lambda *_: 1e12)
    with pytest.raises(tagseg.BadInput, match="are free"):
        tagseg.plan(tiny_set, recipe="cam", settings=TINY, quiet=True)
