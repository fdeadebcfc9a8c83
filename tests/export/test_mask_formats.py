"""What every format of masks owes its users: names and pixels come back, and other people's tools read them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tagseg.data.images import read_index_png, write_mask
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput
from tagseg.export.mask_formats import (
    ExportOptions,
    LabelledPhotograph,
    find_format,
    mask_formats,
    read_masks,
)
from tagseg.export.mask_formats.labelstudio import packed, unpacked
from tagseg.export.shapes import centre_polygons, corner_polygons, fill_centres, fill_corners

CLASSES = ("cat", "dog, grey", "Vögel & <x>")


def rough(seed: int, size: tuple[int, int], values: tuple[int, ...] = (0, 0, 1, 2, 3, 255)) -> np.ndarray:
    """Patches of all numbers, with holes, corners that touch, and everything at the borders."""
    found = np.random.default_rng(seed).choice(np.array(values, dtype=np.uint8), (size[0] // 3 + 1, size[1] // 3 + 1))
    return found.repeat(3, axis=0).repeat(3, axis=1)[: size[0], : size[1]].copy()


def thin() -> np.ndarray:
    mask = np.zeros((50, 33), dtype=np.uint8)
    mask[:, 5], mask[7] = 1, 2
    np.fill_diagonal(mask, 3)
    return mask


def single() -> np.ndarray:
    mask = np.zeros((9, 9), dtype=np.uint8)
    mask[4, 4], mask[8, 8], mask[0, 0] = 3, 1, 255
    return mask


MASKS = {
    "a": rough(0, (40, 61)),
    "b with spaces": rough(1, (30, 30)),
    "é/deep": rough(2, (7, 90)),
    "nothing": np.zeros((20, 21), dtype=np.uint8),
    "all": np.full((12, 5), 2, dtype=np.uint8),
    "unknown": np.full((6, 6), 255, dtype=np.uint8),
    "pixels": single(),
    "thin": thin(),
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledPhotograph]:
    folder = tmp_path_factory.mktemp("photographs")
    found = []
    for number, (name, mask) in enumerate(MASKS.items()):
        path = folder / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((*mask.shape, 3), 30 * number, dtype=np.uint8)).save(path)
        found.append(LabelledPhotograph(name, path, mask, "train" if number < 5 else "val"))
    return found


def written(kind: str, folder: Path, photographs: list[LabelledPhotograph], **options: Any) -> Path:
    return mask_formats()[kind].write(folder, iter(photographs), CLASSES, ExportOptions(**options))


@pytest.mark.parametrize(
    "options", [{}, {"instances": True}, {"polygons": True}], ids=["plain", "instances", "polygons"]
)
@pytest.mark.parametrize("kind", mask_formats())
def test_every_pixel_comes_back(kind: str, options: dict, photographs: list[LabelledPhotograph], tmp_path: Path):
    opened = written(kind, tmp_path / "out", photographs, **options)
    for place in (opened, tmp_path / "out"):
        found = read_masks(place)
        assert found.classes == CLASSES
        assert len(found.masks) == len(MASKS)
        for name, mask in MASKS.items():
            right = mask if mask_formats()[kind].unknown else np.where(mask == 255, 0, mask)
            np.testing.assert_array_equal(found.masks[name.replace("/", "_") if kind == "voc" else name](), right, name)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("seed", range(30))
def test_polygons_are_the_mask_again(seed: int):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 40, 2)) < rng.choice([0.05, 0.5, 0.8, 0.97])
    np.testing.assert_array_equal(fill_centres(centre_polygons(mask), mask.shape), mask)
    np.testing.assert_array_equal(fill_corners(corner_polygons(mask), mask.shape), mask)


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("instances", [False, True])
def test_pycocotools_reads_coco(
    polygons: bool, instances: bool, photographs: list[LabelledPhotograph], tmp_path: Path, capsys: Any
):
    coco_module = pytest.importorskip("pycocotools.coco")
    folder = written("coco", tmp_path, photographs, polygons=polygons, instances=instances)
    seen = 0
    for split in ("train", "val"):
        coco = coco_module.COCO(str(folder / f"instances_{split}.json"))
        for image in coco.loadImgs(coco.getImgIds()):
            mask = np.zeros((image["height"], image["width"]), dtype=np.uint8)
            for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
                where = coco.annToMask(annotation).astype(bool)
                mask[where] = annotation["category_id"]
                assert annotation["area"] == where.sum()
            np.testing.assert_array_equal(mask, MASKS[image["file_name"][:-4]])
            seen += 1
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())][:3] == list(CLASSES)
    assert seen == len(MASKS)


def test_supervision_reads_yolo(photographs: list[LabelledPhotograph], tmp_path: Path):
    supervision = pytest.importorskip("supervision")
    flat = [p for p in photographs if "/" not in p.name]
    data = written("yolo", tmp_path, flat)
    seen = 0
    for split in ("train", "val"):
        read = supervision.DetectionDataset.from_yolo(
            str(tmp_path / "images" / split), str(tmp_path / "labels" / split), str(data), force_masks=True
        )
        assert tuple(read.classes) == CLASSES
        for path, _, found in read:
            right = MASKS[Path(path).stem]
            mask = np.zeros(right.shape, dtype=np.uint8)
            for where, value in zip(found.mask if found.mask is not None else (), found.class_id, strict=True):
                mask[where.astype(bool)] = value + 1
            np.testing.assert_array_equal(mask, np.where(right == 255, 0, right))
            seen += 1
    assert seen == len(flat)


def test_label_studio_reads_strokes(photographs: list[LabelledPhotograph], tmp_path: Path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    tasks = json.loads(written("labelstudio", tmp_path, photographs, prefix="/data/?d=").read_text(encoding="utf-8"))
    values = {name: number for number, name in enumerate(CLASSES, start=1)} | {"ignore": 255}
    for task in tasks:
        right = MASKS[task["data"]["name"]]
        mask = np.zeros(right.shape, dtype=np.uint8)
        for stroke in task["predictions"][0]["result"]:
            assert (stroke["original_height"], stroke["original_width"]) == right.shape
            where = np.reshape(brush.decode_rle(stroke["value"]["rle"]), (*right.shape, 4))[..., 3] > 127
            mask[where] = values[stroke["value"]["brushlabels"][0]]
        np.testing.assert_array_equal(mask, right)
    assert tasks[1]["data"]["image"].startswith("/data/?d=")
    assert tasks[1]["data"]["image"].endswith("b%20with%20spaces.jpg")


def test_run_lengths_of_label_studio_itself():
    """`data/label_studio.json` is what `encode_rle` of label-studio-sdk 2.1.2 (Apache-2.0) makes of four masks."""
    for case in json.loads((Path(__file__).parent / "data" / "label_studio.json").read_text()):
        mask = np.array([[sign == "1" for sign in row] for row in case["mask"]])
        np.testing.assert_array_equal(unpacked(case["rle"], mask.shape), mask)
        np.testing.assert_array_equal(unpacked(packed(mask), mask.shape), mask)


def test_what_people_drew_in_label_studio_counts(photographs: list[LabelledPhotograph], tmp_path: Path):
    path = written("labelstudio", tmp_path, photographs[:2])
    (tmp_path / "config.xml").unlink()  # an export has none; classes are then in the order of the alphabet
    tasks = json.loads(path.read_text(encoding="utf-8"))
    drawn = tasks[0].pop("predictions")[0]["result"]
    tasks[0]["annotations"] = [{"result": []}, {"result": drawn[:1]}, {"result": [], "was_cancelled": True}]
    del tasks[0]["data"]["name"]
    path.write_text(json.dumps(tasks), encoding="utf-8")
    found = read_masks(path)
    assert found.classes == tuple(sorted(CLASSES))
    np.testing.assert_array_equal(found.masks["a"](), np.where(MASKS["a"] == 1, found.classes.index("cat") + 1, 0))


def test_cvat_reads_masks(photographs: list[LabelledPhotograph], tmp_path: Path):
    masks = pytest.importorskip("cvat_sdk.masks")
    import xml.etree.ElementTree as ElementTree

    root = ElementTree.parse(written("cvat", tmp_path, photographs, instances=True)).getroot()
    seen = 0
    for image in root.iter("image"):
        right = MASKS[str(image.get("name"))[:-4]]
        for shape in image.iter("mask"):
            runs = [float(n) for n in str(shape.get("rle")).split(",")]
            x, y, w, h = (float(str(shape.get(key))) for key in ("left", "top", "width", "height"))
            box = (x, y, x + w - 1, y + h - 1)
            where = masks.decode_mask([*runs, *box], image_width=right.shape[1], image_height=right.shape[0])
            value = 255 if shape.get("label") == "ignore" else CLASSES.index(str(shape.get("label"))) + 1
            assert (right[where] == value).all()
            seen += int(where.sum())
    assert seen == sum(np.count_nonzero(mask) for mask in MASKS.values())


def test_voc_and_coco_are_data_sets(photographs: list[LabelledPhotograph], tmp_path: Path):
    known = [LabelledPhotograph(p.name, p.photo, np.where(p.mask == 3, 0, p.mask), p.split) for p in photographs[:2]]
    names = ("cat", "dog", "horse")
    mask_formats()["voc"].write(tmp_path, iter(known), names, ExportOptions(instances=True))
    (tmp_path / "labelmap.txt").rename(tmp_path / "elsewhere.txt")  # whoever reads VOC knows its twenty classes
    data = read_dataset(tmp_path)
    assert [data.tag_names(s) for s in data.train] == [["cat", "dog"], ["cat", "dog"]]
    assert not data.problems
    objects = read_index_png(tmp_path / "SegmentationObject" / "a.png")
    np.testing.assert_array_equal(objects == 255, known[0].mask == 255)
    assert len(data.train[0].boxes) == len(set(objects.flat) - {0, 255})


def test_photographs_of_one_name_in_voc(photographs: list[LabelledPhotograph], tmp_path: Path):
    (one, two) = (LabelledPhotograph(n, photographs[0].photo, photographs[0].mask) for n in ("x/y", "x_y"))
    with pytest.raises(BadInput, match="x_y: in a tree of VOC it would have the name of x/y"):
        mask_formats()["voc"].write(tmp_path, iter([one, two]), CLASSES, ExportOptions())


@pytest.mark.parametrize("kind", [name for name in mask_formats() if name != "png"])
def test_a_photograph_that_nobody_knows(kind: str, tmp_path: Path):
    item = LabelledPhotograph("lonely", None, MASKS["thin"])
    with pytest.raises(BadInput, match="lonely: its photograph is not known"):
        mask_formats()[kind].write(tmp_path, iter([item]), CLASSES, ExportOptions())


@pytest.mark.parametrize(
    ("kind", "file", "old", "new", "said"),
    [
        ("coco", "annotations/instances_train.json", '"category_id": 1,', '"category_id": 77,', "category 77"),
        ("cvat", "annotations.xml", 'rle="', 'rle="5, ', "not as CVAT writes it"),
        ("cvat", "annotations.xml", "</annotations>", "", "no XML of CVAT"),
        ("labelstudio", "tasks.json", '"rle": [', '"rle": [9, ', "cannot be drawn"),
        ("labelstudio", "tasks.json", '"brushlabels": [', '"x": [', "not as Label Studio writes it"),
        ("yolo", "labels/train/a.txt", "0 ", "7 ", "no outline of 3 classes"),
        ("yolo", "data.yaml", "names", "nomes", "no data.yaml of YOLO"),
    ],
)
def test_damage_is_told(
    kind: str, file: str, old: str, new: str, said: str, photographs: list[LabelledPhotograph], tmp_path: Path
):
    written(kind, tmp_path, photographs[:1])
    text = (tmp_path / file).read_text(encoding="utf-8")
    (tmp_path / file).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        [draw() for draw in read_masks(tmp_path).masks.values()]


def test_names_that_there_are_not(tmp_path: Path):
    with pytest.raises(BadInput, match="format 'yol' does not exist; did you mean 'yolo'"):
        find_format("yol")
    with pytest.raises(BadInput, match="no masks that are known"):
        read_masks(tmp_path)
    with pytest.raises(BadInput, match="there are no such masks"):
        read_masks(tmp_path / "none")
    write_mask(tmp_path / "a.png", MASKS["thin"])
    assert read_masks(tmp_path).classes == ()


def test_png_opens_everywhere(photographs: list[LabelledPhotograph], tmp_path: Path):
    written("png", tmp_path, photographs)
    with Image.open(io.BytesIO((tmp_path / "é" / "deep.png").read_bytes())) as image:
        assert image.mode == "P"
    assert (tmp_path / "classes.txt").read_text(encoding="utf-8").splitlines() == ["background", *CLASSES]


def changed(kind: str, folder: Path, photographs: list[LabelledPhotograph], file: str, *pairs: tuple[str, str]) -> Path:
    written(kind, folder, photographs)
    text = (folder / file).read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (folder / file).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("kind", "file", "old", "new"),
    [
        ("coco", "annotations/instances_train.json", '"a.jpg"', '"/etc/a.jpg"'),
        ("coco", "annotations/instances_train.json", '"a.jpg"', '"../../a.jpg"'),
        ("coco", "annotations/instances_train.json", '"a.jpg"', r'"C:\\photos\\a.jpg"'),
        ("cvat", "annotations.xml", 'name="a.jpg"', 'name="../../a.jpg"'),
        ("labelstudio", "tasks.json", '"name": "a"', '"name": "/tmp/a"'),
    ],
)
def test_no_name_leads_out_of_the_folder(
    kind: str, file: str, old: str, new: str, photographs: list[LabelledPhotograph], tmp_path: Path
):
    found = read_masks(changed(kind, tmp_path, photographs[:2], file, (old, new)))
    assert set(found.masks) == {"a", "b with spaces"}


def test_two_photographs_of_one_name(photographs: list[LabelledPhotograph], tmp_path: Path):
    changed("coco", tmp_path, photographs[:2], "annotations/instances_train.json", ("b with spaces.jpg", "a.png"))
    with pytest.raises(BadInput, match="two photographs are called 'a'"):
        read_masks(tmp_path)


def test_keypoints_beside_instances_are_left_alone(photographs: list[LabelledPhotograph], tmp_path: Path):
    folder = written("coco", tmp_path, photographs[:1])
    text = (folder / "instances_train.json").read_text()
    (folder / "person_keypoints_train.json").write_text(json.dumps({**json.loads(text), "annotations": []}))
    np.testing.assert_array_equal(read_masks(tmp_path).masks["a"](), MASKS["a"])


def test_yolo_below_another_folder_of_that_name(photographs: list[LabelledPhotograph], tmp_path: Path):
    data = written("yolo", tmp_path / "images" / "set", photographs[:1])
    assert read_masks(data).masks["a"]().any()
    data.write_text(data.read_text().replace("images/train", "../images/train"))  # Roboflow's way
    assert read_masks(data).masks["a"]().any()
    for lines in data.parent.glob("labels/*/*.txt"):
        lines.unlink()
    with pytest.raises(BadInput, match="no photograph has a file of outlines"):
        read_masks(data)


def test_labels_of_voc_in_any_order(photographs: list[LabelledPhotograph], tmp_path: Path):
    mask_formats()["voc"].write(tmp_path, iter(photographs[:1]), ("#1", "dog", "cow"), ExportOptions())
    table = tmp_path / "labelmap.txt"
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head, *reversed(lines)]) + "\n")
    found = read_masks(tmp_path)
    assert found.classes == ("#1", "dog", "cow")
    np.testing.assert_array_equal(found.masks["a"](), MASKS["a"])
    table.write_text("\n".join([head, *lines]).replace("128,0,0", "1,2,3") + "\n")
    with pytest.raises(BadInput, match="one of PASCAL VOC's colours"):
        read_masks(tmp_path)


@pytest.mark.parametrize(
    ("kind", "file", "quote"), [("cvat", "annotations.xml", '"'), ("labelstudio", "tasks.json", '"')]
)
def test_labels_that_are_background_or_nothing(
    kind: str, file: str, quote: str, photographs: list[LabelledPhotograph], tmp_path: Path
):
    folder = changed(kind, tmp_path / "1", photographs[:1], file, (f"{quote}cat{quote}", f"{quote}background{quote}"))
    np.testing.assert_array_equal(read_masks(folder).masks["a"](), np.where(MASKS["a"] == 1, 0, MASKS["a"]))
    folder = changed(kind, tmp_path / "2", photographs[:1], file, (f"{quote}cat{quote}", f"{quote}cart{quote}"))
    with pytest.raises(BadInput, match="'cart' is none of the classes"):
        read_masks(folder).masks["a"]()


@pytest.mark.parametrize(
    ("kind", "file", "old", "new"),
    [
        ("cvat", "annotations.xml", "<mask ", "<box "),
        ("labelstudio", "tasks.json", '"type": "brushlabels"', '"type": "polygonlabels"'),
    ],
)
def test_shapes_that_are_no_masks_are_told(
    kind: str, file: str, old: str, new: str, photographs: list[LabelledPhotograph], tmp_path: Path
):
    with pytest.raises(BadInput, match="no mask can be made"):
        read_masks(changed(kind, tmp_path, photographs[:1], file, (old, new)))


def test_files_without_masks(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}')
    with pytest.raises(BadInput, match="there are no masks in it"):
        read_masks(tmp_path / "a.json")
