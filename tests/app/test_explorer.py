import io
import json
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tagseg.app import explorer as module
from tagseg.app.explorer import Explorer, View, corners, read_picture
from tagseg.errors import BadInput

MODELS = {"small": ("timm:test_resnet", "random")}


@pytest.fixture(scope="module")
def explorer(tiny_set):
    torch.manual_seed(0)
    return Explorer(MODELS, tiny_set / "images", sorted((tiny_set / "images").iterdir())[:3], side=64)


@pytest.fixture
def view(explorer) -> View:
    return View("small", explorer.picture(explorer.pictures()[0]))


def test_classes_then_channels_down_to_the_first_stage(explorer, view):
    options = explorer.classes(view)
    assert len(options) == module.CLASSES
    here = options[1].view
    steps = 0
    while below := explorer.channels(here):
        assert explorer.layer_below(here)
        assert len(below) <= module.CHANNELS
        assert all(option.picture.dtype == np.uint8 for option in below)
        here = below[-1].view
        steps += 1
        assert len(explorer.trail(here)) == steps + 1
        assert [words for _, words in explorer.details(here)][:2] == [
            "what its peak looks at",
            "guided gradients there",
        ]
    assert steps >= 3
    assert explorer.layer_below(here) is None
    assert explorer.picture_of(here).shape[2] == 3
    assert explorer.picture_of(here).shape == explorer.picture_of(view).shape


def test_hiding_changes_the_scores_and_showing_gives_them_back(explorer, view):
    before = explorer.scores(view)
    assert all(whole == now for _, whole, now in before)
    hidden = explorer.hide(view, (0.1, 0.1, 0.9, 0.9))
    assert any(whole != now for _, whole, now in explorer.scores(hidden))
    channel = explorer.channels(hidden)[0].view
    twice = explorer.hide(channel)
    assert len(twice.hidden) == 2
    assert twice.path == ()
    assert explorer.scores(replace(twice, hidden=(), number=None)) == before
    with pytest.raises(BadInput, match="choose a channel first"):
        explorer.hide(view)
    with pytest.raises(BadInput, match="too small"):
        explorer.hide(view, (0.5, 0.5, 0.5, 0.6))


def test_corners_in_any_order():
    assert corners((40, 10), (20, 30), (100, 80)) == (0.25, 0.1, 0.5, 0.3)


def test_the_tree_as_an_archive(explorer, view):
    packed = explorer.tree(replace(view, number=2), top=1, levels=2)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = archive.namelist()
        described = json.loads(archive.read("tree.json"))
    assert "pyramid.png" in names
    assert described["number"] == 2
    assert described["children"][0]["pictures"]["map"] in names
    assert "/" not in described["photograph"]


def test_pictures_that_are_none_are_refused(explorer, tmp_path, monkeypatch):
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    for answer in (explorer.classes, explorer.channels, explorer.picture_of):
        with pytest.raises(BadInput, match=r"^notes\.txt"):
            answer(View("small", text))
    wide = tmp_path / "wide.png"
    Image.new("L", (60, 50)).save(wide)
    monkeypatch.setattr(module, "MAX_PIXELS", 2000)
    with pytest.raises(BadInput, match=r"^wide\.png.*60 x 50 pixels, more than the limit"):
        read_picture(wide)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(BadInput, match="MB"):
        read_picture(wide)
    with pytest.raises(BadInput, match="not among those"):
        explorer.classes(View("other", wide))
    for name in ("../labels.csv", "/etc/passwd", "none.jpg"):
        with pytest.raises(BadInput, match="not in the folder"):
            explorer.picture(name)


def test_large_pictures_are_shrunk(tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (3000, 1500), (9, 99, 199)).save(path)
    assert read_picture(path).shape == (450, 900, 3)


def test_no_more_pictures_are_remembered_than_said(explorer, view, monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    for step in range(4):
        explorer.scores(replace(view, hidden=((0, 0, 0.2 + 0.1 * step, 0.5),)))
    assert len(explorer._opened) <= 2


def test_questions_may_come_at_once(explorer, view):
    told = []

    def ask() -> None:
        told.append(explorer.trail(explorer.channels(view)[0].view))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 4
    assert all(words == told[0] for words in told)


def test_channels_that_were_never_shown_are_told(explorer, view):
    with pytest.raises(BadInput, match="not among those that were shown"):
        explorer.trail(replace(view, path=((0, 0, 0, 0),)))
