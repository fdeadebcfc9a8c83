"""A tree as that of PASCAL VOC 2012: photographs, palette PNGs, boxes of objects, and lists of the splits."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tagseg.data.dataset import DrawnMask
from tagseg.data.images import read_index_png, voc_palette, write_mask
from tagseg.data.readers.voc import VOC_CLASSES, find_voc
from tagseg.data.tables import read_text
from tagseg.data.walking import composed
from tagseg.errors import BadInput
from tagseg.export.mask_formats import (
    ExportOptions,
    LabelledPhotograph,
    MaskFormat,
    MaskSet,
    copy_photograph,
    named_classes,
    photo_of,
)
from tagseg.export.shapes import box_of, objects
from tagseg.files import write_text
from tagseg.labels import IGNORE

LABELS = "labelmap.txt"


def write(
    folder: Path, photographs: Iterable[LabelledPhotograph], classes: Sequence[str], options: ExportOptions
) -> Path:
    """Writes `JPEGImages`, `SegmentationClass`, `SegmentationObject`, `Annotations`, `ImageSets/Segmentation` and
    `labelmap.txt` (names and colours, as CVAT and Datumaro read it).

    Objects are the parts that hang together, or whole classes; folders in a photograph's name become underscores.
    """
    lists: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for item in photographs:
        name = item.name.replace("/", "_")
        if seen.setdefault(name, item.name) != item.name:
            raise BadInput(f"{item.name}: in a tree of VOC it would have the name of {seen[name]}; rename one of them.")
        photo = photo_of(item)
        copy_photograph(photo, folder / "JPEGImages" / f"{name}{photo.suffix}")
        write_mask(folder / "SegmentationClass" / f"{name}.png", item.mask)
        numbers = np.where(item.mask == IGNORE, IGNORE, 0).astype(np.uint8)
        tree = _annotation(name, photo, item.mask.shape)
        found = [(v, where) for v, where in objects(item.mask, options.instances) if v != IGNORE]
        for number, (value, where) in enumerate(found, start=1):
            numbers[where] = min(number, IGNORE - 1)
            _add_object(tree, classes[value - 1], box_of(where))
        write_mask(folder / "SegmentationObject" / f"{name}.png", numbers)
        ElementTree.indent(tree)
        write_text(folder / "Annotations" / f"{name}.xml", ElementTree.tostring(tree, encoding="unicode") + "\n")
        lists.setdefault(item.split, []).append(name)
    for split, names in lists.items():
        write_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{name}\n" for name in names))
    colours = [",".join(map(str, colour)) for colour in voc_palette()]
    lines = [f"{name}:{colours[value]}::" for value, name in enumerate(["background", *classes])]
    write_text(folder / LABELS, "\n".join(["# label:color_rgb:parts:actions", *lines]) + "\n")
    return folder


def _annotation(name: str, photo: Path, size: tuple[int, ...]) -> ElementTree.Element:
    tree = ElementTree.Element("annotation")
    ElementTree.SubElement(tree, "filename").text = f"{name}{photo.suffix}"
    part = ElementTree.SubElement(tree, "size")
    for word, number in (("width", size[1]), ("height", size[0]), ("depth", 3)):
        ElementTree.SubElement(part, word).text = str(number)
    ElementTree.SubElement(tree, "segmented").text = "1"
    return tree


def _add_object(tree: ElementTree.Element, label: str, box: tuple[int, int, int, int]) -> None:
    x, y, width, height = box
    item = ElementTree.SubElement(tree, "object")
    ElementTree.SubElement(item, "name").text = label
    ElementTree.SubElement(item, "difficult").text = "0"
    edges = ElementTree.SubElement(item, "bndbox")  # pixels count from 1, and the last one is inside
    for word, number in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + width), ("ymax", y + height)):
        ElementTree.SubElement(edges, word).text = str(number)


def holds(path: Path) -> bool:
    """Returns whether this is a folder with `SegmentationClass`."""
    return path.is_dir() and ((find_voc(path) or path) / "SegmentationClass").is_dir()


def read(path: Path) -> MaskSet:
    """Reads the masks in `SegmentationClass`; their classes stand in `labelmap.txt`, or are the twenty of VOC."""
    base = find_voc(path) or path
    labels = next((p for p in (base / LABELS, path / LABELS) if p.is_file()), None)
    classes: tuple[str, ...] = VOC_CLASSES
    if labels is not None:
        classes = _by_colour(labels)
    masks = sorted((base / "SegmentationClass").glob("*.png"))
    named = () if labels is None else (labels,)
    return MaskSet(classes, {composed(p.stem): DrawnMask(partial(read_index_png, p), (p, *named)) for p in masks})


def _by_colour(labels: Path) -> tuple[str, ...]:
    """The classes of a table of names and colours, in the order of the numbers that VOC's colours stand for."""
    numbers = {tuple(colour): number for number, colour in enumerate(voc_palette().tolist())}
    found: dict[int, str] = {}
    for line in read_text(labels).splitlines():
        if not line.strip() or line.startswith("# label"):
            continue
        try:
            name, colour, *_ = line.rsplit(":", 3)
            number = numbers[tuple(int(part) for part in colour.split(","))]
        except (ValueError, KeyError) as error:
            raise BadInput(
                f"{labels}: '{line}' gives no name one of PASCAL VOC's colours; export with these."
            ) from error
        found[number] = name
    classes = named_classes((found[number] for number in sorted(found) if 0 < number < IGNORE), labels)
    if sorted(n for n in found if 0 < n < IGNORE) != list(range(1, len(classes) + 1)):
        raise BadInput(f"{labels}: the colours are not the first {len(classes)} of PASCAL VOC; export with these.")
    return classes


FORMAT = MaskFormat("voc", "codes for PASCAL VOC, CVAT, Datumaro", write, holds, read, photographs=True)
