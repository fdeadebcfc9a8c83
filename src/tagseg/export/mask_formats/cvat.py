"""CVAT's XML for images (version 1.1): run lengths of every class or object, row by row within its box."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tagseg.data.dataset import DrawnMask
from tagseg.data.readers.coco import inside
from tagseg.errors import BadInput, brief
from tagseg.export.mask_formats import (
    ExportOptions,
    LabelledPhotograph,
    MaskFormat,
    MaskSet,
    add_mask,
    colour_of,
    label_name,
    label_value,
    named_classes,
    names_and_unknown,
    photo_of,
)
from tagseg.export.shapes import box_of, corner_polygons, fill_corners, objects
from tagseg.files import write_text
from tagseg.labels import IGNORE
from tagseg.run_lengths import runs_of

FILE = "annotations.xml"


def write(
    folder: Path, photographs: Iterable[LabelledPhotograph], classes: Sequence[str], options: ExportOptions
) -> Path:
    """Writes `annotations.xml`: masks, or polygons."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    unknown = False
    for number, item in enumerate(photographs):
        photo_of(item)
        height, width = item.mask.shape
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=item.file_name, subset=item.split, width=str(width), height=str(height)
        )
        for value, where in objects(item.mask, options.instances):
            unknown = unknown or value == IGNORE
            common = {"label": label_name(value, classes), "source": "auto", "occluded": "0", "z_order": "0"}
            if options.polygons:
                for polygon in corner_polygons(where):
                    points = ";".join(f"{x},{y}" for x, y in polygon)
                    ElementTree.SubElement(image, "polygon", common, points=points)
                continue
            x, y, w, h = box_of(where)
            runs = ", ".join(map(str, runs_of(where[y : y + h, x : x + w].T)))
            place = {"left": str(x), "top": str(y), "width": str(w), "height": str(h)}
            ElementTree.SubElement(image, "mask", {**common, "rle": runs, **place})
    for value, name in enumerate(names_and_unknown(classes, unknown), start=1):
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "color").text = colour_of(IGNORE if value > len(classes) else value)
    ElementTree.indent(root)
    write_text(folder / FILE, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n")
    return folder / FILE


def holds(path: Path) -> bool:
    """Returns whether this is CVAT's XML, or a folder with `annotations.xml`."""
    path = path / FILE if path.is_dir() else path
    if not path.is_file() or path.suffix.lower() != ".xml":
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        return "<annotations" in file.read(2048)


def read(path: Path) -> MaskSet:
    """Reads masks and polygons; higher ones lie on top, and of those of one height the later.

    Raises:
        BadInput: the file is damaged.
    """
    path = path / FILE if path.is_dir() else path
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise BadInput(f"{path}: this is no XML of CVAT ({brief(error)}).") from error
    shapes = [shape for image in root.iter("image") for shape in image if shape.tag != "tag"]
    strange = next((shape.tag for shape in shapes if shape.tag not in ("mask", "polygon")), None)
    if strange is not None:
        raise BadInput(f"{path}: there is a {strange} in it, of which no mask can be made; remove it in CVAT.")
    listed = [name.text or "" for label in root.iter("label") for name in label.findall("name")]
    classes = named_classes(listed or [str(shape.get("label")) for shape in shapes], path)
    masks: dict[str, DrawnMask] = {}
    for image in root.iter("image"):
        stem = str(PurePosixPath(inside(image.get("name")) or "").with_suffix(""))
        add_mask(masks, stem if stem != "." else None, partial(_draw, path, image, classes), path)
    return MaskSet(classes, masks)


def _draw(path: Path, image: ElementTree.Element, classes: tuple[str, ...]) -> np.ndarray:
    try:
        size = (int(image.attrib["height"]), int(image.attrib["width"]))
        mask = np.zeros(size, dtype=np.uint8)
        shapes = [shape for shape in image if shape.tag in ("mask", "polygon")]
        for shape in sorted(shapes, key=lambda shape: int(shape.get("z_order", "0"))):
            mask[_where(shape.tag, shape.attrib, size)] = label_value(shape.attrib["label"], classes)
    except (KeyError, ValueError) as error:
        raise BadInput(f"{path}: {image.get('name')} is not as CVAT writes it ({brief(error)}).") from error
    return mask


def _where(kind: str, said: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    if kind == "polygon":
        corners = [corner.split(",") for corner in said["points"].split(";")]
        return fill_corners([np.array(corners, dtype=np.float64)], size)
    x, y, width, height = (int(float(said[key])) for key in ("left", "top", "width", "height"))
    runs = np.array(said["rle"].split(","), dtype=np.int64)
    if runs.sum() != width * height or runs.min() < 0 or min(x, y) < 0 or x + width > size[1] or y + height > size[0]:
        raise ValueError(f"run lengths of {runs.sum()} pixels for {width} x {height} at {x}, {y}")
    where = np.zeros(size, dtype=bool)
    where[y : y + height, x : x + width] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return where


FORMAT = MaskFormat("cvat", "CVAT, for correcting", write, holds, read)
