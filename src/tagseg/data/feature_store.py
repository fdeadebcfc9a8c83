"""Features of photographs on disk, so that a frozen network is asked once: 8 or 16 bits a number, mapped into memory.

A photograph of 448 x 336 pixels has, in three blocks of ViT-Tiny, 588 x 576 numbers: 340 kB with 8 bits; in those of
DINOv2-S 768 x 1152, 0.9 MB. Nothing of them stays in memory but what the system keeps of files.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open

from tagseg.data.shards import Shards

OPEN = 64  # shards that are kept open


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
        self._open: OrderedDict[Path, Any] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, entries: dict[str, np.ndarray]) -> None:
        """Adds one shard of features `(D, h, w)` float32."""
        self.add({name: packed(features, self.bits) for name, features in entries.items()})

    def read(self, name: str) -> np.ndarray:
        """Returns the features of one photograph, `(D, h, w)` float32. Threads may read at the same time.

        Raises:
            BadInput: nothing is stored under that name.
        """
        path, number = self.place(name)
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
