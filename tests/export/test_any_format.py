"""What every format of boxes owes its users, whichever it is."""

import csv
import json
from pathlib import Path

import pytest

from tagseg.errors import BadInput
from tagseg.export import LocatedBox, Photograph, box_formats, check_formats

PHOTOGRAPHS = {"deep/a": Photograph(Path("in/deep/a.jpg"), 40, 60), "b": Photograph(Path("in/b.png"), 20, 30)}
BOXES = [LocatedBox("deep/a", "cat, grey", 1, 3, 4, 33, 24, 0.5), LocatedBox("b", "dog", 0, 0, 0, 30, 20, 1.0)]


@pytest.mark.parametrize("name", box_formats())
def test_boxes_and_none_are_written_whole(name: str, tmp_path: Path):
    kind = box_formats()[name]
    assert kind.name == name
    assert kind.about
    for folder, boxes in (("some", BOXES), ("none", [])):
        path = kind.write(tmp_path / folder, boxes, PHOTOGRAPHS, ("dog", "cat, grey"))
        assert path.parent == tmp_path / folder
        assert path.read_bytes()
        assert not list(tmp_path.rglob("*.partial"))


def test_csv_has_a_line_for_every_box(tmp_path: Path):
    with open(box_formats()["csv"].write(tmp_path, BOXES, PHOTOGRAPHS, ("dog", "cat, grey")), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["image"], r["label"], r["xmin"], r["ymax"]) for r in rows] == [
        ("deep/a", "cat, grey", "3", "24"),
        ("b", "dog", "0", "20"),
    ]


def test_coco_has_width_and_height(tmp_path: Path):
    found = json.loads(box_formats()["coco"].write(tmp_path, BOXES, PHOTOGRAPHS, ("dog", "cat, grey")).read_text())
    assert [a["bbox"] for a in found["annotations"]] == [[3, 4, 30, 20], [0, 0, 30, 20]]
    assert [a["category_id"] for a in found["annotations"]] == [2, 1]
    assert [(i["width"], i["height"]) for i in found["images"]] == [(60, 40), (30, 20)]


def test_a_format_that_there_is_not_is_told():
    with pytest.raises(BadInput, match="format 'coc' does not exist; did you mean 'coco'"):
        check_formats(["csv", "coc"])
