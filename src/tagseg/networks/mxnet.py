"""Reading MXNet's `.params` files without MXNet. Nothing in them is executed."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch

from tagseg.errors import BadInput

_LIST = 0x112  # begins every file
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # begin an array, except in the oldest files
_TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")


def read_mxnet(path: Path) -> dict[str, torch.Tensor]:
    """Reads the dense arrays of an MXNet file, by name; the file may be of any version of the format.

    Raises:
        BadInput: it is no such file, it is cut off, or it holds sparse arrays.
    """
    reader = _Reader(path)
    if reader.number("Q") != _LIST:
        raise BadInput(f"{path}: this is no MXNet file of weights.")
    reader.number("Q")
    arrays = [reader.array() for _ in range(reader.number("Q"))]
    names = [reader.take(reader.number("Q")).decode("utf-8", "replace") for _ in range(reader.number("Q"))]
    if len(names) != len(arrays):
        raise BadInput(f"{path}: {len(arrays)} arrays have {len(names)} names; give a file of named weights.")
    return dict(zip(names, arrays, strict=True))


class _Reader:
    """Little-endian numbers and arrays, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path, self.bytes, self.place = path, memoryview(path.read_bytes()), 0

    def take(self, count: int) -> bytes:
        """Returns the next `count` bytes, and moves behind them."""
        if count > len(self.bytes) - self.place:
            raise BadInput(f"{self.path}: the file ends too early; fetch it again.")
        self.place += count
        return bytes(self.bytes[self.place - count : self.place])

    def number(self, kind: str) -> int:
        """Returns the next number, of a kind that `struct` knows."""
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0]

    def array(self) -> torch.Tensor:
        """Returns the next array."""
        magic = self.number("I")
        if magic in (_V2, _V3) and self.number("i") != 0:
            raise BadInput(f"{self.path}: this holds sparse arrays, which weights of images have no use for.")
        dimensions = self.number("I") if magic in (_V1, _V2, _V3) else magic
        if dimensions > 32:
            raise BadInput(f"{self.path}: an array has {dimensions} dimensions; the file is damaged.")
        shape = [self.number("I" if magic == dimensions else "q") for _ in range(dimensions)]
        if not shape:
            return torch.zeros(0)
        self.take(8)  # the device that it came from
        kind = self.number("i")
        if not 0 <= kind < len(_TYPES) or min(shape) < 0:
            raise BadInput(f"{self.path}: an array has the type {kind} and the shape {shape}; the file is damaged.")
        dtype = np.dtype(_TYPES[kind]).newbyteorder("<")
        values = np.frombuffer(self.take(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)
        return torch.from_numpy(values.astype(dtype.newbyteorder("=")))
