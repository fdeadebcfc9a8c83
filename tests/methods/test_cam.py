"""CAM where one class is to be named: a softmax over all classes."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tagseg
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput
from tagseg.explaining.classifiers import load_classifier
from tests.conftest import TINY
from tests.methods.any_method import built


def test_the_softmax_of_the_tags_is_learnt(monkeypatch: pytest.MonkeyPatch):
    network: Any = built("cam", ("a", "b", "c"), loss="softmax").eval()
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [1.0, 1.0, 1.0]])
    monkeypatch.setattr(network, "tag_logits", lambda *_: logits)
    monkeypatch.setattr(network, "log", lambda *_: None)
    tags = torch.tensor([[1.0, 0, 0], [1.0, 1.0, 0], [0, 0, 0]])  # one tag, two of them, none
    batch = {"image": torch.zeros(3, 3, 49, 49), "tags": tags, "inside": torch.tensor([[0, 49, 0, 49]] * 3)}
    said = logits.log_softmax(dim=1)
    expected = -(said[0, 0] + (said[1, 0] + said[1, 1]) / 2) / 3
    torch.testing.assert_close(network.training_step(batch, 0), expected)
    assert torch.equal(network.probabilities(logits), logits.softmax(dim=1))
    assert torch.equal(built("cam", ("a", "b", "c")).probabilities(logits), logits.sigmoid())


def test_a_run_names_one_class(tiny_set: Path, tmp_path: Path):
    settings = {**TINY, "train.loss": "softmax"}
    run = tagseg.fit(tiny_set, tmp_path / "run", recipe="adl", settings=settings, until="premise", quiet=True).folder
    name = read_dataset(tiny_set).train[0].name
    assert MapStore(run / "mine").read(name).tag_probabilities.sum() == pytest.approx(1, abs=0.01)
    classifier = load_classifier(run)
    assert classifier.exclusive
    assert classifier.probabilities(torch.zeros(1, 4)).sum() == 1
    with pytest.raises(BadInput, match=r"no setting 'train\.loss'"):
        tagseg.fit(tiny_set, tmp_path / "other", recipe="eps", settings=settings, quiet=True)
