"""DAGM 2007: textures with and without a defect, which an ellipse marks roughly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagseg.data.dataset import Dataset, Sample
from tagseg.data.images import read_index_png
from tagseg.data.readers import Reader
from tagseg.errors import BadInput


def find_dagm(root: Path) -> Path | None:
    """Returns the folder itself, if it has DAGM's folders of classes."""
    return root if _classes(root) else None


def _classes(root: Path) -> list[Path]:
    """The folders `Class1` to `Class10` that are there, each with `Train/` or `Test/`."""
    folders = (root / f"Class{number}" for number in range(1, 11))
    found = [f for f in folders if any((f / split).is_dir() for split in ("Train", "Test"))]
    return found if any((f / "Train" / "Label").is_dir() or (f / "Test" / "Label").is_dir() for f in found) else []


def read_dagm(root: Path) -> Dataset:
    """Reads a DAGM tree as the one class `defect`: a photograph has it when `Label/NAME_label.PNG` is there."""
    folders = _classes(root)
    if not folders:
        raise BadInput(f"{root}: no DAGM tree here; it needs Class1/Train/ and so on.")
    splits = {}
    for split in ("Train", "Test"):
        samples = []
        for folder in folders:
            for image in sorted(p for p in (folder / split).glob("*") if p.suffix.lower() == ".png"):
                label = next((image.parent / "Label").glob(f"{image.stem}_label.[pP][nN][gG]"), None)
                samples.append(
                    Sample(
                        name=f"{folder.name}/{split}/{image.stem}",
                        image=image,
                        tags=() if label is None else (0,),
                        mask=DefectMask(image if label is None else label, label is not None),
                    )
                )
        splits[split] = tuple(samples)
    return Dataset(root=root, classes=("defect",), train=splits["Train"], val=splits["Test"])


@dataclass(frozen=True)
class DefectMask:
    """A mask read from a label picture, or an empty mask of a defect-free photograph's size."""

    path: Path
    defect: bool

    def __call__(self) -> np.ndarray:
        values = read_index_png(self.path)
        return (values > 0).astype(np.uint8) if self.defect else np.zeros(values.shape[:2], np.uint8)


READER = Reader("DAGM", find_dagm, lambda root, _: read_dagm(root), rank=50)
