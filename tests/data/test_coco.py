import json
from pathlib import Path

import numpy as np
import pytest

from tagseg.data.dataset import read_mask
from tagseg.data.readers.coco import coco_class_names
from tagseg.data.reading import FileFacts, inspect_files, read_dataset
from tagseg.errors import BadInput
from tests.data.trees import photo

pytest.importorskip("pycocotools")


def square(x: int, y: int, side: int) -> list[list[int]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def coco(root: Path) -> Path:
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 20, "width": 30} for n in (1, 2, 3)]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 90, "area": 256, "iscrowd": 0, "segmentation": square(2, 2, 16)},
        {"id": 2, "image_id": 1, "category_id": 3, "area": 16, "iscrowd": 0, "segmentation": square(6, 6, 4)},
        {
            "id": 3, "image_id": 3, "category_id": 3, "area": 60, "iscrowd": 1,
            "segmentation": {"size": [20, 30], "counts": [0, 60, 540]},
        },
    ]  # fmt: skip
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}]
    (root / "annotations").mkdir()
    (root / "annotations/instances_train2014.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    for image in images:
        photo(root / "train2014" / str(image["file_name"]))
    return root


def test_tags_and_masks(tmp_path: Path):
    data = read_dataset(coco(tmp_path))
    assert data.classes == ("car", "toothbrush")
    assert [s.name[-1] for s in data.train] == ["1", "3"]  # the second has no class
    assert [s.tags for s in data.train] == [(0, 1), (0,)]
    mask = read_mask(data.train[0].mask)
    assert mask.shape == (20, 30)
    assert mask[8, 8] == 1  # the small car lies on the large brush
    assert mask[3, 3] == 2
    assert mask[19, 29] == 0
    crowd = read_mask(data.train[1].mask)
    assert (crowd == 1).sum() == 60
    np.testing.assert_array_equal(crowd[:, :3], 1)
    assert inspect_files(data, FileFacts())[0].problems == ()


def test_a_missing_photograph_is_named(tmp_path: Path):
    coco(tmp_path)
    (tmp_path / "train2014/COCO_train2014_000000000003.jpg").unlink()
    data = read_dataset(tmp_path)
    assert [p.sample for p in data.problems] == ["COCO_train2014_000000000003"]
    assert len(data.train) == 1


def written(path: Path, files: list[str], annotations: list[dict], categories: list[dict], **sizes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = sizes or {"height": 20, "width": 30}
    images = [{"id": n, "file_name": f, **size} for n, f in enumerate(files)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


CATEGORIES = [{"id": n, "name": name, "supercategory": "animals"} for n, name in ((1, "cat"), (2, "dog"))]


def of(image: int, category: int, **changes: object) -> dict:
    given = {"id": image * 10 + category, "image_id": image, "category_id": category, "bbox": [1, 2, 5, 6], "area": 30}
    return {**given, "segmentation": square(1, 2, 5), **changes}


@pytest.mark.parametrize(
    ("json_file", "photographs"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_default.json", "images"),
        ("train/_annotations.coco.json", "train"),
        ("result.json", "images"),
        ("annotations.json", "."),
        ("labels.json", "data"),
    ],
)
def test_trees_of_any_tool(tmp_path: Path, json_file: str, photographs: str):
    written(tmp_path / json_file, ["a.jpg", "b.png"], [of(0, 1), of(1, 2), of(1, 1)], CATEGORIES)
    for name in ("a.jpg", "b.png"):
        photo(tmp_path / photographs / name)
    data = read_dataset(tmp_path)
    assert data.problems == ()
    assert data.classes == ("cat", "dog")
    assert {s.name: s.tags for s in data.train} == {"a": (0,), "b": (0, 1)}


def test_roboflow_with_splits(tmp_path: Path):
    whole = [{"id": 0, "name": "animals", "supercategory": "none"}, *CATEGORIES]
    for split in ("train", "valid", "test"):
        written(tmp_path / split / "_annotations.coco.json", ["0.jpg"], [of(0, 1)], whole)
        photo(tmp_path / split / "0.jpg")
    data = read_dataset(tmp_path)
    assert data.classes == ("cat", "dog")
    assert [s.name for s in data.samples] == ["train/0", "val/0"]
    assert data.problems == ()
    assert any("test split" in note for note in data.notes)


def test_folders_in_names_keep_photographs_apart(tmp_path: Path):
    files = ["x/0.jpg", "y\\0.jpg", "../../elsewhere/1.jpg", "/data/2.jpg"]
    written(tmp_path / "result.json", files, [of(n, 1 + n % 2) for n in range(4)], CATEGORIES)
    for name in ("x/0.jpg", "y/0.jpg", "1.jpg", "2.jpg"):
        photo(tmp_path / "images" / name)
    data = read_dataset(tmp_path)
    assert {s.name: s.tags for s in data.train} == {"x/0": (0,), "y/0": (1,), "1": (0,), "2": (1,)}
    assert all((tmp_path / "images") in s.image.parents for s in data.train)


def test_odd_annotations_are_good_tags_or_named(tmp_path: Path):
    annotations = [
        of(0, 1, segmentation=[]),
        of(1, 2, segmentation=None, bbox=None),
        of(2, 1, segmentation=[[1, 2, 3, 4]], area=None),
        of(3, 77),
        of(3, 1),
        of(4, 2),
    ]
    files = [f"{n}.jpg" for n in range(6)]
    written(tmp_path / "annotations.json", files, annotations, CATEGORIES, depth=3)  # no height, no width
    for name in files:
        photo(tmp_path / name)
    data = read_dataset(tmp_path)
    assert [s.tags for s in data.train] == [(0,), (1,), (0,), (0,), (1,)]
    assert [s.mask is None for s in data.train] == [True, True, True, False, False]
    assert [p.sample for p in data.problems] == ["3"]
    assert "unknown category 77" in data.problems[0].text
    assert read_mask(data.train[4].mask).shape == (20, 30)
    assert any("photographs without an annotation were left out: 1" in note for note in data.notes)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": 5, "annotations": [], "categories": []}', '{"images": [5]}']
)
def test_files_that_are_not_coco(tmp_path: Path, text: str):
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(BadInput, match="instances_train2017"):
        read_dataset(tmp_path)


def test_class_names_alone_are_those_of_the_masks(tmp_path: Path):
    whole = [{"id": "b", "name": "hen"}, {"id": 0, "name": "animals", "supercategory": "none"}, *CATEGORIES]
    written(tmp_path / "annotations.json", ["a.jpg"], [of(0, 1)], whole)
    photo(tmp_path / "a.jpg")
    assert (
        tuple(coco_class_names(tmp_path / "annotations.json"))
        == read_dataset(tmp_path).classes
        == ("cat", "dog", "hen")
    )


def files(root: Path, names: dict[str, str]) -> Path:
    """A photograph `NAME.jpg` of a cat in each file of annotations."""
    (root / "annotations").mkdir()
    for number, (file, name) in enumerate(names.items(), start=1):
        photo(root / "images" / f"{name}.jpg")
        image = {"id": number, "file_name": f"{name}.jpg", "height": 20, "width": 30}
        one = {"id": 1, "image_id": number, "category_id": 1, "segmentation": square(2, 2, 9)}
        said = {"images": [image], "annotations": [one], "categories": [{"id": 1, "name": "cat"}]}
        (root / "annotations" / f"{file}.json").write_text(json.dumps(said))
    return root


@pytest.mark.parametrize(
    ("names", "train", "val"),
    [
        ({"instances_train2014": "a", "instances_minival2014": "b"}, "a", "b"),
        ({"instances_train": "a", "instances_eval": "b"}, "a", "b"),
        ({"instances_train2017": "a", "instances_val2017": "b", "instances_test-dev2017": "c"}, "a", "b"),
        ({"instances_contest": "a", "instances_valley": "b"}, "ab", ""),
        ({"train": "a", "val": "b"}, "a", "b"),
        ({"instances_job_1": "a", "instances_job_2": "b"}, "ab", ""),
        ({"instances_train_a": "a", "instances_train_b": "b", "instances_val_v2": "c"}, "ab", "c"),
    ],
)
def test_every_file_of_annotations_is_read_or_named(tmp_path: Path, names: dict[str, str], train: str, val: str):
    data = read_dataset(files(tmp_path, names))
    assert ["".join(sorted(s.name for s in split)) for split in (data.train, data.val)] == [train, val]
    unknown = [n for n in names if n.rstrip("0123456789").removeprefix("instances_") not in ("train", "val", "eval")]
    assert all(any(name in note for note in data.notes) for name in unknown)


def changed(root: Path, **entries: object) -> Path:
    root.mkdir()
    path = coco(root) / "annotations" / "instances_train2014.json"
    said = json.loads(path.read_text())
    said["annotations"] = [said["annotations"][0] | entries]
    path.write_text(json.dumps(said))
    return root


@pytest.mark.parametrize(
    "segmentation",
    [
        square(2, 2, 16),
        square(2, 2, 16)[0],
        [[[2, 2], [18, 2], [18, 18], [2, 18]]],
        {"size": [20, 30], "counts": [42, *(part for _ in range(15) for part in (16, 4)), 16, 242]},
    ],
)
def test_outlines_in_any_form(tmp_path: Path, segmentation: object):
    from pycocotools import mask as coco_mask

    data = read_dataset(changed(tmp_path / "a", segmentation=segmentation))
    whole = read_mask(data.train[0].mask)
    assert whole[3, 3] == whole[16, 16] == 2
    assert whole[0, 0] == whole[19, 19] == 0
    code = coco_mask.encode(np.asfortranarray(whole > 0))
    packed = {"size": [20, 30], "counts": code["counts"].decode()}
    again = read_mask(read_dataset(changed(tmp_path / "b", segmentation=packed)).train[0].mask)
    assert (again == whole).all()
    cut = {"size": [20, 30], "counts": packed["counts"][:-2]}
    with pytest.raises(BadInput, match="cannot be drawn"):
        read_mask(read_dataset(changed(tmp_path / "c", segmentation=cut)).train[0].mask)


def test_background_is_no_class(tmp_path: Path):
    path = coco(tmp_path) / "annotations" / "instances_train2014.json"
    said = json.loads(path.read_text())
    said["categories"].insert(0, {"id": 0, "name": "_background_"})
    said["annotations"].append({"id": 9, "image_id": 2, "category_id": 0, "segmentation": square(0, 0, 9)})
    path.write_text(json.dumps(said))
    data = read_dataset(tmp_path)
    assert data.classes == ("car", "toothbrush")
    assert data.problems == ()
    assert len(data.train) == 2


def test_a_file_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    coco(tmp_path)
    (tmp_path / "annotations/instances_train2014.json").rename(tmp_path / "result.json")  # which could be anybody's
    read, times = json.loads, []
    monkeypatch.setattr("tagseg.data.readers.coco.json.loads", lambda text: times.append(1) or read(text))
    (tmp_path / "train2014").rename(tmp_path / "images")
    assert len(read_dataset(tmp_path).train) == 2
    assert len(times) == 1
    said = read((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**said, "annotations": said["annotations"][:2]}))
    assert len(read_dataset(tmp_path).train) == 1
    assert len(times) == 2
