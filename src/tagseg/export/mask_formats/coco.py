"""COCO's JSON: run lengths of every class or object in every photograph, or polygons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tagseg.data.dataset import DrawnMask
from tagseg.data.readers.coco import (
    CocoMask,
    category_name,
    check_pycocotools,
    coco_class_names,
    entries_of,
    forget_coco,
    id_of,
    inside,
    is_coco,
    load_coco,
    shape_of,
)
from tagseg.data.tables import is_background
from tagseg.errors import BadInput
from tagseg.export.mask_formats import (
    UNKNOWN,
    ExportOptions,
    LabelledPhotograph,
    MaskFormat,
    MaskSet,
    add_mask,
    label_value,
    named_classes,
    photo_of,
)
from tagseg.export.shapes import box_of, corner_polygons, objects
from tagseg.files import write_json
from tagseg.labels import IGNORE
from tagseg.run_lengths import encode_runs


def write(
    folder: Path, photographs: Iterable[LabelledPhotograph], classes: Sequence[str], options: ExportOptions
) -> Path:
    """Writes `annotations/instances_SPLIT.json`; categories have the numbers of masks, 255 for unknown pixels."""
    tables: dict[str, dict[str, list[Any]]] = {}
    for item in photographs:
        photo_of(item)
        table = tables.setdefault(item.split, {"images": [], "annotations": []})
        height, width = item.mask.shape
        number = len(table["images"]) + 1
        table["images"].append({"id": number, "file_name": item.file_name, "width": width, "height": height})
        for value, where in objects(item.mask, options.instances):
            table["annotations"].append(
                {
                    "id": len(table["annotations"]) + 1,
                    "image_id": number,
                    "category_id": value,
                    "segmentation": _polygons(where) if options.polygons else encode_runs(where),
                    "bbox": list(box_of(where)),
                    "area": int(where.sum()),
                    "iscrowd": 0,
                }
            )
    folder /= "annotations"
    for split, table in tables.items():
        unknown = any(a["category_id"] == IGNORE for a in table["annotations"])
        names = [*enumerate(classes, start=1), *([(IGNORE, UNKNOWN)] if unknown else [])]
        categories = [{"id": value, "name": name, "supercategory": ""} for value, name in names]
        write_json(folder / f"instances_{split}.json", {**table, "categories": categories}, indent=None)
    return folder


def _polygons(where: np.ndarray) -> list[list[int]]:
    return [polygon.ravel().tolist() for polygon in corner_polygons(where)]


def holds(path: Path) -> bool:
    """Returns whether a file is COCO's JSON, or a folder, or `annotations` in it, holds some."""
    return bool(_files(path))


def read(path: Path) -> MaskSet:
    """Reads the masks in a file of COCO's JSON, or in all those of a folder; categories count in the order of their
    numbers, and where objects overlap the smaller one lies on top.

    Raises:
        BadInput: pycocotools is missing, or a file is damaged.
    """
    check_pycocotools()
    files = _files(path)
    classes = named_classes((name for file in files for name in coco_class_names(file)), path)
    masks: dict[str, DrawnMask] = {}
    for file in files:
        said = load_coco(file)
        names = {id_of(c.get("id")): category_name(c) for c in entries_of(said, "categories", file)}
        shapes: dict[Any, list[tuple[int, float, Any]]] = defaultdict(list)
        for annotation in entries_of(said, "annotations", file):
            name = names.get(id_of(annotation.get("category_id")))
            if name is None:
                raise BadInput(f"{file}: an annotation is of category {annotation.get('category_id')}, which is none.")
            if not is_background(name):
                area, shape = annotation.get("area"), shape_of(annotation.get("segmentation"))
                if shape is None:
                    raise BadInput(f"{file}: annotation {annotation.get('id')} has no outline; give masks, not boxes.")
                pixels = float(area) if isinstance(area, int | float) else 0.0
                shapes[id_of(annotation.get("image_id"))].append((label_value(name, classes) - 1, pixels, shape))
        for image in entries_of(said, "images", file):
            name, height, width = (image.get(key) for key in ("file_name", "height", "width"))
            below = inside(name)
            if below is None or not all(isinstance(n, int) and n > 0 for n in (height, width)):
                raise BadInput(f"{file}: image {image.get('id')} has no file_name, height, or width; add them.")
            stem = str(PurePosixPath(below).with_suffix(""))
            add_mask(masks, stem, CocoMask(height, width, file, tuple(shapes[id_of(image.get("id"))])), file)
    forget_coco()
    return MaskSet(classes, masks)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and is_coco(path) else []
    found = [p for place in (path / "annotations", path) for p in sorted(place.glob("*.json")) if is_coco(p)]
    return [p for p in found if p.name.startswith("instances_")] or found  # beside them lie keypoints and captions


FORMAT = MaskFormat("coco", "Detectron2, MMDetection, FiftyOne, Roboflow, CVAT", write, holds, read)
