"""Boxes as a table: one line a box, `boxes.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from tagseg.export import BoxFormat, LocatedBox, Photograph
from tagseg.files import write_aside

COLUMNS = ("image", "label", "xmin", "ymin", "xmax", "ymax", "score")


def write(
    folder: Path, boxes: Sequence[LocatedBox], photographs: Mapping[str, Photograph], classes: Sequence[str]
) -> Path:
    """Writes `boxes.csv`, which tagseg reads beside a plain folder of photographs too."""
    del photographs, classes
    path = folder / "boxes.csv"
    with write_aside(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([getattr(box, column) for column in COLUMNS] for box in boxes)
    return path


FORMAT = BoxFormat("csv", "tables, and tagseg itself", write)
