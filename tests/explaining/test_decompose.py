import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tagseg
from tagseg.errors import BadInput
from tagseg.explaining.classifiers import load_classifier
from tagseg.explaining.excitation import find_excitations
from tagseg.explaining.patches import scaled

MODEL = "timm:test_resnet"


def decompose(images: Path, out: Path, **options: object) -> list:
    return tagseg.decompose([images], MODEL, out, weights="random", side=64, quiet=True, **{"top": 2, **options})


def test_a_tree_with_its_pictures(tiny_set, tmp_path):
    photo = sorted((tiny_set / "images").iterdir())[0]
    done = decompose(photo, tmp_path, classes=["3"], levels=2, patches=tiny_set / "images")
    folder = done[0].folder
    assert folder.parent == tmp_path
    described = json.loads((folder / "tree.json").read_text())
    assert described["number"] == 3
    assert described["score"] == pytest.approx(done[0].tree.score)
    assert len(described["layers"]) > 1
    count = 0
    waiting = list(described["children"])
    while waiting:
        node = waiting.pop()
        waiting += node["children"]
        count += 1
        for picture in node["pictures"].values():
            with Image.open(folder / picture) as image:
                assert image.size[0] > 0
        assert "excited_by" in node["pictures"] or node["peak"]["value"] <= 0
        assert node["contribution"] > 0
        assert {"layer", "channel", "share", "peak", "box", "merged", "grid"} <= node.keys()
    assert count == sum(1 for _ in done[0].tree.nodes())
    with Image.open(folder / "pyramid.png") as image:
        assert image.size[0] > 1000


def test_the_highest_score_and_the_command(tiny_set, tmp_path, capsys):
    from tagseg.cli import app

    photo = sorted((tiny_set / "images").iterdir())[0]
    arguments = [
        "decompose",
        str(photo),
        "--model",
        MODEL,
        "--weights",
        "random",
        "--side",
        "64",
        "-q",
        "--levels",
        "1",
    ]
    app([*arguments, "--out", str(tmp_path), "--top", "2", "--class", "0,1"], standalone_mode=False)
    said = capsys.readouterr().out.strip().splitlines()
    assert len(said) == 2
    assert all(Path(line.split(", ", 1)[1]).is_file() for line in said)


def test_excitations_are_the_highest_values_of_each_photograph(tiny_set):
    classifier = load_classifier(MODEL, "random", 64)
    paths = sorted((tiny_set / "images").iterdir())[:5]
    found = find_excitations(classifier, "stages", paths, count=3)
    alone = [find_excitations(classifier, "stages", [path], count=1) for path in paths]
    for level, values in enumerate(found.values):
        every = np.concatenate([one.values[level] for one in alone], axis=1)
        np.testing.assert_allclose(values, -np.sort(-every, axis=1)[:, :3], rtol=1e-4, atol=1e-5)
        for channel in (0, 3):
            for photograph, y, x, value in found.at(level, channel):
                assert alone[photograph].at(level, channel)[0][1:3] == (y, x)
                assert value == pytest.approx(every[channel, photograph], rel=1e-4)


def test_boxes_scale_and_are_never_empty():
    assert scaled((10, 20, 30, 40), (100, 100), (200, 50)) == (5, 40, 15, 80)
    assert scaled((99, 99, 100, 100), (100, 100), (10, 10)) == (9, 9, 10, 10)
    assert scaled((1, 1, 2, 2), (1000, 1000), (10, 10)) == (0, 0, 1, 1)


def test_what_does_not_fit_is_told(tiny_set, tmp_path):
    photo = sorted((tiny_set / "images").iterdir())[0]
    with pytest.raises(BadInput, match="class 'zebra crossing'"):
        decompose(photo, tmp_path, classes=["zebra crossing"])
    with pytest.raises(BadInput, match="there is no such image"):
        decompose(tmp_path / "none.jpg", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no photographs"):
        decompose(photo, tmp_path, patches=tmp_path / "empty")
