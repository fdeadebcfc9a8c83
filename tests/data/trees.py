"""Small data sets in true layouts."""

from pathlib import Path

import numpy as np
from PIL import Image

from tagseg.data.images import write_mask


def photo(path: Path, size: tuple[int, int] = (20, 30), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def folder(root: Path, labels: str, names: tuple[str, ...] = ("a.jpg", "b.jpg", "c.jpg")) -> Path:
    for number, name in enumerate(names):
        photo(root / "images" / name, seed=number)
    (root / "labels.csv").write_text(labels, encoding="utf-8")
    return root


def mask(path: Path, values: list[int], size: tuple[int, int] = (20, 30)) -> None:
    """A mask whose columns hold `values`, repeated."""
    write_mask(path, np.resize(np.array(values, dtype=np.uint8), size))
