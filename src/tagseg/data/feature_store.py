"""Features of photographs on disk, so that a frozen network is asked once: 8 or 16 bits a number, mapped into memory.

A photograph of 448 x 336 pixels has, in three blocks of ViT-Tiny, 588 x 576 numbers: 340 kB with 8 bits; in those of
DINOv2-S 768 x 1152, 0.9 MB. Nothing of them stays in memory but what the system keeps of files.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tagseg.errors import BadInput
from tagseg.files import write_aside

OPEN = 64  # shards that are kept open


class FeatureStore:
    """A folder of shards, which hold the features of photographs by name.

    Args:
        folder: of the shards; each is written whole or not at all.
        bits: of a number that is written: with 8 a channel of a photograph has 256 steps between its least and its
            largest value, with 16 numbers are halves (IEEE 754).

    Raises:
        BadInput: a shard is damaged.
    """

    def __init__(self, folder: Path, bits: Literal[8, 16] = 8) -> None:
        self.folder, self.bits = folder, bits
        self._where: dict[str, tuple[Path, int]] = {}
        self._open: OrderedDict[Path, Any] = OrderedDict()
        self._lock = threading.Lock()
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="numpy") as shard:
                    names = (shard.metadata() or {})["names"].split("\n")
            except (SafetensorError, KeyError, OSError) as error:
                raise BadInput(f"{path}: this shard of features is damaged ({error}); delete it, run again.") from error
            self._where.update({name: (path, number) for number, name in enumerate(names)})

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __len__(self) -> int:
        return len(self._where)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def write(self, entries: dict[str, np.ndarray]) -> None:
        """Adds one shard of features `(D, h, w)` float32."""
        if not entries:
            return
        arrays: dict[str, np.ndarray] = {}
        for number, features in enumerate(entries.values()):
            for part, array in packed(features, self.bits).items():
                arrays[f"{number}.{part}"] = np.ascontiguousarray(array)  # safetensors writes memory as it lies
        paths = (self.folder / f"{number:06d}.safetensors" for number in count())
        path = next(path for path in paths if not path.exists())
        with write_aside(path) as aside:
            save_file(arrays, aside, metadata={"names": "\n".join(entries)})
        self._where.update({name: (path, number) for number, name in enumerate(entries)})

    def read(self, name: str) -> np.ndarray:
        """Returns the features of one photograph, `(D, h, w)` float32. Threads may read at the same time.

        Raises:
            BadInput: nothing is stored under that name.
        """
        if name not in self._where:
            raise BadInput(f"{self.folder}: no features of '{name}'; run again.")
        path, number = self._where[name]
        shard = self._shard(path)
        parts = ("values", "least", "step") if f"{number}.step" in shard.keys() else ("values",)  # noqa: SIM118
        return unpacked({part: shard.get_tensor(f"{number}.{part}") for part in parts})

    def _shard(self, path: Path) -> Any:
        with self._lock:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="numpy").__enter__()
                if len(self._open) > OPEN:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return self._open[path]


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
