"""MS COCO 2014 (instances JSON through pycocotools): 80 classes, tags from the annotations, masks drawn on demand."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tagseg.data.dataset import Box, Dataset, Problem, Sample
from tagseg.data.readers import Reader
from tagseg.errors import BadInput


def find_coco(root: Path) -> Path | None:
    """Returns the folder itself, if it has annotations of COCO 2014."""
    return root if _annotations(root) else None


def _annotations(root: Path) -> dict[str, Path]:
    """Split -> instances JSON, for the splits that are there."""
    return {
        split: path
        for split in ("train", "val")
        if (path := root / "annotations" / f"instances_{split}2014.json").exists()
    }


def read_coco(root: Path) -> Dataset:
    """Reads a COCO tree. Classes are the categories by number; photographs without any are dropped."""
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise BadInput("Reading COCO needs pycocotools; install it with: pip install 'tagseg[coco]'.") from error
    files = _annotations(root)
    if "train" not in files:
        raise BadInput(f"{root / 'annotations'}: instances_train2014.json is missing; add the COCO annotations.")
    classes: tuple[str, ...] = ()
    problems: list[Problem] = []
    splits: dict[str, tuple[Sample, ...]] = {"train": (), "val": ()}
    for split, path in files.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # COCO() prints its progress
                coco = COCO(str(path))
        except ValueError as error:
            raise BadInput(f"{path}: this is not valid JSON ({error}); download it again.") from error
        categories = {number: index for index, number in enumerate(sorted(coco.cats))}
        names = tuple(coco.cats[number]["name"] for number in sorted(coco.cats))
        if classes and names != classes:
            raise BadInput(f"{path}: its categories differ from those of {files['train'].name}; use one release.")
        classes = names
        folder = next(
            (f for f in (root / f"{split}2014", root / "images" / f"{split}2014") if f.is_dir()),
            root / f"{split}2014",
        )
        samples = []
        for number in sorted(coco.imgs):
            annotations = coco.imgToAnns.get(number, [])
            if not annotations:
                continue
            info = coco.imgs[number]
            image = folder / info["file_name"]
            name = Path(info["file_name"]).stem
            if not image.exists():
                problems.append(Problem(f"{path}: there is no photograph {image}; add it or drop its entry.", name))
                continue
            tags = tuple(sorted({categories[a["category_id"]] for a in annotations}))
            shapes = tuple(
                (categories[a["category_id"]], float(a.get("area", 0)), a["segmentation"]) for a in annotations
            )
            boxes = tuple(
                Box(categories[a["category_id"]], x, y, x + w, y + h)
                for a in annotations
                if "bbox" in a
                for x, y, w, h in [a["bbox"]]
            )
            mask = CocoMask(info["height"], info["width"], shapes)
            samples.append(Sample(name, image, tags, mask, boxes=boxes))
        splits[split] = tuple(samples)
    return Dataset(root=root, classes=classes, train=splits["train"], val=splits["val"], problems=tuple(problems))


@dataclass(frozen=True)
class CocoMask:
    """The semantic mask of one photograph, drawn when it is called for.

    Where objects overlap, the smaller one lies on top.
    """

    height: int
    width: int
    shapes: tuple[tuple[int, float, Any], ...]  # class, area, polygons or run lengths

    def __call__(self) -> np.ndarray:
        from pycocotools import mask as coco_mask

        canvas = np.zeros((self.height, self.width), dtype=np.uint8)
        for label, _, shape in sorted(self.shapes, key=lambda item: -item[1]):
            if isinstance(shape, list):
                runs = coco_mask.merge(coco_mask.frPyObjects(shape, self.height, self.width))
            elif isinstance(shape["counts"], list):
                runs = coco_mask.frPyObjects(shape, self.height, self.width)
            else:
                runs = shape
            canvas[coco_mask.decode(runs).astype(bool)] = label + 1
        return canvas


READER = Reader("COCO", find_coco, lambda root, _: read_coco(root), rank=20)
