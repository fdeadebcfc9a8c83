"""Folders and tables as people have them: read as they are meant, or refused with the reason."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagseg.data.images import read_index_png
from tagseg.data.reading import FileFacts, inspect_files, read_dataset
from tagseg.errors import BadInput
from tests.data.trees import folder, mask, photo


def tags(root: Path) -> dict[str, list[str]]:
    data = read_dataset(root)
    assert data.problems == ()
    return {s.name: data.tag_names(s) for s in data.samples}


SAME = {"a": ["cat"], "b": ["cat", "dog"], "c": []}


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na.jpg,cat\nb.jpg,cat;dog\nc.jpg,\n",
        "image;labels\na.jpg;cat\nb.jpg;cat;dog\nc.jpg;\n".replace(";dog", "|dog"),
        "a.jpg;cat\nb.jpg;cat;dog\nc.jpg\n",
        "filename\tlabel\na.jpg\tcat\nb.jpg\tcat;dog\nc.jpg\t\n",
        'a.jpg, "cat"\nb.jpg, "cat;dog"\nc.jpg, ""\n',
        "file_name,category\na.jpg,cat\nb.jpg,cat\nb.jpg,dog\nc.jpg,\n",
        "image_id,cat,dog\na,1,0\nb,1,1\nc,0,0\n",
        "path,cat,dog\nimages/a.jpg,1.0,0\n./images/b.jpg,True,1\nimages\\c.jpg,0,False\n",
        ",image,label\n0,a.jpg,cat\n1,b.jpg,cat;dog\n2,c.jpg,background\n",
        "id,filename,tags\n7,a.jpg,cat\n8,b.jpg,cat|dog\n9,c.jpg,\n",
        "\ufeffimage,labels\r\na.jpg,cat\r\nb.jpg,cat;dog\r\nc.jpg,\r\n",
        'image,labels\na.jpg,cat\nb.jpg,"cat,dog"\nb.jpg,dog\nc.jpg,_background_\n',
        "image,label1,label_2\na.jpg,cat,\nb.jpg,cat,dog\nc.jpg,,\n",
        "image,label_id,label_name\na.jpg,4,cat\nb.jpg,4,cat\nb.jpg,5,dog\nc.jpg,,\n",
        "image,width,label,author\na.jpg,30,cat,x\nb.jpg,30,cat;dog,y\nc.jpg,30,,z\n",
        "image,labels\na.jpg,['cat']\nb.jpg,\"['cat', 'dog']\"\nc.jpg,[]\n",
        'image,labels\na.jpg,"{""choices"": [""cat""]}"\nb.jpg,"cat\ndog"\nc.jpg,\n',
        "image,labels\na.jpg,\u200bcat \nb.jpg,cat;dog\u00a0\nc.jpg,\n",
        "image,fold,label,occluded\na.jpg,0,cat,1\nb.jpg,1,cat;dog,0\nc.jpg,2,,0\n",
        "sep=;\nimage;labels\na.jpg;cat\nb.jpg;cat|dog\nc.jpg;\n",
        "image,cat,dog\na.jpg,Y,N\nb.jpg,Y,Y\nc.jpg,N,N\n",
    ],
)
def test_tables_are_read_as_they_are_meant(tmp_path: Path, text: str):
    assert tags(folder(tmp_path, text)) == SAME


def test_a_header_that_is_not_known_adds_no_class(tmp_path: Path):
    data = read_dataset(folder(tmp_path, "shot,what\na.jpg,cat\nb.jpg,dog\nc.jpg,\n"))
    assert data.classes == ("cat", "dog")
    assert len(data.problems) == 1
    assert "call its first column 'image'" in data.problems[0].text


def test_composed_and_decomposed_names_are_one(tmp_path: Path):
    name = unicodedata.normalize("NFD", "café")
    folder(tmp_path, "image,label\ncafé.jpg,thé\n", (f"{name}.jpg",))
    (tmp_path / "train.txt").write_text(f"{name}\n", encoding="utf-8")
    mask(tmp_path / "masks" / f"{name}.png", [0, 1])
    (tmp_path / "classes.txt").write_text(unicodedata.normalize("NFD", "thé") + "\n", encoding="utf-8")
    data = read_dataset(tmp_path)
    assert data.problems == ()
    assert data.classes == ("thé",)
    assert data.train[0].name == "café"
    assert data.train[0].mask is not None


def test_splits_above_the_classes(tmp_path: Path):
    for name in ("train/cat/1.jpg", "train/dog/2.jpg", "valid/cat/3.jpg", "test/dog/4.jpg"):
        photo(tmp_path / name)
    data = read_dataset(tmp_path)
    assert data.classes == ("cat", "dog")
    assert [s.name for s in data.train] == ["train/cat/1", "train/dog/2"]
    assert [s.name for s in data.val] == ["valid/cat/3"]
    assert any("test split" in note for note in data.notes)


@pytest.mark.parametrize(
    "names",
    [
        ("cat/train/1.jpg", "dog/train/2.jpg", "cat/val/3.jpg", "dog/test/4.jpg"),
        ("cat/train/good/1.jpg", "dog/train/good/2.jpg", "cat/val/odd/3.jpg", "dog/test/odd/4.jpg"),
        ("Train/cat/1.jpg", "Train/dog/2.jpg", "Validation/cat/3.jpg", "testing/dog/4.jpg"),
    ],
)
def test_splits_above_and_below_the_classes(tmp_path: Path, names: tuple[str, ...]):
    for name in names:
        photo(tmp_path / name)
    data = read_dataset(tmp_path)
    assert data.classes == ("cat", "dog")
    assert [[s.name[-1] for s in split] for split in (data.train, data.val)] == [["1", "2"], ["3"]]


@pytest.mark.parametrize("how", ["column", "folders", "lists"])
def test_splits_of_a_table(tmp_path: Path, how: str):
    names = [
        f"{f}/{n}.jpg" if how == "folders" else f"{n}.jpg"
        for n, f in zip("abc", ("train", "valid", "test"), strict=True)
    ]
    rows = [
        f"{name},cat" + (f",{split}" if how == "column" else "")
        for name, split in zip(names, ("train", "Val", "test"), strict=True)
    ]
    folder(tmp_path, "image,label" + (",split" if how == "column" else "") + "\n" + "\n".join(rows), tuple(names))
    if how == "lists":
        (tmp_path / "valid.txt").write_text("b\n")
        (tmp_path / "test.txt").write_text("c\n")
    data = read_dataset(tmp_path)
    assert data.problems == ()
    assert [[s.name[-1] for s in split] for split in (data.train, data.val)] == [["a"], ["b"]]
    assert any("test" in note and "left out" in note for note in data.notes)


@pytest.mark.parametrize(
    "names",
    [
        ("mask/1.jpg", "no_mask/2.jpg"),
        ("cat/2019/1.jpg", "cat/2020/2.jpg", "dog/2019/3.jpg"),
        ("train/1.jpg", "bus/2.jpg", "car/3.jpg"),
        ("0/1.jpg", "1/2.jpg"),
        ("test tube/1.jpg", "flask/2.jpg"),
        ("valid/1.jpg", "invalid/2.jpg"),
        ("cat/1.jfif", "dog/2.JPE"),
        ("train/2019/1.jpg", "bus/2019/2.jpg", "car/2019/3.jpg"),
        ("train/old/1.jpg", "train/2.jpg", "bus/3.jpg"),
        ("valid/2019/1.jpg", "invalid/2019/2.jpg"),
        ("steam train/1.jpg", "freight train/2.jpg"),
        ("blood test/1.jpg", "urine test/2.jpg"),
        ("labels/1.jpg", "bottles/2.jpg"),
        ("cat/1.jpg",),
    ],
)
def test_plain_classes_stay_classes(tmp_path: Path, names: tuple[str, ...]):
    for name in names:
        photo(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("a caption\n")
    data = read_dataset(tmp_path)
    assert data.problems == ()
    assert set(data.classes) == {name.split("/")[0] for name in names}
    assert len(data.train) == len(names)


def test_masks_hold_the_numbers_of_their_palettes_indices(tmp_path: Path):
    """Whatever colours a palette shows; greys of four bits are not spread."""
    values = np.zeros((20, 30), dtype=np.uint8)
    values[5:15, 5:15] = 3
    Image.fromarray(values).save(tmp_path / "four bits.png", bits=4)
    assert set(np.unique(read_index_png(tmp_path / "four bits.png")).tolist()) == {0, 3}
    for colours in ([0, 0, 0, 255, 255, 255], [0, 0, 0, 0, 128, 0], [255, 255, 255, 0, 0, 0], [0, 0, 0, 60, 60, 60]):
        shown = Image.frombytes("P", (30, 20), (values // 3).tobytes())
        shown.putpalette(colours)
        shown.save(tmp_path / "shown.png")
        assert (read_index_png(tmp_path / "shown.png") == values // 3).all()
    for number in range(1, 21):
        mask(tmp_path / "one.png", [0, number, 255])
        assert set(np.unique(read_index_png(tmp_path / "one.png")).tolist()) == {0, number, 255}


def test_masks_without_background_that_agree_with_the_tags(tmp_path: Path):
    root = folder(tmp_path, "image,label\na.jpg,cat\nb.jpg,cat;dog\nc.jpg,dog\n")
    for name, numbers in (("a", [1]), ("b", [1, 2]), ("c", [2])):
        mask(root / "masks" / f"{name}.png", numbers)
    assert inspect_files(read_dataset(root), FileFacts())[0].problems == ()


def test_a_class_may_be_called_train(tmp_path: Path):
    for name in ("train/1.jpg", "bus/2.jpg"):
        photo(tmp_path / name)
    assert read_dataset(tmp_path).classes == ("bus", "train")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train/1.jpg", "val/2.jpg"), "no class folder"),
        (("val/cat/1.jpg", "test/cat/2.jpg"), "no train/"),
        (("train/cat/1.jpg", "val/cat/2.jpg", "other/cat/3.jpg"), "other/ is beside them"),
        (("train2017/1.jpg", "val2017/2.jpg"), "folder of COCO"),
        (("JPEGImages/1.jpg",), "VOC devkit"),
        (("images/train/1.jpg", "data.yaml"), "YOLO"),
    ],
)
def test_what_looks_like_another_layout_is_refused(tmp_path: Path, names: tuple[str, ...], words: str):
    for name in names:
        if name.endswith(".jpg"):
            photo(tmp_path / name)
        else:
            (tmp_path / name).write_text("names: [cat]\n")
    with pytest.raises(BadInput, match=words):
        read_dataset(tmp_path)


def test_what_is_not_meant_is_left_out_and_said(tmp_path: Path):
    for name in (
        "cat/1.jpg",
        ".ipynb_checkpoints/1.jpg",
        "__MACOSX/cat/1.jpg",
        "cat/._1.jpg",
        "@eaDir/1.jpg",
        "run/p/1.png",
    ):
        photo(tmp_path / name)
    (tmp_path / "run" / "run.json").write_text("{}")
    photo(tmp_path / "loose.jpg")
    data = read_dataset(tmp_path)
    assert data.classes == ("cat",)
    assert [s.name for s in data.train] == ["cat/1"]
    said = " ".join(data.notes)
    for words in ("folder of a run", "hidden or a system's own", "no class folder"):
        assert words in said


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_linked_folders_are_entered_loops_are_not(tmp_path: Path):
    photo(tmp_path / "elsewhere" / "1.jpg")
    root = tmp_path / "data"
    photo(root / "dog" / "2.jpg")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "again").symlink_to(root)
    (root / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    data = read_dataset(root)
    assert [s.name for s in data.train] == ["cat/1", "dog/2"]
    assert any("leads back" in note for note in data.notes)
    assert any("leads nowhere" in p.text for p in data.problems)


def test_class_lists_of_other_tools(tmp_path: Path):
    for first in ("__ignore__\n_background_\n", "background\n", "_background_\n", ""):
        folder(tmp_path, "image,labels\na,cat\nb,dog\nc,\n")
        (tmp_path / "classes.txt").write_text(f"{first}cat\ndog\n")
        assert read_dataset(tmp_path).classes == ("cat", "dog")
    (tmp_path / "classes.txt").write_text("cat\ndog\nbackground\n")
    assert "'background' is what has no class" in read_dataset(tmp_path).problems[0].text


def found(root: Path) -> list[str]:
    return [p.text for p in inspect_files(read_dataset(root), FileFacts())[0].problems]


def test_masks_that_say_255_or_count_from_one(tmp_path: Path):
    folder(tmp_path, "image,labels\na,cat\nb,cat\nc,\n")
    for name in "abc":
        mask(tmp_path / f"masks/{name}.png", [0, 255])
    assert len(found(tmp_path)) == 1
    assert "255 means ignore; write 1 where" in found(tmp_path)[0]
    mask(tmp_path / "masks/a.png", [0, 1, 255])
    assert found(tmp_path) == []
    folder(tmp_path, "image,labels\na,cat\nb,dog\nc,\n")
    for name in "abc":
        mask(tmp_path / f"masks/{name}.png", [1, 2])
    assert len(found(tmp_path)) == 1
    assert "count from 1" in found(tmp_path)[0]


def test_masks_of_other_names_and_colours(tmp_path: Path):
    folder(tmp_path, "image,labels\na,cat\nb,cat\nc,cat\n")
    mask(tmp_path / "masks/a_mask.png", [0, 1])
    values = np.tile(np.array([0, 1], np.uint8), (20, 15))
    Image.fromarray(np.dstack([values] * 3)).save(tmp_path / "masks/b.png")  # greys in three channels
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[:, 1::2] = (128, 0, 0)  # VOC's colour of class 1
    Image.fromarray(colours).save(tmp_path / "masks/c.tif")
    data = read_dataset(tmp_path)
    for sample in data.train:
        assert isinstance(sample.mask, Path)
    assert found(tmp_path) == []
    colours[0, 0] = (1, 2, 3)
    Image.fromarray(colours).save(tmp_path / "masks/c.tif")
    assert "(1, 2, 3)" in found(tmp_path)[0]
    (tmp_path / "masks/c.tif").unlink()
    Image.fromarray(colours).save(tmp_path / "masks/c.jpg")
    assert "JPEG changes a mask's numbers" in found(tmp_path)[0]


def test_copies_with_other_tags_are_said(tmp_path: Path):
    for name in ("cat/1.jpg", "dog/1.jpg"):
        photo(tmp_path / name)
    data, _ = inspect_files(read_dataset(tmp_path), FileFacts())
    assert any("the same photograph" in note for note in data.notes)


def test_long_names_and_control_characters(tmp_path: Path):
    names = ("é" * 118 + ".jpg", "x" * 245 + ".jpg", "a\nb.jpg")
    for number, name in enumerate(names):
        photo(tmp_path / "cat" / name, seed=number)
    texts = found(tmp_path)
    assert len(texts) == 2
    assert any("longer than 240 bytes" in t for t in texts)
    assert any("signs that are no letters" in t for t in texts)


def test_masks_beside_photographs_are_left_out(tmp_path: Path):
    for name in ("cat/1.jpg", "cat/1_mask.png", "dog/2.jpg", "dog/2_mask_1.png", "dog/own_mask.jpg"):
        photo(tmp_path / name)
    data = read_dataset(tmp_path)
    assert [s.name for s in data.train] == ["cat/1", "dog/2", "dog/own_mask"]
    assert any("left out" in note and note.endswith(": 2.") for note in data.notes)
