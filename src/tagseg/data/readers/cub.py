"""CUB-200-2011: photographs of 200 kinds of birds with one box each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagseg.data.dataset import Box, Dataset, Sample
from tagseg.data.images import read_index_png
from tagseg.data.readers import Reader
from tagseg.data.tables import read_text
from tagseg.errors import BadInput

_LISTS = ("images", "image_class_labels", "train_test_split", "bounding_boxes", "classes")


def find_cub(root: Path) -> Path | None:
    """Returns the folder with `images.txt` and `bounding_boxes.txt`, at `root` or in `root/CUB_200_2011`."""
    for base in (root, root / "CUB_200_2011"):
        if (base / "images.txt").exists() and (base / "bounding_boxes.txt").exists():
            return base
    return None


def read_cub(root: Path) -> Dataset:
    """Reads a CUB tree: its training split for training, its test split for evaluation.

    Masks come from `segmentations/` (a download of its own) where that folder is there: bird where at least half of
    the annotators drew it.
    """
    base = find_cub(root)
    if base is None:
        raise BadInput(f"{root}: no CUB-200-2011 tree here; it needs images.txt and bounding_boxes.txt.")
    rows = {name: _rows(base / f"{name}.txt", 1 if name in ("images", "classes") else -1) for name in _LISTS}
    classes = tuple(row[0] for row in rows["classes"].values())
    splits: dict[bool, list[Sample]] = {True: [], False: []}
    for number, (image,) in rows["images"].items():
        try:
            tag = int(rows["image_class_labels"][number][0]) - 1
            x, y, width, height = map(float, rows["bounding_boxes"][number])
            if not 0 <= tag < len(classes):
                raise ValueError
            training = rows["train_test_split"][number][0] == "1"
        except (KeyError, ValueError) as error:
            raise BadInput(
                f"{base}: image {number} ({image}) has no class of classes.txt, no box or no split; complete the lists."
            ) from error
        name = image.rpartition(".")[0]
        mask = base / "segmentations" / f"{name}.png"
        splits[training].append(
            Sample(
                name=name,
                image=base / "images" / image,
                tags=(tag,),
                mask=BirdMask(mask, tag) if mask.exists() else None,
                boxes=(Box(tag, x, y, x + width, y + height),),
            )
        )
    return Dataset(root=root, classes=classes, train=tuple(splits[True]), val=tuple(splits[False]))


@dataclass(frozen=True)
class BirdMask:
    """A mask of one class, read from a grey segmentation whose values count annotators."""

    path: Path
    tag: int

    def __call__(self) -> np.ndarray:
        values = read_index_png(self.path)
        return np.where(values >= 128, self.tag + 1, 0).astype(np.uint8)


def _rows(path: Path, most: int) -> dict[str, list[str]]:
    """The first word of every line to the other words, split `most` times; names of files may have spaces."""
    if not path.exists():
        raise BadInput(f"{path}: the list is missing; add it from the CUB-200-2011 archive.")
    lines = [line.strip().split(maxsplit=most) for line in read_text(path).splitlines() if line.strip()]
    short = next((line for line in lines if len(line) < 2), None)
    if short is not None:
        raise BadInput(f"{path}: the line '{short[0]}' has no second word; complete it.")
    return {first: rest for first, *rest in lines}


READER = Reader("CUB", find_cub, lambda root, _: read_cub(root), rank=40)
