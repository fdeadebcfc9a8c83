"""ILSVRC, CUB-200-2011 and DAGM 2007 in their true layouts, and boxes of the other layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagseg.data.dataset import Box, read_mask
from tagseg.data.reading import FileFacts, inspect_files, read_dataset
from tagseg.errors import BadInput
from tests.data.trees import folder, photo


def xml(path: Path, objects: list[tuple[str, int, int, int, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    items = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in objects
    )
    path.write_text(f"<annotation>{items}</annotation>")


def ilsvrc(root: Path, mapping: bool = True) -> Path:
    base = root / "ILSVRC"
    for name in ("n01440764/n01440764_18", "n01443537/n01443537_2"):
        photo(base / "Data/CLS-LOC/train" / f"{name}.JPEG")
    for number, objects in (
        (1, [("n01443537", 1, 2, 10, 12), ("n01443537", 3, 3, 30, 20)]),
        (2, [("n01440764", 5, 5, 9, 9)]),
    ):
        name = f"ILSVRC2012_val_{number:08}"
        photo(base / "Data/CLS-LOC/val" / f"{name}.JPEG")
        xml(base / "Annotations/CLS-LOC/val" / f"{name}.xml", objects)
    lists = base / "ImageSets/CLS-LOC"
    lists.mkdir(parents=True)
    (lists / "train_cls.txt").write_text("n01440764/n01440764_18 1\nn01443537/n01443537_2 2\n")
    (lists / "val.txt").write_text("ILSVRC2012_val_00000001 1\nILSVRC2012_val_00000002 2\n")
    if mapping:
        (root / "LOC_synset_mapping.txt").write_text(
            "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n"
        )
    return root


def test_ilsvrc(tmp_path: Path):
    data = read_dataset(ilsvrc(tmp_path))
    assert data.classes == ("tench", "goldfish")
    assert [s.tags for s in data.train] == [(0,), (1,)]
    assert data.val[0].tags == (1,)
    assert data.val[0].boxes == (Box(1, 0, 1, 10, 12), Box(1, 2, 2, 30, 20))
    assert not data.problems
    checked, _ = inspect_files(data, FileFacts())
    assert not checked.problems


def test_ilsvrc_without_names_or_an_annotation(tmp_path: Path):
    root = ilsvrc(tmp_path, mapping=False)
    (root / "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000002.xml").unlink()
    data = read_dataset(root)
    assert data.classes == ("n01440764", "n01443537")
    assert len(data.val) == 1
    assert "ILSVRC2012_val_00000002" in data.problems[0].text


def cub(root: Path) -> Path:
    base = root / "CUB_200_2011"
    names = ["001.Black_footed_Albatross/Black_0046_18", "002.Laysan_Albatross/Laysan_0001_1"]
    for name in names:
        photo(base / "images" / f"{name}.jpg")
    (base / "images.txt").write_text("".join(f"{i} {n}.jpg\n" for i, n in enumerate(names, 1)))
    (base / "classes.txt").write_text("1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    (base / "image_class_labels.txt").write_text("1 1\n2 2\n")
    (base / "train_test_split.txt").write_text("1 1\n2 0\n")
    (base / "bounding_boxes.txt").write_text("1 2.0 3.0 10.0 9.0\n2 1.0 1.0 5.0 6.0\n")
    grey = np.zeros((20, 30), np.uint8)
    grey[2:8, 3:9], grey[2:4, 3:9] = 255, 51
    (base / "segmentations" / names[1]).parent.mkdir(parents=True)
    Image.fromarray(grey).save(base / "segmentations" / f"{names[1]}.png")
    return root


def test_cub(tmp_path: Path):
    data = read_dataset(cub(tmp_path))
    assert data.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    (train,), (val,) = data.train, data.val
    assert train.boxes == (Box(0, 2, 3, 12, 12),)
    assert train.mask is None
    mask = read_mask(val.mask)
    assert mask.shape == (20, 30)
    assert mask.sum() == 2 * 4 * 6
    assert not inspect_files(data, FileFacts())[0].problems


def test_cub_with_a_list_that_is_short(tmp_path: Path):
    (cub(tmp_path) / "CUB_200_2011/bounding_boxes.txt").write_text("1 2.0 3.0 10.0 9.0\n")
    with pytest.raises(BadInput, match="image 2"):
        read_dataset(tmp_path)


def test_dagm(tmp_path: Path):
    for number in (1, 10):
        for split in ("Train", "Test"):
            base = tmp_path / f"Class{number}" / split
            for name in ("0001", "0576"):
                base.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((20, 30), 90, np.uint8)).save(base / f"{name}.PNG")
            (base / "Label").mkdir()
            label = np.zeros((20, 30), np.uint8)
            label[5:9, 5:9] = 255
            Image.fromarray(label).save(base / "Label" / "0576_label.PNG")
            (base / "Label" / "Labels.txt").write_text("1\n0576\t1\t0576.PNG\t1\t0576_label.PNG\n")
    data = read_dataset(tmp_path)
    assert data.classes == ("defect",)
    assert [s.name for s in data.train] == [f"Class{n}/Train/{i}" for n in (1, 10) for i in ("0001", "0576")]
    assert [s.tags for s in data.val] == [(), (0,), (), (0,)]
    assert read_mask(data.val[0].mask).sum() == 0
    assert read_mask(data.val[1].mask).sum() == 16
    assert not inspect_files(data, FileFacts())[0].problems


def test_boxes_of_the_folder_layout(tmp_path: Path):
    folder(tmp_path, "image,labels\na,cat\nb,dog\nc,cat;dog\n")
    (tmp_path / "boxes.csv").write_text("image,label,xmin,ymin,xmax,ymax\na,cat,1.5,2,10,12\na.jpg,cat,0,0,5,5,0.9\n")
    data = read_dataset(tmp_path)
    assert data.train[0].boxes == (Box(0, 1.5, 2, 10, 12), Box(0, 0, 0, 5, 5))
    assert not data.problems


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,cat,1,2,10", "boxes.csv:2: write image,label"),
        ("a,cat,1,2,ten,12", "boxes.csv:2: write image,label"),
        ("z,cat,1,2,10,12", "no photograph 'z'"),
        ("a,cats,1,2,10,12", "did you mean 'cat'"),
        ("a,cat,10,2,10,12", "the box is empty"),
    ],
)
def test_boxes_that_do_not_do(tmp_path: Path, line: str, message: str):
    folder(tmp_path, "image,labels\na,cat\nb,dog\nc,cat;dog\n")
    (tmp_path / "boxes.csv").write_text(f"image,label,xmin,ymin,xmax,ymax\n{line}\n")
    assert message in read_dataset(tmp_path).problems[0].text


def test_boxes_of_voc(tmp_path: Path):
    photo(tmp_path / "JPEGImages/2007_000001.jpg")
    xml(tmp_path / "Annotations/2007_000001.xml", [("dog", 1, 1, 20, 10), ("dog", 3, 4, 8, 9)])
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n")
    data = read_dataset(tmp_path)
    assert data.train[0].boxes == (Box(11, 0, 0, 20, 10), Box(11, 2, 3, 8, 9))


def test_boxes_of_coco(tmp_path: Path):
    pytest.importorskip("pycocotools")
    photo(tmp_path / "train2014/a.jpg")
    annotation = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 3, 10, 5], "area": 50, "iscrowd": 0}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2014.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.jpg", "height": 20, "width": 30}],
                "categories": [{"id": 7, "name": "cat"}],
                "annotations": [{**annotation, "segmentation": [[2, 3, 12, 3, 12, 8]]}],
            }
        )
    )
    assert read_dataset(tmp_path).train[0].boxes == (Box(0, 2, 3, 12, 8),)
