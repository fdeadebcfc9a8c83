"""PASCAL VOC 2012 devkit, with the SBD extension (`trainaug`) where its lists and masks are at hand."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tagseg.data.dataset import Box, Dataset, Problem, Sample, read_mask
from tagseg.data.images import IMAGE_SUFFIXES
from tagseg.data.readers import Reader, Tags
from tagseg.data.tables import read_text, without_suffix
from tagseg.data.walking import composed
from tagseg.errors import BadInput, brief, nearest

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def find_voc(root: Path) -> Path | None:
    """Returns the folder with `JPEGImages` and `ImageSets`, at `root` or in the devkit's usual places below it."""
    years = sorted((*root.glob("VOC[0-9]*"), *root.glob("VOCdevkit/VOC[0-9]*")), reverse=True)
    for base in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012", *years):
        if (base / "JPEGImages").is_dir() and (base / "ImageSets").is_dir():
            return base
    return None


def read_voc(root: Path, tags: Tags = "xml") -> Dataset:
    """Reads a VOC tree: training on `trainaug` where that list exists, else on `train`; evaluation on `val`.

    Tags come from the XML annotation (every object, difficult ones too) or from the classes in the mask.
    """
    base = find_voc(root)
    if base is None:
        raise BadInput(f"{root}: no VOC devkit here; it needs JPEGImages/ and ImageSets/Segmentation/.")
    lists = {
        name: path
        for folder in ("SegmentationAug", "Segmentation")
        for name in ("trainaug", "train_aug", "train", "val")
        if (path := base / "ImageSets" / folder / f"{name}.txt").exists()
    }
    train_list = lists.get("trainaug") or lists.get("train_aug") or lists.get("train")
    if train_list is None:
        raise BadInput(f"{base / 'ImageSets' / 'Segmentation'}: neither trainaug.txt nor train.txt is there.")
    problems: list[Problem] = []

    photographs = _by_stem(base / "JPEGImages", IMAGE_SUFFIXES)
    drawn, augmented = (_by_stem(base / f"SegmentationClass{ending}", (".png",)) for ending in ("", "Aug"))

    def samples(path: Path | None) -> tuple[Sample, ...]:
        if path is None:
            return ()
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        found = []
        for line in lines:
            name, image = _photograph(line, photographs)
            if image is None:
                missing = base / "JPEGImages" / f"{name}.jpg"
                problems.append(Problem(f"{path}: there is no photograph {missing}; add it or remove the line.", name))
                continue
            mask = next((m for masks in (drawn, augmented) if (m := masks.get(name)) is not None), None)

            boxes = read_xml_boxes(base / "Annotations" / f"{name}.xml", VOC_CLASSES)
            found.append(Sample(name, image, tags=_tags(base, name, mask, tags, problems), mask=mask, boxes=boxes))
        return tuple(found)

    train, val = samples(train_list), samples(lists.get("val"))
    notes = []
    broken = [s.name for s in (*train, *val) if tags == "xml" and len({b.tag for b in s.boxes}) < len(s.tags)]
    if broken:
        notes.append(
            f"{base / 'Annotations' / broken[0]}.xml: an object has no whole box, which only measuring needs; the same "
            f"in all: {len(broken)}."
        )
    odd = sorted(
        p.name for folder in (drawn, augmented) for p in folder.values() if composed(p.stem) not in photographs
    )
    there = base / "SegmentationClass"
    if there.is_dir() and not drawn and any(there.iterdir()):
        notes.append(f"{there}: none of its files is a PNG, and no mask is read therefore.")
    if odd:
        notes.append(f"{base / 'SegmentationClass'}: masks of no photograph, such as {odd[0]}: {len(odd)}.")
    return Dataset(root, VOC_CLASSES, train, val, tuple(problems), tuple(notes))


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder by their names without suffix, which may have dots and spaces."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {composed(p.stem): p for p in reversed(files) if p.suffix.lower() in suffixes and not p.name.startswith(".")}


def _photograph(line: str, photographs: dict[str, Path]) -> tuple[str, Path | None]:
    """The name and file of the photograph that a line of a list means.

    Lists name photographs with or without a suffix, by paths of image and mask, and with 1 and -1 behind.
    """
    words = line.split()
    for said in (line, words[0], " ".join(words[:-1])):
        name = composed(said).rpartition("/")[2]
        for known in (name, without_suffix(name)):
            if known in photographs:
                return known, photographs[known]
    return without_suffix(composed(words[0]).rpartition("/")[2]), None


def _tags(base: Path, name: str, mask: Path | None, source: str, problems: list[Problem]) -> tuple[int, ...]:
    if source == "masks":
        if mask is None:
            problems.append(Problem(f"{base}: '{name}' has no mask to take tags from; set data.tags=xml.", name))
            return ()
        return tuple(sorted({int(v) - 1 for v in set(read_mask(mask).flat) if 0 < v <= len(VOC_CLASSES)}))
    path = base / "Annotations" / f"{name}.xml"
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        problems.append(Problem(f"{path}: the annotation is missing; add it or set data.tags=masks.", name))
        return ()
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        problems.append(Problem(f"{path}: the annotation is not valid XML ({brief(error)}); replace it.", name))
        return ()
    found = set()
    for item in _objects(root):
        label = _label(item)
        if label in VOC_CLASSES:
            found.add(VOC_CLASSES.index(label))
        else:
            hint = nearest(label, list(VOC_CLASSES)) or "; correct it, or export other classes as COCO."
            problems.append(Problem(f"{path}: '{label}' is not a VOC class{hint}", name))
    return tuple(sorted(found))


def read_xml_boxes(path: Path, classes: tuple[str, ...]) -> tuple[Box, ...]:
    """Reads the boxes of an annotation in VOC's XML, whose pixels count from 1 and include the last.

    A missing or damaged file, an unknown class or an object without a box gives none.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError):
        return ()
    boxes = []
    for item in _objects(root):
        label, edges = _label(item), _edges(item)
        if edges is not None and label in classes:
            x0, y0, x1, y1 = edges
            boxes.append(Box(classes.index(label), max(0.0, x0 - 1), max(0.0, y0 - 1), x1, y1))
    return tuple(boxes)


def _objects(root: ElementTree.Element) -> list[ElementTree.Element]:
    """The objects of an annotation, in whatever namespace and case they are; parts of objects are none."""
    parents = [root, *(item for item in root if _tag_name(item) == "annotation")]
    return [item for parent in parents for item in parent if _tag_name(item) == "object"]


def _tag_name(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2].casefold()


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element | None:
    return next((child for child in element if _tag_name(child) == name), None)


def _label(item: ElementTree.Element) -> str:
    name = _child(item, "name")
    return composed((name.text or "").strip()) if name is not None else ""


def _edges(item: ElementTree.Element) -> tuple[float, float, float, float] | None:
    """The edges xmin, ymin, xmax, ymax of an object, as they are written; None if they are no box."""
    box = _child(item, "bndbox")
    if box is None:
        return None
    found = [_child(box, edge) for edge in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x0, y0, x1, y1 = (float((edge.text or "") if edge is not None else "") for edge in found)
    except ValueError:
        return None
    return (x0, y0, x1, y1) if x1 >= x0 and y1 >= y0 else None


READER = Reader("VOC", find_voc, read_voc, rank=10)
