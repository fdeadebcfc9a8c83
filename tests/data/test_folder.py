import re
from dataclasses import replace
from pathlib import Path

import pytest

from tagseg.data.reading import FileFacts, inspect_files, read_dataset
from tagseg.errors import BadInput
from tests.data.trees import folder, mask, photo

GOOD = "image,labels\na.jpg,cat\nb,dog;cat\nc.jpg,\n"


def problems(root: Path) -> list[str]:
    return [p.text for p in inspect_files(read_dataset(root), FileFacts())[0].problems]


def test_labels_are_read(tmp_path: Path):
    data = read_dataset(folder(tmp_path, GOOD))
    assert data.classes == ("cat", "dog")
    assert [(s.name, s.tags) for s in data.train] == [("a", (0,)), ("b", (0, 1)), ("c", ())]
    assert problems(tmp_path) == []


def test_nested_names_masks_saliency_and_splits(tmp_path: Path):
    folder(tmp_path, "image,labels\none/a.jpg,cat\ntwo/a.png,dog\n", ("one/a.jpg", "two/a.png"))
    (tmp_path / "classes.txt").write_text("background\ndog\ncat\n")
    (tmp_path / "train.txt").write_text("one/a\n")
    (tmp_path / "val.txt").write_text("two/a.png\n")
    mask(tmp_path / "masks/one/a.png", [0, 2, 255])
    photo(tmp_path / "saliency/two/a.png")
    data = read_dataset(tmp_path)
    assert data.classes == ("dog", "cat")
    assert [s.name for s in data.train] == ["one/a"]
    assert data.train[0].mask == tmp_path / "masks/one/a.png"
    assert [s.name for s in data.val] == ["two/a"]
    assert data.val[0].tags == (0,)
    assert data.val[0].saliency == tmp_path / "saliency/two/a.png"
    assert problems(tmp_path) == []


@pytest.mark.parametrize("base", [".", "images"])
def test_a_folder_for_each_class(tmp_path: Path, base: str):
    for name in ("cat/1.jpg", "dog/1.jpg", "dog/old/2.jpg", "background/3.jpg"):
        photo(tmp_path / base / name)
    data = read_dataset(tmp_path)
    assert data.classes == ("cat", "dog")
    assert {s.name: s.tags for s in data.train} == {"cat/1": (0,), "dog/1": (1,), "dog/old/2": (1,), "background/3": ()}


@pytest.mark.parametrize(
    ("labels", "extra", "words"),
    [
        ("a,cat\nb,cat\nc,cat\nd.jpg,cat\n", {}, "labels.csv:4: there is no photograph 'd.jpg'"),
        ("a,cat\nb,cat\n", {}, "c.jpg: the photograph has no row"),
        ("a,cat\nb,Cat\nc,\n", {}, "'Cat' and 'cat' differ by case only"),
        ("a,cat,dog\nb,cat\nc,\n", {}, "labels.csv:1: 3 columns"),
        ("a,cot\nb,cat\nc,\n", {"classes.txt": "cat\ndog\n"}, "'cot' is not in .*did you mean 'cat'"),
        (GOOD, {"classes.txt": "cat\ndog\ndog\n"}, "'dog' is listed twice"),
        (GOOD, {"train.txt": "a\nz\n"}, "train.txt:2: there is no photograph 'z'"),
        (GOOD, {"train.txt": "a\nb\n", "val.txt": "b\n"}, "'b' is in train.txt too"),
        (GOOD, {"train.txt": "a\na\n"}, "train.txt:2: 'a' is listed twice"),
        ("a,\nb,\nc,\n", {}, "no class is named"),
    ],
)
def test_faults_of_the_lists_are_named(tmp_path: Path, labels: str, extra: dict[str, str], words: str):
    folder(tmp_path, labels)
    for name, text in extra.items():
        (tmp_path / name).write_text(text)
    found = problems(tmp_path)
    assert len(found) == 1
    assert re.search(words, found[0])


def test_faults_of_the_files_are_named_all_at_once(tmp_path: Path):
    folder(tmp_path, "a,cat\nb,cat\nc,cat\nd,cat\n", ("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    (tmp_path / "images/a.jpg").write_bytes(b"no photograph")
    mask(tmp_path / "masks/b.png", [0, 1], size=(20, 31))
    mask(tmp_path / "masks/c.png", [0, 2])
    photo(tmp_path / "images/d.jpg", size=(5, 40))
    found = problems(tmp_path)
    assert len(found) == 4
    for name, words in (
        ("images/a.jpg", "not an image"),
        ("masks/b.png", "31 x 20 pixels, its photograph 30 x 20"),
        ("masks/c.png", "the value 2, but there are 1 classes"),
        ("images/d.jpg", "too few"),
    ):
        assert any(str(tmp_path / name) in text and words in text for text in found)


def test_equal_names_are_refused(tmp_path: Path):
    folder(tmp_path, "a,cat\nB,cat\nb,cat\n", ("a.jpg", "a.png", "b.jpg", "B.jpg"))
    found = problems(tmp_path)
    assert any("same name as a.jpg" in text for text in found)
    assert any("differs from 'B' by case only" in text for text in found)


@pytest.mark.parametrize("what", ["missing", "empty", "labels only"])
def test_no_data_at_all(tmp_path: Path, what: str):
    root = tmp_path / "data"
    if what != "missing":
        root.mkdir()
    if what == "labels only":
        (root / "labels.csv").write_text(GOOD)
    with pytest.raises(BadInput, match=str(root)):
        read_dataset(root)


def test_known_files_are_not_opened_again(tmp_path: Path):
    data = read_dataset(folder(tmp_path, GOOD))
    _, facts = inspect_files(data, FileFacts())
    (tmp_path / "images/b.jpg").write_bytes(b"broken since")
    known = FileFacts({name: replace(fact, size=(1, 1)) for name, fact in facts.items()})
    checked, again = inspect_files(data, known)
    assert [again[n].size for n in "ac"] == [(1, 1), (1, 1)]
    assert [p.sample for p in checked.problems] == ["b"]
