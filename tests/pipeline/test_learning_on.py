"""A run that starts from an earlier one (`--weights RUN`), which may have known fewer classes, in another order."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tagseg
from tagseg.files import read_json
from tagseg.networks.weights import take_over, weights_digest
from tests.conftest import TINY

STILL = {"train.learning_rate": 1e-12, "train.epochs": 1, "segment.learning_rate": 1e-12, "segment.epochs": 1}


def test_rows_go_by_names_and_the_rest_as_it_is():
    torch.manual_seed(0)
    before, now = torch.nn.Linear(4, 3), torch.nn.Linear(4, 4)
    start = now.weight.detach().clone()
    assert take_over(now, before.state_dict(), ["a", "b", "c"], ["c", "new", "a", "other"]) == ["c", "a"]
    torch.testing.assert_close(now.weight[0], before.weight[2])
    torch.testing.assert_close(now.weight[2], before.weight[0])
    torch.testing.assert_close(now.bias[2], before.bias[0])
    torch.testing.assert_close(now.weight[1], start[1])
    torch.testing.assert_close(now.weight[3], start[3])
    other = torch.nn.Linear(5, 3)
    kept = other.weight.detach().clone()
    take_over(other, before.state_dict(), ["a", "b", "c"], ["a", "b", "c"])
    torch.testing.assert_close(other.weight, kept)  # of another width


def test_a_run_goes_on_with_classes_in_another_order(tiny_run: Any, tiny_set: Path, tmp_path: Path, capsys: Any):
    data = Path(shutil.copytree(tiny_set, tmp_path / "data"))
    shutil.rmtree(data / "masks")
    names = (data / "classes.txt").read_text().split("\n")
    classes = [name for name in names if name and name not in ("background", "__ignore__")]
    turned = [*reversed(classes), "something new"]
    (data / "classes.txt").write_text("\n".join(turned) + "\n")
    settings = {**TINY, **STILL, "weights": str(tiny_run.folder)}
    result = tagseg.fit(data, tmp_path / "run", recipe="cam", settings=settings)
    assert f"which knows {len(classes)} of {len(turned)} classes" in capsys.readouterr().out
    before, after = (
        load_file(folder / "train" / "classifier.safetensors") for folder in (tiny_run.folder, result.folder)
    )
    known = read_json(tiny_run.folder / "train" / "classifier.json")["classes"]
    rows = [known.index(name) for name in turned[:-1]]
    torch.testing.assert_close(after["classifier.weight"][:-1], before["classifier.weight"][rows], atol=1e-6, rtol=1e-5)
    key = next(k for k in before if k.startswith("backbone.") and before[k].ndim == 4)
    torch.testing.assert_close(after[key], before[key], atol=1e-6, rtol=1e-5)
    photo = next((data / "images").iterdir())
    old, new = tagseg.load(tiny_run.folder), tagseg.load(result.folder)
    sure = old.probabilities(photo)[[0, *(known.index(name) + 1 for name in turned[:-1])]]
    found = new.probabilities(photo)[:-1]
    np.testing.assert_allclose(
        found[1:] / found[:1], sure[1:] / sure[:1], rtol=0.15
    )  # norms have seen the new photographs


def test_no_run_starts_from_itself(tiny_run: Any, tiny_set: Path, tmp_path: Path):
    out = Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    with pytest.raises(tagseg.BadInput, match="cannot start from itself"):
        tagseg.fit(tiny_set, out, recipe="cam", settings={**TINY, "weights": str(out)}, quiet=True)
    assert weights_digest(str(out)) == weights_digest(str(tiny_run.folder))
    settings = {**TINY, "backbone": "test_efficientnet", "weights": str(out)}
    with pytest.raises(tagseg.BadInput, match="do not fit the backbone"):
        tagseg.fit(tiny_set, tmp_path / "other", recipe="cam", settings=settings, quiet=True)
