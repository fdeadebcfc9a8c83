"""Where a view lies on its photograph, and maps carried from one to the other: `paste` back, and `look` up.

A map is a grid of values over a rectangle. Its geometry is that of the network's grid: cells on the corners of the
rectangle (`corners`), or tiles that cover it (see `tagseg.networks.backbone.Backbone`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """What a view shows.

    size: `(H, W)` of the resized photograph the window lies on, pixels.
    box: `(x0, y0, x1, y1)` of the window on the resized, *unmirrored* photograph; may leave it.
    flipped: whether the window is mirrored left to right.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    flipped: bool

    def row(self) -> tuple[int, ...]:
        """Seven whole numbers, for a batch of windows as one tensor."""
        return (*self.size, *self.box, int(self.flipped))

    @classmethod
    def from_row(cls, row: Sequence[int]) -> Window:
        height, width, x0, y0, x1, y1, flipped = (int(n) for n in row)
        return cls((height, width), (x0, y0, x1, y1), bool(flipped))


def paste(maps: np.ndarray, window: Window, grid: tuple[int, int], corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Maps of a view, carried back to the whole photograph.

    Args:
        maps: `(K, h, w)` over the window.
        window: where the view lies.
        grid: `(h', w')` of the map of the whole photograph.
        corners: of both grids.

    Returns:
        `(K, h', w')` float32, bilinear and 0 outside the window; and which cells the window holds, `(h', w')` bool.
    """
    (height, width), (x0, y0, x1, y1), flipped = window
    rows = _weights(_pixels(grid[0], height, corners) - y0, y1 - y0, maps.shape[1], corners)
    columns = _pixels(grid[1], width, corners) - x0
    if flipped:
        columns = (x1 - x0 - 1) - columns
    across = _weights(columns, x1 - x0, maps.shape[2], corners)
    inside: np.ndarray = np.logical_and.outer(rows.any(axis=1), across.any(axis=1))
    return rows @ maps.astype(np.float32) @ across.T, inside


def look(maps: np.ndarray, window: Window, grid: tuple[int, int], corners: bool, *, pixels: bool = False) -> np.ndarray:
    """Maps of a whole photograph, as a view sees them: the way back of `paste`.

    Args:
        maps: `(K, h', w')` over the photograph.
        window: where the view lies.
        grid: `(h, w)` of the result over the window.
        corners: of both grids.
        pixels: whether `grid` is that of the view's pixels, which tile it.

    Returns:
        `(K, h, w)` float32, bilinear, and 0 where the window leaves the photograph.
    """
    (height, width), (x0, y0, x1, y1), flipped = window
    own = corners and not pixels
    rows = _weights(_pixels(grid[0], y1 - y0, own) + y0, height, maps.shape[1], corners)
    columns = _pixels(grid[1], x1 - x0, own)
    if flipped:
        columns = (x1 - x0 - 1) - columns
    across = _weights(columns + x0, width, maps.shape[2], corners)
    return rows @ maps.astype(np.float32) @ across.T


def _pixels(cells: int, side: int, corners: bool) -> np.ndarray:
    """The pixel on which each of `cells` has its centre, along a side of that many pixels."""
    numbers = np.arange(cells, dtype=np.float32)
    if corners:
        return numbers * ((side - 1) / max(1, cells - 1)) if cells > 1 else numbers + (side - 1) / 2
    return (numbers + 0.5) * (side / cells) - 0.5


def _weights(pixels: np.ndarray, side: int, cells: int, corners: bool) -> np.ndarray:
    """`(len(pixels), cells)` float32: bilinear weights of a grid's cells at each pixel; 0 beyond the side's pixels."""
    place = pixels * ((cells - 1) / max(1, side - 1)) if corners else (pixels + 0.5) * (cells / side) - 0.5
    place = np.clip(place, 0, cells - 1)
    left = np.minimum(place.astype(np.int64), max(0, cells - 2))
    share = (place - left).astype(np.float32)
    weights = np.zeros((len(pixels), cells), dtype=np.float32)
    line = np.arange(len(pixels))
    weights[line, left] = 1 - share
    weights[line, np.minimum(left + 1, cells - 1)] += share
    weights[(pixels < -0.5) | (pixels > side - 0.5)] = 0
    return weights
