"""Class maps on disk: 8 bits, network resolution, present classes only, many photographs to a file.

Maps are stored with the grid of their cells, so that whoever reads them needs no network to give them any size.

A VOC-sized set (10,582 photographs, 1.5 tags each, 32 x 32 cells) takes 16 MB; a COCO-sized one 0.25 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tagseg.errors import BadInput
from tagseg.files import write_aside
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


class MapStore:
    """A folder of shards, which hold the class maps of photographs.

    A shard is written whole or not at all, and holds photographs in the order given to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._where: dict[str, tuple[Path, int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="numpy") as shard:
                    names = (shard.metadata() or {})["names"].split("\n")
            except (SafetensorError, KeyError, OSError) as error:
                raise BadInput(
                    f"{path}: this shard of class maps is damaged ({error}); delete it and run again."
                ) from error
            self._where.update({name: (path, number) for number, name in enumerate(names)})

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __len__(self) -> int:
        return len(self._where)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def write(self, entries: dict[str, StoredMaps]) -> None:
        """Adds one shard; values are rounded to 1/255."""
        if not entries:
            return
        arrays: dict[str, np.ndarray] = {}
        for number, entry in enumerate(entries.values()):
            # safetensors writes memory as it lies: arrays of another order would come back scrambled
            arrays[f"{number}.maps"] = np.ascontiguousarray(np.round(entry.maps * 255).astype(np.uint8))
            arrays[f"{number}.classes"] = np.asarray(entry.classes, dtype=np.int32)
            arrays[f"{number}.tags"] = entry.tag_probabilities.astype(np.float32)
            arrays[f"{number}.grid"] = np.array([entry.grid.stride, entry.grid.corners], dtype=np.int32)
        # the first number that is free: a shard that went missing gets its own again
        paths = (self.folder / f"{number:06d}.safetensors" for number in count())
        path = next(path for path in paths if not path.exists())
        with write_aside(path) as aside:
            save_file(arrays, aside, metadata={"names": "\n".join(entries)})
        self._where.update({name: (path, number) for number, name in enumerate(entries)})

    def read(self, name: str) -> StoredMaps:
        """Returns the maps of one photograph.

        Raises:
            BadInput: nothing is stored under that name.
        """
        if name not in self._where:
            raise BadInput(f"{self.folder}: no maps of '{name}'; run the mining stage again.")
        path, number = self._where[name]
        with safe_open(path, framework="numpy") as shard:
            maps = shard.get_tensor(f"{number}.maps")
            classes = shard.get_tensor(f"{number}.classes")
            tags = shard.get_tensor(f"{number}.tags")
            stride, corners = shard.get_tensor(f"{number}.grid").tolist()
        grid = Grid(stride, bool(corners))
        return StoredMaps(tuple(int(c) for c in classes), maps.astype(np.float32) / 255, tags, grid)
