"""Boxes as COCO's JSON: images, annotations and categories, `boxes.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tagseg.export import BoxFormat, LocatedBox, Photograph
from tagseg.files import write_json


def write(
    folder: Path, boxes: Sequence[LocatedBox], photographs: Mapping[str, Photograph], classes: Sequence[str]
) -> Path:
    """Writes `boxes.json`; images and categories are numbered from 1."""
    numbers = {name: number for number, name in enumerate(photographs, start=1)}
    annotations = []
    for number, box in enumerate(boxes, start=1):
        width, height = box.xmax - box.xmin, box.ymax - box.ymin
        annotations.append(
            {
                "id": number,
                "image_id": numbers[box.image],
                "category_id": box.number + 1,
                "bbox": [box.xmin, box.ymin, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": box.score,
            }
        )
    images = [
        {"id": numbers[name], "file_name": photo.path.name, "width": photo.width, "height": photo.height}
        for name, photo in photographs.items()
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    path = folder / "boxes.json"
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
    return path


FORMAT = BoxFormat("coco", "annotation tools, as COCO's JSON", write)
