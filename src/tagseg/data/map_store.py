"""Class maps on disk: 8 bits, network resolution, present classes only, many photographs to a file.

Maps are stored with the grid of their cells, so that whoever reads them needs no network to give them any size.

A VOC-sized set (10,582 photographs, 1.5 tags each, 32 x 32 cells) takes 16 MB; a COCO-sized one 0.25 GB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import safe_open

from tagseg.data.shards import Shards
from tagseg.grid import Grid


@dataclass(frozen=True)
class StoredMaps:
    """The class maps of one photograph.

    classes: the K classes that have a map, 0-based, ascending.
    maps: `(K, h, w)` float32 in [0, 1].
    tag_probabilities: `(C,)`, what the classifier says of every tag; NaN where it was not asked.
    grid: where the cells of the maps lie.
    """

    classes: tuple[int, ...]
    maps: np.ndarray
    tag_probabilities: np.ndarray
    grid: Grid

    def only(self, classes: tuple[int, ...]) -> StoredMaps:
        """Returns the photograph's entry with only those of its maps that are of `classes`."""
        keep = [k for k, c in enumerate(self.classes) if c in classes]
        return replace(self, classes=tuple(self.classes[k] for k in keep), maps=self.maps[keep])

    def at(self, size: tuple[int, ...]) -> np.ndarray:
        """Returns the maps at a photograph's `size` (H, W): `(K, H, W)` float32; K may be 0."""
        return self.grid.resize(self.maps, size)


class MapStore(Shards):
    """A folder of shards, which hold the class maps of photographs in the order given to it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "class maps")

    def write(self, entries: dict[str, StoredMaps], number: int = 0) -> None:
        """Adds one shard, under a number or the next one that is free; values are rounded to 1/255."""
        self.add(
            {
                name: {
                    "maps": np.round(entry.maps * 255).astype(np.uint8),
                    "classes": np.asarray(entry.classes, dtype=np.int32),
                    "tags": entry.tag_probabilities.astype(np.float32),
                    "grid": np.array([entry.grid.stride, entry.grid.corners], dtype=np.int32),
                }
                for name, entry in entries.items()
            },
            number,
        )

    def read(self, name: str) -> StoredMaps:
        """Returns the maps of one photograph.

        Raises:
            BadInput: nothing is stored under that name.
        """
        path, number = self.place(name)
        with safe_open(path, framework="numpy") as shard:
            maps = shard.get_tensor(f"{number}.maps")
            classes = shard.get_tensor(f"{number}.classes")
            tags = shard.get_tensor(f"{number}.tags")
            stride, corners = shard.get_tensor(f"{number}.grid").tolist()
        grid = Grid(stride, bool(corners))
        return StoredMaps(tuple(int(c) for c in classes), maps.astype(np.float32) / 255, tags, grid)
