"""Features of photographs on disk, so that a frozen network is asked once: 8 or 16 bits a number.

A photograph of 448 x 336 pixels has, in three blocks of ViT-Tiny, 588 x 576 numbers: 340 kB with 8 bits; in those of
DINOv2-S 768 x 1152, 0.9 MB. Nothing of them stays in memory but what the system keeps of files.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from tagseg.data.shards import Shards

PARTS = ("values", "least", "step")
KINDS = {"U8": np.uint8, "F16": np.float16, "F32": np.float32}  # safetensors' words for what is stored here


class FeatureStore(Shards):
    """A folder of shards, which hold the features of photographs by name.

    Args:
        folder: of the shards.
        bits: of a number that is written: with 8 a channel of a photograph has 256 steps between its least and its
            largest value, with 16 numbers are halves (IEEE 754).

    Raises:
        BadInput: a shard is damaged.
    """

    def __init__(self, folder: Path, bits: Literal[8, 16] = 8) -> None:
        super().__init__(folder, "features")
        self.bits = bits
        self._known: dict[Path, _Shard] = {}
        self._lock = threading.Lock()

    def write(self, entries: dict[str, np.ndarray], number: int = 0) -> None:
        """Adds one shard of features `(D, h, w)` float32, under a number or the next one that is free."""
        self.add({name: packed(features, self.bits) for name, features in entries.items()}, number)

    def read(self, name: str) -> np.ndarray:
        """Returns the features of one photograph, `(D, h, w)` float32. Threads may read at the same time.

        Raises:
            BadInput: nothing is stored under that name.
        """
        path, number = self.place(name)
        shard = self._shard(path)
        with open(path, "rb") as file:
            return unpacked(
                {part: shard.read(file, f"{number}.{part}") for part in PARTS if f"{number}.{part}" in shard}
            )

    def _shard(self, path: Path) -> _Shard:
        with self._lock:
            if path not in self._known:
                self._known[path] = _Shard(path)
            return self._known[path]


class _Shard:
    """Where the numbers of a `.safetensors` lie, so that they can be read without the whole file in memory.

    Mapped into memory, the pages of all shards would count as memory of the process, and grow with the data.
    """

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self.entries: dict[str, Any] = json.loads(file.read(size))
        self.begin = 8 + size

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def read(self, file: BinaryIO, name: str) -> np.ndarray:
        entry = self.entries[name]
        begin, end = entry["data_offsets"]
        file.seek(self.begin + begin)
        return np.frombuffer(file.read(end - begin), dtype=KINDS[entry["dtype"]]).reshape(entry["shape"])


def packed(features: np.ndarray, bits: int) -> dict[str, np.ndarray]:
    """Returns features `(D, h, w)` as they are stored: `values`, and with 8 bits a channel's `least` and `step`."""
    if bits == 16:
        return {"values": np.clip(features, -65504, 65504).astype(np.float16)}
    least, most = features.min(axis=(1, 2)), features.max(axis=(1, 2))
    step = np.maximum((most - least) / 255, np.finfo(np.float32).tiny).astype(np.float32)
    values = np.rint((features - least[:, None, None]) / step[:, None, None]).clip(0, 255).astype(np.uint8)
    return {"values": values, "least": least.astype(np.float32), "step": step}


def unpacked(parts: dict[str, np.ndarray]) -> np.ndarray:
    """Returns features `(D, h, w)` float32 of what `packed` made of them."""
    values = parts["values"].astype(np.float32)
    if "step" not in parts:
        return values
    return values * parts["step"][:, None, None] + parts["least"][:, None, None]
