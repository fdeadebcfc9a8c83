from pathlib import Path

import pytest

from tagseg.data.readers.voc import VOC_CLASSES
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput
from tests.data.trees import mask, photo


def voc(root: Path, train_list: str = "Segmentation/train.txt") -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    for number, objects in (("2007_000001", ["person", "dog", "dog"]), ("2007_000002", ["tvmonitor"])):
        photo(base / "JPEGImages" / f"{number}.jpg")
        (base / "Annotations").mkdir(exist_ok=True)
        names = "".join(f"<object><name>{o}</name><difficult>1</difficult></object>" for o in objects)
        (base / "Annotations" / f"{number}.xml").write_text(f"<annotation>{names}</annotation>")
        mask(base / "SegmentationClass" / f"{number}.png", [0, 15, 255])
    for path, text in ((train_list, "2007_000001\n"), ("Segmentation/val.txt", "2007_000002\n")):
        (base / "ImageSets" / path).parent.mkdir(parents=True, exist_ok=True)
        (base / "ImageSets" / path).write_text(text)
    return root


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_tags_from_the_annotations(tmp_path: Path, below: str):
    data = read_dataset(voc(tmp_path) / below)
    assert data.classes == VOC_CLASSES
    assert [s.name for s in data.train] == ["2007_000001"]
    assert data.tag_names(data.train[0]) == ["dog", "person"]
    assert data.tag_names(data.val[0]) == ["tvmonitor"]
    assert data.problems == ()


def test_tags_from_the_masks(tmp_path: Path):
    data = read_dataset(voc(tmp_path), tags="masks")
    assert data.tag_names(data.val[0]) == ["person"]


@pytest.mark.parametrize("line", ["2007_000002", "/JPEGImages/2007_000002.jpg /SegmentationClassAug/2007_000002.png"])
def test_trainaug_is_preferred_in_either_notation(tmp_path: Path, line: str):
    base = voc(tmp_path) / "VOCdevkit" / "VOC2012"
    (base / "SegmentationClass" / "2007_000002.png").unlink()
    mask(base / "SegmentationClassAug" / "2007_000002.png", [20])
    (base / "ImageSets/SegmentationAug").mkdir()
    (base / "ImageSets/SegmentationAug/trainaug.txt").write_text(line + "\n")
    data = read_dataset(tmp_path)
    assert [s.name for s in data.train] == ["2007_000002"]
    assert data.train[0].mask == base / "SegmentationClassAug/2007_000002.png"


def test_faults_are_named(tmp_path: Path):
    base = voc(tmp_path) / "VOCdevkit" / "VOC2012"
    (base / "Annotations/2007_000001.xml").write_text("<annotation><object><name>dgo</name></object></annotation>")
    (base / "Annotations/2007_000002.xml").write_text("<annotation>")
    (base / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n2007_000009\n")
    texts = [p.text for p in read_dataset(tmp_path).problems]
    assert len(texts) == 3
    assert any("'dgo' is not a VOC class; did you mean 'dog'?" in t for t in texts)
    assert any("2007_000009.jpg" in t for t in texts)
    assert any("not valid XML" in t for t in texts)


def test_any_suffix_and_name(tmp_path: Path):
    base = voc(tmp_path) / "VOCdevkit" / "VOC2012"
    names = {"DJI.0001.v2": "DJI.0001.v2.JPG", "my photo": "my photo.png", "DJI.0001.v3": "DJI.0001.v3.jpeg"}
    for number, (name, file) in enumerate(names.items()):
        photo(base / "JPEGImages" / file.replace(".JPG", ".jpg"), seed=number)
        (base / "JPEGImages" / file.replace(".JPG", ".jpg")).rename(base / "JPEGImages" / file)
        mask(base / "SegmentationClass" / f"{name}.png", [0, 12])
        (base / f"Annotations/{name}.xml").write_text("<annotation><object><name>dog</name></object></annotation>")
    lines = "\ufeffDJI.0001.v2\nmy photo\nDJI.0001.v3.jpeg 1\n"
    (base / "ImageSets/Segmentation/train.txt").write_text(lines, encoding="utf-8")
    data = read_dataset(tmp_path)
    assert data.problems == ()
    assert [s.name for s in data.train] == list(names)
    assert [s.image.name for s in data.train] == list(names.values())
    assert all(s.mask is not None and s.tags == (11,) for s in data.train)


def test_odd_boxes_and_encodings_are_no_tracebacks(tmp_path: Path):
    base = voc(tmp_path) / "VOCdevkit" / "VOC2012"
    path = base / "Annotations/2007_000001.xml"
    box = "<bndbox><xmin></xmin><ymin>1</ymin><xmax>x</xmax><ymax>5</ymax></bndbox>"
    path.write_text(f"<annotation><object><name>dog</name>{box}</object></annotation>")
    data = read_dataset(tmp_path)
    assert (data.train[0].tags, data.train[0].boxes, data.problems) == ((11,), (), ())
    for content in (
        b'<?xml version="1.0" encoding="none"?><a/>',
        b"\xff\xfe\x00",
        b'<?xml version="1.0" encoding="utf-16"?><a/>',
    ):
        path.write_bytes(content)
        assert len(read_dataset(tmp_path).problems) == 1
    (base / "ImageSets/Segmentation/train.txt").write_bytes(b"\xff\xfe2")
    with pytest.raises(BadInput, match="UTF-8"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "<annotation xmlns='http://x.y'><object><name>cat</name></object></annotation>",
        "<annotation><Object><Name>cat</Name></Object></annotation>",
        "<annotations><annotation><object><name>cat</name><part><name>head</name></part></object></annotation></annotations>",
    ],
)
def test_annotations_in_other_dress(tmp_path: Path, words: str):
    base = voc(tmp_path) / "VOCdevkit" / "VOC2012"
    (base / "Annotations" / "2007_000001.xml").write_text(words)
    data = read_dataset(tmp_path)
    assert data.problems == ()
    assert data.tag_names(data.train[0]) == ["cat"]


def test_another_year(tmp_path: Path):
    base = voc(tmp_path) / "VOCdevkit" / "VOC2012"
    base.rename(base.parent / "VOC2007")
    for root in (tmp_path, base.parent):
        assert len(read_dataset(root).train) == 1
