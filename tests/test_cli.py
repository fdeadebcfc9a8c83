"""The command as a person types it, in its own process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY
from tests.data.trees import folder, photo


def tagseg(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tagseg.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_fit_predict_evaluate(tiny_set: Path, tiny_run: Any, tmp_path: Path):
    sets = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    fitted = tagseg("fit", tiny_set, "--out", tmp_path / "run", "--method", "cam", *sets)
    assert fitted.returncode == 0, fitted.stderr
    assert "segmentation, evaluation" in fitted.stdout
    assert str(tmp_path / "run" / "report.html") in fitted.stdout
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics == tiny_run.metrics.present()  # the command and the Python call are the same

    val = (tiny_set / "val.txt").read_text().split()
    photos = [tiny_set / "images" / f"{name}.png" for name in val]
    predicted = tagseg("predict", tmp_path / "run", *photos, "--out", tmp_path / "pred", "--quiet")
    assert predicted.stdout == f"{len(val)} masks in {tmp_path / 'pred'}\n"
    evaluated = tagseg(
        "evaluate", tmp_path / "pred", tiny_set / "masks",
        "--classes", tiny_set / "classes.txt", "--out", tmp_path / "e.json",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    assert "redfin" in evaluated.stdout
    assert json.loads((tmp_path / "e.json").read_text())["miou"] == metrics["val"]["segmentation"]["miou"]


def test_check_says_everything_at_once(tmp_path: Path):
    folder(tmp_path, "a,cat\nb,\nz,cat\n")
    (tmp_path / "images/b.jpg").write_bytes(b"no photograph")
    done = tagseg("check", tmp_path, "--quiet")
    assert done.returncode == 2
    assert "there is no photograph 'z'" in done.stdout
    assert "b.jpg: this is not an image" in done.stdout
    assert "c.jpg: the photograph has no row" in done.stdout
    assert "3 problems" in done.stdout


def test_check_of_a_good_set(tiny_set: Path):
    done = tagseg("check", tiny_set, "--quiet")
    assert done.returncode == 0
    assert "10 training and 4 evaluation photographs, 14 with masks" in done.stdout
    assert "nothing is wrong" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fit", "nowhere", "--out", "run"), "nowhere: there is no such folder"),
        (("fit", "data", "--out", "run", "--recipe", "cma"), "did you mean 'cam'"),
        (("fit", "data", "--out", "run", "--set", "train.epoch=3"), "did you mean 'epochs'"),
        (("fit", "data", "--out", "run", "--backbone", "resnet5O", "--weights", "random"), "did you mean 'resnet50'"),
        (("fit", "data", "--out", "run", "--refine", "irm"), "did you mean 'irn'"),
        (("refine", "data", "--masks", "nowhere", "--out", "masks"), "nowhere: there is no such folder"),
        (("predict", "data", "data", "--out", "masks", "--crf", "deeplap"), "did you mean 'deeplab'"),
        (("predict", "data", "data", "--out", "masks"), "no trained model here"),
        (("predict", "data", "data", "--out", "masks", "--scales", "a"), "--scales a"),
        (("evaluate", "data", "nowhere"), "nowhere: there is no such folder"),
        (("check", "data", "--tags", "json"), "give xml or masks"),
        (("recipes", "cma"), "did you mean 'cam'"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
):
    folder(tmp_path / "data", "a,cat\nb,cat\nc,\n")
    monkeypatch.chdir(tmp_path)
    done = tagseg(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("tagseg: ")
    assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_recipes_are_listed_and_shown():
    assert "voc/cam" in tagseg("recipes").stdout
    assert "learning_rate: 0.00025" in tagseg("recipes", "voc/cam").stdout


def test_help_is_there_at_once():
    script = "import sys, tagseg.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
    assert "--skip-bad" in tagseg("fit", "--help").stdout
    assert tagseg("--version").stdout == "0.1.0\n"


def test_coco_photographs_are_found_by_the_command(tmp_path: Path):
    pytest.importorskip("pycocotools")
    from tests.data.test_coco import coco

    photo(coco(tmp_path) / "train2014" / "unlisted.jpg")
    assert "2 training and 0 evaluation" in tagseg("check", tmp_path, "--quiet").stdout
