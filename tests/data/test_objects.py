"""Data sets that are objects of Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tagseg
from tagseg.data.dataset import raise_problems
from tagseg.data.objects import read_samples
from tagseg.errors import BadInput
from tests.conftest import TINY
from tests.data.trees import photo

FILES = ("a/1.jpg", "a/2.jpg", "b/1.jpg")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    for number, name in enumerate(FILES):
        photo(tmp_path / name, size=(40, 50), seed=number)
    return [tmp_path / name for name in FILES]


def test_pairs(paths: list[Path]):
    data = read_samples([(paths[0], "cat"), (str(paths[1]), ["dog", "cat"])], val=[(paths[2], None)])
    assert data.classes == ("cat", "dog")
    assert {s.name: s.tags for s in data.samples} == {"a/1": (0,), "a/2": (0, 1), "b/1": ()}
    assert [s.name for s in data.val] == ["b/1"]
    assert tagseg.check(data, quiet=True).problems == ()


def test_tables_of_pandas(paths: list[Path]):
    pandas = pytest.importorskip("pandas")
    words = pandas.DataFrame({"file_name": paths, "labels": ["cat", "cat;dog", np.nan], "width": [1, 2, 3]})
    flags = pandas.DataFrame({"path": paths, "cat": [1, 1, 0], "dog": [0, 1, 0]})
    for table in (words, flags):
        assert {s.name: s.tags for s in read_samples(table).train} == {"a/1": (0,), "a/2": (0, 1), "b/1": ()}
    with pytest.raises(BadInput, match="call the one with the paths"):
        read_samples(pandas.DataFrame({"x": [1]}))


class Image:
    """As of Hugging Face's features."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class Label:
    """The same."""

    def int2str(self, number: int) -> str:
        return ("cat", "dog")[number]


class HuggingFace:
    """As much of a `datasets.Dataset` as is used."""

    column_names = ("image", "label")

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.features = rows, {"image": Image(), "label": Label()}

    def cast_column(self, name: str, feature: Image) -> "HuggingFace":
        assert name == "image"
        assert not feature.decode
        return self

    def __iter__(self) -> Any:
        return iter(self.rows)


def test_hugging_face(paths: list[Path], tmp_path: Path):
    content = paths[1].read_bytes()
    rows: list[dict[str, Any]] = [
        {"image": {"path": str(paths[0]), "bytes": None}, "label": 0},
        {"image": {"path": "x.jpg", "bytes": content}, "label": 1},
    ]
    with pytest.raises(BadInput, match="name a folder"):
        read_samples(HuggingFace(rows))
    data = read_samples(HuggingFace(rows), folder=tmp_path / "photos")
    assert [data.tag_names(s) for s in data.train] == [["cat"], ["dog"]]
    assert data.train[1].image.read_bytes() == content


@pytest.mark.parametrize("odd", [5, "folder", [], [5], [("a.jpg",)], [("a.jpg", "cat"), ("a.jpg", "dog")]])
def test_what_is_no_data_set(odd: Any):
    with pytest.raises(BadInput):
        raise_problems(read_samples(odd).problems, Path())  # problems: the same photograph twice


def test_they_can_be_learnt(paths: list[Path], tmp_path: Path):
    data = read_samples([(path, name) for path, name in zip(paths, ("cat", "dog", "cat"), strict=True)])
    found = tagseg.fit(data, tmp_path / "run", recipe="cam", settings=TINY, until="mine", quiet=True)
    assert (found.folder / "mine").is_dir()


@pytest.mark.parametrize(
    "labels",
    [
        (np.array(["cat"]), np.array(["cat", "dog"]), np.array([])),
        (("cat",), {"cat", "dog"}, ()),
        (["cat", None], ["cat", "dog"], [float("nan")]),
        (" cat ", "cat;dog", None),
    ],
)
def test_labels_of_any_kind(paths: list[Path], labels: tuple[Any, ...]):
    data = read_samples(zip(paths, labels, strict=True))
    assert data.classes == ("cat", "dog")
    assert [s.tags for s in data.train] == [(0,), (0, 1), ()]


@pytest.mark.parametrize("label", [b"cat", {"cat": 1, "dog": 0}, [["cat"]], True, 0.5])
def test_what_is_no_label_is_told(paths: list[Path], label: Any):
    with pytest.raises(BadInput, match="item 0 of the data"):
        read_samples([(paths[0], label)])


def test_odd_tables_of_pandas(paths: list[Path]):
    pandas = pytest.importorskip("pandas")
    arrays = pandas.DataFrame({"id": [7, 8, 9], "image": paths, "labels": [["cat"], np.array(["cat", "dog"]), []],
                               "box": [np.zeros(4)] * 3})  # fmt: skip
    gaps = pandas.DataFrame({"image": paths, "cat": ["1", "1", "0"], "dog": [np.nan, 1, None]})
    rows = pandas.DataFrame({"image": [paths[0], paths[1], paths[1], paths[2]], "label": ["cat", "cat", "dog", None]})
    for table in (arrays, gaps, rows):
        assert {s.name: s.tags for s in read_samples(table).train} == {"a/1": (0,), "a/2": (0, 1), "b/1": ()}
    whole = pandas.DataFrame({"image": paths, "label": [3.0, 7.0, np.nan], "label_name": ["cat", "dog", None]})
    assert read_samples(whole[["image", "label"]]).classes == ("3", "7")
    assert read_samples(whole).classes == ("cat", "dog")
    assert read_samples(whole.assign(split="train")).classes == ("cat", "dog")
    numbers = pandas.DataFrame({"image": paths, 0: [1, 1, 0], 1: [0, 1, 0]})
    assert read_samples(numbers).classes == ("0", "1")
    for odd, words in (
        ({"split": ["train", "val", "val"]}, "'split' is not read"),
        ({"dog": [1, 0, 3]}, "'dog' holds neither"),
    ):
        with pytest.raises(BadInput, match=words):
            read_samples(pandas.DataFrame({"image": paths, "cat": [1, 1, 0], **odd}))


def test_paths_are_made_plain(paths: list[Path]):
    data = read_samples([(paths[0].parent / ".." / "a" / "1.jpg", "cat"), (paths[2], "cat")])
    assert [s.name for s in data.train] == ["a/1", "b/1"]
    for odd in ("", "a\0b.jpg"):
        with pytest.raises(BadInput, match="no path"):
            read_samples([(odd, "cat")])
    folder = tagseg.check(read_samples([(paths[0].parent, "cat"), (paths[2], "cat")]), quiet=True)
    assert "cannot be read" in folder.problems[0]
