"""Class maps on disk: 8 bits, network resolution, present classes only, many photographs to a file.

A VOC-sized set (10,582 photographs, 1.5 tags each, 32 x 32 cells) takes 16 MB; a COCO-sized one 0.25 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tagseg.files import write_aside
from tagseg.errors import BadInput


@dataclass(frozen=True)
class StoredMaps:
    """Maps of one photograph: `maps (K, h, w)` float32 in [0, 1] for the classes `classes` (0-based, ascending),
    and the classifier's probability of every tag, `(C,)`."""

    classes: tuple[int, ...]
    maps: np.ndarray
    tag_probabilities: np.ndarray

    def only(self, classes: tuple[int, ...]) -> StoredMaps:
        """The same photograph with those of its maps that are of `classes`."""
        keep = [k for k, c in enumerate(self.classes) if c in classes]
        return StoredMaps(tuple(self.classes[k] for k in keep), self.maps[keep], self.tag_probabilities)


class MapStore:
    """A folder of shards. A shard is written whole or not at all, and holds photographs in the order given to it."""

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
        """Add one shard; values are rounded to 1/255."""
        if not entries:
            return
        arrays: dict[str, np.ndarray] = {}
        for number, entry in enumerate(entries.values()):
            arrays[f"{number}.maps"] = np.round(entry.maps * 255).astype(np.uint8)
            arrays[f"{number}.classes"] = np.asarray(entry.classes, dtype=np.int32)
            arrays[f"{number}.tags"] = entry.tag_probabilities.astype(np.float32)
        path = self.folder / f"{len(list(self.folder.glob('*.safetensors'))):06d}.safetensors"
        with write_aside(path) as aside:
            save_file(arrays, aside, metadata={"names": "\n".join(entries)})
        self._where.update({name: (path, number) for number, name in enumerate(entries)})

    def read(self, name: str) -> StoredMaps:
        """The maps of one photograph.

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
        return StoredMaps(tuple(int(c) for c in classes), maps.astype(np.float32) / 255, tags)
