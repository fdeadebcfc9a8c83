"""Methods beside each other."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import tagseg
from tagseg.cli import app
from tagseg.commands import compare as comparing
from tagseg.commands.compare import rows_of
from tagseg.data.reading import read_dataset
from tagseg.data.synthetic import make_synthetic
from tagseg.errors import BadInput
from tagseg.pipeline import timing
from tagseg.pipeline.settings import known_settings, resolve
from tagseg.pipeline.timing import for_seconds, for_updates, updates_of
from tests.conftest import TINY

SETTINGS: dict[str, Any] = {
    **{k: v for k, v in TINY.items() if k.split(".")[0] in ("backbone", "weights", "train", "mine")},
    "encoder.name": "test_vit",
    "encoder.weights": "random",
    "encoder.side": 64,
}
ROWS = {"plain": ("cam", {}), "L2G, 1 view": ("l2g", {"train.views": 1, "train.epochs": 2})}


def compared(data: Path, out: Path, **how: Any) -> Any:
    given: dict[str, Any] = {"rows": ROWS, "seeds": [0, 1], "refine": ["none", "proxy+crf"], "quiet": True}
    return tagseg.compare(data, out, settings=SETTINGS, **{**given, **how})


def test_a_table_a_page_and_a_line_for_every_run(tiny_set: Path, tmp_path: Path):
    out = tmp_path / "out"
    found = compared(tiny_set, out, updates=4)
    assert found.rows == ["plain", "L2G, 1 view"]
    assert [run.seed for run in found.of("plain")] == [0, 1]
    assert all(run.updates >= 4 for run in found.runs)
    assert all(0 <= run.numbers[chain].miou <= 100 for run in found.runs for chain in ("none", "proxy+crf"))
    lines = list(csv.DictReader((out / "compare.csv").read_text().splitlines()))
    assert [(line["row"], line["seed"]) for line in lines] == [(r, str(s)) for r in found.rows for s in (0, 1)]
    assert float(lines[0]["none:miou"]) == found.runs[0].numbers["none"].miou
    assert lines[0]["machine"]
    head = (out / "compare.csv").read_text().splitlines()[0].split(",")
    assert len(set(head)) == len(head)
    assert lines[2]["recipe"] == "l2g"
    page = (out / "compare.html").read_text()
    assert "L2G, 1 view" in page
    assert "data:image" in page
    assert Image.open(out / "gallery.jpg").size[0] > 300
    assert "plain" in (out / "compare.md").read_text()
    # of fewer photographs, without training again
    fewer = compared(tiny_set, out, updates=4, measure=2)
    assert (fewer.measured, found.measured) == (2, len(read_dataset(tiny_set).train))
    assert fewer.runs[0].numbers != found.runs[0].numbers
    assert fewer.runs[0].premise == found.runs[0].premise
    # again, with a chain and a seed more: what is done stays
    before = {p: p.stat().st_mtime_ns for p in out.rglob("train/classifier.safetensors")}
    again = compared(tiny_set, out, updates=4, seeds=[0], refine=["none", "crf"])
    assert {p: p.stat().st_mtime_ns for p in out.rglob("train/classifier.safetensors")} == before
    assert again.runs[0].numbers["none"] == found.runs[0].numbers["none"]


def test_what_is_covered_in_the_end(tiny_set: Path, tmp_path: Path):
    """Plain CAM makes no other maps of those that it starts from; a comparison without these numbers gets them."""
    how: dict[str, Any] = {"rows": {"plain": ROWS["plain"]}, "seeds": [0], "refine": ["none", "proxy"]}
    (run,) = compared(tiny_set, tmp_path, **how).runs
    found = run.numbers["none"]
    assert (found.recall, found.noise) == (run.premise.recall, run.premise.noise)
    assert run.numbers["proxy"].recall not in (None, found.recall)
    kept = tmp_path / "runs" / "plain" / "seed0" / "compare.json"
    told = json.loads(kept.read_text())
    for numbers in told["numbers"].values():
        del numbers["recall"], numbers["noise"]
    kept.write_text(json.dumps(told))
    assert compared(tiny_set, tmp_path, **how).runs[0].numbers == run.numbers
    line = next(csv.DictReader((tmp_path / "compare.csv").read_text().splitlines()))
    assert float(line["proxy:noise"]) == run.numbers["proxy"].noise


def test_seeds_that_ran_away_and_were_ended_are_named(tiny_set: Path, tmp_path: Path):
    found = compared(tiny_set, tmp_path, rows={"plain": ROWS["plain"]}, refine=["none"], updates=4)
    assert found.cells("plain")[found.columns().index("updates")].isdigit()
    assert not any("ran away" in sentence for sentence in found.premises("plain"))
    first, second = found.runs
    premise = second.premise.model_copy(update={"kept_epoch": 1})
    ended = second.model_copy(update={"updates": 2, "premise": premise})
    other = replace(found, runs=(first, ended))
    assert other.cells("plain")[found.columns().index("updates")] == f"2 to {first.updates}"
    assert "network of the warm-up kept, of seed 1." in other.markdown()
    assert [line["kept_epoch"] for line in csv.DictReader(other.csv().splitlines())] == ["", "1"]


def test_the_machine_is_that_of_the_training(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Photographs that were copied meanwhile are looked at anew, by whatever machine that is."""
    data = tmp_path / "set"
    shutil.copytree(tiny_set, data)
    rows = {"plain": ("cam", {})}
    first = compared(data, tmp_path / "out", rows=rows, seeds=[0], refine=["none"])
    for photo in (data / "images").iterdir():
        os.utime(photo, (1, 1))
    monkeypatch.setattr(comparing, "machine_in_words", lambda: "another one")
    again = compared(data, tmp_path / "out", rows=rows, seeds=[0], refine=["none"])
    assert again.runs[0].machine == first.runs[0].machine
    assert again.runs[0].seconds == first.runs[0].seconds


def test_frozen_features_are_computed_once(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tagseg.pipeline.stages import frozen

    made = []
    store = frozen.store_features
    monkeypatch.setattr(frozen, "store_features", lambda *a: made.append(len(a[1])) or store(*a))
    rows = {"one": ("cam", {"train.frozen": True}), "two": ("acol", {"train.frozen": True})}
    compared(tiny_set, tmp_path / "out", rows=rows, refine=["none"])
    assert len(made) == 1


def test_runs_at_the_same_time_learn_the_same(tiny_set: Path, tmp_path: Path):
    rows = {"CAM": ("cam", {"train.frozen": True}), "OAA": ("oaa", {"train.frozen": True}), "plain": ("cam", {})}
    how = {"rows": rows, "seeds": [0], "refine": ["none", "proxy"]}
    one, two = (compared(tiny_set, tmp_path / str(jobs), jobs=jobs, **how) for jobs in (1, 2))
    assert [run.row for run in two.runs] == ["CAM", "OAA", "plain"]
    assert [run.numbers for run in two.runs] == [run.numbers for run in one.runs]
    features = [tmp_path / "2" / "runs" / row / "seed0" / "frozen" for row in ("CAM", "OAA")]
    first, second = (next(folder.glob("*.safetensors")) for folder in features)
    assert first.samefile(second)


def test_what_cannot_be_compared_is_said(tiny_set: Path, tmp_path: Path):
    for how, message in (
        ({"updates": 1, "seconds": 1.0}, "not both"),
        ({"seeds": []}, "at least one seed"),
        ({"jobs": 0}, "at least one"),
        ({"jobs": 2, "seconds": 5.0}, "slow each other down"),
        ({"jobs": 2, "rows": {"a": ("cam", {"processes": 2})}}, "every job has one GPU"),
        ({"refine": ["irn"]}, "learns from all photographs"),
        ({"refine": ["prox"]}, "did you mean 'proxy'"),
        ({"rows": ["camm"]}, "did you mean 'cam'"),
        ({"rows": "nowhere.yaml"}, "there is no such table"),
        ({"rows": {"a": ("cam", {"train.epoch": 3})}}, "did you mean .epochs"),
        ({"rows": {"a b": ("cam", {}), "a_b": ("acol", {})}}, "would lie in one folder"),
    ):
        with pytest.raises(BadInput, match=message):
            compared(tiny_set, tmp_path / "out", **how)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(BadInput, match="holds something else"):
        compared(tiny_set, tmp_path / "mine")
    bare = make_synthetic(tmp_path / "bare", train=4, val=2, sides=(40, 61))
    for mask in (bare / "masks").iterdir():
        mask.unlink()
    with pytest.raises(BadInput, match="nothing to compare by"):
        compared(bare, tmp_path / "other")


def test_a_setting_for_all_rows_makes_no_other_method_of_one():
    """OAA with settings of a second network would be OAA+."""
    given = {"train.epochs": 3, "train.integral.epochs": 4, "mine.side": 65}
    assert known_settings("oaa", given) == {"train.epochs": 3, "mine.side": 65}
    assert known_settings("oaa+", given) == given
    assert known_settings("cam", given) == {"train.epochs": 3, "mine.side": 65}
    assert known_settings("cam", {"train.views": 3}) == {}


@pytest.mark.parametrize("recipe", ["cam", "oaa+", "l2g", "afa", "toco", "dupl", "ss-epa", "mctformer+"])
@pytest.mark.parametrize("stride", [0, 8, "all"])
def test_every_row_takes_the_early_stride(recipe: str, stride: Any):
    """Or has no such setting; a second network stays as it is where the first one does."""
    train = resolve(recipe, known_settings(recipe, {"train.early_stride": stride})).train
    assert getattr(train, "early_stride", stride) == stride
    if train.successor is not None:
        assert (train.successor.early_stride == "all") == (stride == "all")
        stored = resolve("mini/oaa+", {"train.early_stride": stride}).train.successor
        assert (stored.frozen, stored.early_stride == "all") == (True, stride == "all")


def test_seconds_are_those_of_the_networks_that_a_row_has(tiny_set: Path, tmp_path: Path):
    told: dict[str, Any] = {"seeds": [0], "refine": ["none"]}
    both = compared(tiny_set, tmp_path / "out", rows={"OAA": ("oaa+", {"train.integral.epochs": 1})}, **told)
    one = compared(tiny_set, tmp_path / "out", rows={"OAA": ("oaa", {})}, **told)
    assert (tmp_path / "out/runs/OAA/seed0/integral/stage.json").exists()  # of before
    assert one.runs[0].seconds < both.runs[0].seconds


def test_rows_from_a_file(tmp_path: Path):
    path = tmp_path / "rows.yaml"
    path.write_text("plain: cam\nlong:\n  recipe: oaa+\n  train.epochs: 30\n")
    assert [(r.name, r.recipe, dict(r.settings)) for r in rows_of(path)] == [
        ("plain", "cam", {}),
        ("long", "oaa+", {"train.epochs": 30}),
    ]
    for text in ("", "a: [1]\n", "a:\n  train.epochs: 3\n", "- cam\n", "a: *b\n"):
        path.write_text(text)
        with pytest.raises(BadInput, match="rows"):
            rows_of(path)


def test_every_table_that_comes_with_tagseg_can_be_read():
    from tagseg.commands.compare import _ROWS

    names = [f.name[:-5] for f in _ROWS.iterdir() if f.name.endswith(".yaml")]
    assert names
    for name in names:
        for row in rows_of(name):
            resolve(row.recipe, dict(row.settings))


def test_equal_updates():
    for recipe in ("cam", "ktse", "oaa+"):
        settings = for_updates(recipe, {}, 490, 300)
        train = resolve(recipe, settings).train
        networks = 1 if train.successor is None else 2
        assert updates_of(train, 490) == pytest.approx(300 * networks, rel=0.1)


def test_equal_time(tiny_set: Path):
    """Twice the time is about twice the epochs, of both networks."""
    given = {k: v for k, v in SETTINGS.items() if k != "train.epochs"}
    found = [for_seconds("oaa+", given, read_dataset(tiny_set), seconds) for seconds in (20.0, 200.0)]
    for key in ("train.epochs", "train.integral.epochs"):
        assert 1 <= found[0][key] < found[1][key]


def test_what_is_loaded_once_is_no_time_of_training(tiny_set: Path, monkeypatch: pytest.MonkeyPatch):
    """The first epoch of either phase pays for it; an estimate with it once left a method a third of its time."""
    seen: list[dict[str, Any]] = []

    def timed(_: Any, run: Path, *, settings: dict[str, Any], **how: Any):
        seen.append(settings)
        (run / "train").mkdir(parents=True)
        epochs = [{"seconds": seconds} for seconds in (50, 10, 50, 20)]
        (run / "train" / "stage.json").write_text(json.dumps({"values": {"epochs": epochs}}))

    monkeypatch.setattr(timing, "fit", timed)
    data = read_dataset(tiny_set)
    assert len(data.train) <= timing.BATCHES * resolve("ktse", SETTINGS).train.batch_size  # all are seen, so that
    settings = {**SETTINGS, "train.warmup": 0.25}  # an epoch takes 17.5 seconds: a quarter is warm-up
    assert for_seconds("mini/ktse", settings, data, 175.0)["train.epochs"] == 10
    asked = resolve("mini/ktse", seen[0])
    assert asked.train.epochs * asked.train.warmup == 2
    assert asked.masks.refine == "none"  # what comes after the maps is not prepared


def test_on_the_command_line(tiny_set: Path, tmp_path: Path):
    runner = CliRunner()
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    command = ["compare", str(tiny_set), "--out", str(tmp_path / "out"), "--seeds", "3", "--refine", "none", "--quiet"]
    done = runner.invoke(app, [*command, "--methods", "cam", *sets])
    assert done.exit_code == 0, done.output
    assert "| cam |" in done.output
    done = runner.invoke(app, ["check-method", str(tmp_path / "out" / "runs" / "cam" / "seed3")])
    assert done.exit_code == 0
    assert "of the tags of its own training photographs" in done.output
    for words, message in (
        ([*command], "--methods"),
        ([*command, "--methods", "cam", "--rows", "a.yaml"], "one of the two"),
        (["check-method", str(tmp_path)], "no run here"),
    ):
        with pytest.raises(BadInput, match=message):
            runner.invoke(app, words, catch_exceptions=False)
