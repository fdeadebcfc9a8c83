"""Shards: files that hold arrays of many photographs each, written whole or not at all, found by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tagseg.errors import BadInput, brief
from tagseg.files import write_aside


class Shards:
    """A folder of shards, and which photograph is where.

    Args:
        folder: of the shards.
        what: they hold, for messages.

    Raises:
        BadInput: a shard is damaged.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self.what = folder, what
        self._where: dict[str, tuple[Path, int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="numpy") as shard:
                    names = (shard.metadata() or {})["names"].split("\n")
            except (SafetensorError, KeyError, OSError) as error:
                raise BadInput(
                    f"{path}: this shard of {what} is damaged ({brief(error)}); delete it and run again."
                ) from error
            self._where.update({name: (path, number) for number, name in enumerate(names)})

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __len__(self) -> int:
        return len(self._where)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def add(self, entries: dict[str, dict[str, np.ndarray]], number: int = 0) -> None:
        """Adds one shard of photographs, each with its arrays by name, under a number or the next one that is free."""
        if not entries:
            return
        # safetensors writes memory as it lies: arrays of another order would come back scrambled
        arrays = {
            f"{place}.{part}": np.ascontiguousarray(array)
            for place, parts in enumerate(entries.values())
            for part, array in parts.items()
        }
        # a shard that went missing gets its own number again
        paths = (self.folder / f"{free:06d}.safetensors" for free in count(number))
        path = next(path for path in paths if not path.exists())
        with write_aside(path) as aside:
            save_file(arrays, aside, metadata={"names": "\n".join(entries)})
        self._where.update({name: (path, place) for place, name in enumerate(entries)})

    def place(self, name: str) -> tuple[Path, int]:
        """Returns the shard of a photograph, and its number there.

        Raises:
            BadInput: nothing is stored under that name.
        """
        if name not in self._where:
            raise BadInput(f"{self.folder}: no {self.what} of '{name}'; run again.")
        return self._where[name]
