"""The geometry of a network's cells: where they lie on an image, and how maps on them come to any size.

Convolutions that stride with odd, padded kernels put cell i's centre on pixel `stride * i`, so that an image of side
`stride * k + 1` has cells on its very corners and flips onto itself. Even kernels (patch embeddings, 2x2 pooling) tile
the image, and a side of `stride * k` is covered exactly. Whoever interpolates maps of the one kind as if they were of
the other shifts them by half a cell; a `Grid` travels with its maps so that nobody has to ask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", "torch.Tensor", np.ndarray)


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of a network or of a map.

    stride: pixels from one cell to the next.
    corners: whether cells lie on the image's corners; else they tile the image.
    """

    stride: int
    corners: bool

    def with_stride(self, stride: int) -> Grid:
        """Returns a finer or coarser grid of the same kind."""
        return replace(self, stride=stride)

    def fit(self, height: float, width: float) -> tuple[int, int]:
        """Returns the nearest image size `(H, W)`, in pixels, that cells cover exactly, of at least one stride."""
        if self.corners:
            down, across = (max(1, round((n - 1) / self.stride)) * self.stride + 1 for n in (height, width))
        else:
            down, across = (max(1, round(n / self.stride)) * self.stride for n in (height, width))
        return down, across

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Returns how many cells `(h, w)` an image of `(height, width)` pixels has."""
        return -(-height // self.stride), -(-width // self.stride)

    def resize(self, maps: Array, size: tuple[int, ...]) -> Array:
        """Interpolates maps bilinearly to another size, as their cells lie.

        Args:
            maps: a tensor `(B, K, h, w)`, or an array `(K, h, w)`, of which there may be none.
            size: `(H, W)`.

        Returns:
            `(B, K, H, W)`, or a float32 array `(K, H, W)`.
        """
        import torch
        from torch.nn import functional as F

        if isinstance(maps, np.ndarray):
            if not len(maps):
                return np.zeros((0, *size), dtype=np.float32)
            return self.resize(torch.from_numpy(maps)[None], size)[0].numpy()
        if maps.shape[-2:] == torch.Size(size):
            return maps
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=self.corners)

    def resize_rows(self, maps: torch.Tensor, size: tuple[int, ...], rows: slice) -> torch.Tensor:
        """Interpolates maps to another size, but for some of its rows only: what `resize` gives, a part at a time.

        Args:
            maps: `(B, K, h, w)`.
            size: `(H, W)` of the whole.
            rows: of the whole, n of them.

        Returns:
            `(B, K, n, W)`.
        """
        import torch

        down, across = (
            torch.from_numpy(self.weights(np.arange(side, dtype=np.float32)[part], side, cells)).to(maps)
            for side, part, cells in zip(size, (rows, slice(None)), maps.shape[-2:], strict=True)
        )
        return torch.matmul(torch.matmul(down, maps), across.T)

    def sample(self, labels: Array) -> Array:
        """Takes the label at the centre of every cell. `(B, H, W) -> (B, h, w)`."""
        offset = 0 if self.corners else self.stride // 2
        return labels[:, offset :: self.stride, offset :: self.stride]

    def centres(self, cells: int, side: int) -> np.ndarray:
        """Returns the pixel, a fraction, on which each of `cells` has its centre along a side of `side` pixels."""
        numbers = np.arange(cells, dtype=np.float32)
        if self.corners:
            return numbers * ((side - 1) / max(1, cells - 1)) if cells > 1 else numbers + (side - 1) / 2
        return (numbers + 0.5) * (side / cells) - 0.5

    def weights(self, pixels: np.ndarray, side: int, cells: int) -> np.ndarray:
        """Returns the bilinear weights with which `cells` along a side give the value at each pixel.

        Args:
            pixels: `(n,)` places along the side, fractions; what lies beyond the side's pixels has weights 0.
            side: pixels.
            cells: how many there are along the side.

        Returns:
            `(n, cells)` float32, whose rows add up to 1, or to 0 beyond the side.
        """
        place = pixels * ((cells - 1) / max(1, side - 1)) if self.corners else (pixels + 0.5) * (cells / side) - 0.5
        place = np.clip(place, 0, cells - 1)
        left = np.minimum(place.astype(np.int64), max(0, cells - 2))
        share = (place - left).astype(np.float32)
        weights = np.zeros((len(pixels), cells), dtype=np.float32)
        line = np.arange(len(pixels))
        weights[line, left] = 1 - share
        weights[line, np.minimum(left + 1, cells - 1)] += share
        weights[(pixels < -0.5) | (pixels > side - 0.5)] = 0
        return weights


PIXELS = Grid(stride=1, corners=False)  # of maps that have a value for every pixel
