"""Where a view lies on its photograph, and maps carried from one to the other: `paste` them back, `view_of` them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tagseg.grid import PIXELS, Grid


class Window(NamedTuple):
    """The place of a view on its photograph.

    size: `(H, W)` of the resized photograph the window lies on, pixels.
    box: `(x0, y0, x1, y1)` of the window on the resized, *unmirrored* photograph; may leave it.
    flipped: whether the window is mirrored left to right.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    flipped: bool

    def row(self) -> tuple[int, ...]:
        """Returns the window as seven whole numbers, so that a batch of windows is one tensor."""
        return (*self.size, *self.box, int(self.flipped))

    @classmethod
    def from_row(cls, row: Sequence[int]) -> Window:
        """Makes the window of which these are the seven numbers."""
        height, width, x0, y0, x1, y1, flipped = (int(n) for n in row)
        return cls((height, width), (x0, y0, x1, y1), bool(flipped))


def paste(maps: np.ndarray, window: Window, cells: tuple[int, int], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Carries maps of a view back to the whole photograph.

    Args:
        maps: `(K, h, w)` over the window.
        window: where the view lies.
        cells: `(h', w')` of the map of the whole photograph.
        grid: the geometry of both maps.

    Returns:
        `(K, h', w')` float32, bilinear and 0 outside the window; and which cells the window holds, `(h', w')` bool.
    """
    (height, width), (x0, y0, x1, y1), flipped = window
    # where the photograph's cells lie in the window: beyond it they have no weights
    rows = grid.weights(grid.centres(cells[0], height) - y0, y1 - y0, maps.shape[1])
    columns = grid.centres(cells[1], width) - x0
    if flipped:
        # a mirrored view counts its columns from the right
        columns = (x1 - x0 - 1) - columns
    across = grid.weights(columns, x1 - x0, maps.shape[2])
    # bilinear weights are separable, and so is lying inside
    inside: np.ndarray = np.logical_and.outer(rows.any(axis=1), across.any(axis=1))
    return rows @ maps.astype(np.float32) @ across.T, inside


def view_of(
    maps: np.ndarray, window: Window, cells: tuple[int, int], grid: Grid, *, pixels: bool = False
) -> np.ndarray:
    """Returns maps of a whole photograph as a view sees them: the way back of `paste`.

    Args:
        maps: `(K, h', w')` over the photograph.
        window: where the view lies.
        cells: `(h, w)` of the result over the window.
        grid: the geometry of both maps.
        pixels: whether `cells` are the view's pixels, which tile it.

    Returns:
        `(K, h, w)` float32, bilinear, and 0 where the window leaves the photograph.
    """
    (height, width), (x0, y0, x1, y1), flipped = window
    own = PIXELS if pixels else grid
    # where the view's cells lie on the photograph: beyond it they have no weights
    rows = grid.weights(own.centres(cells[0], y1 - y0) + y0, height, maps.shape[1])
    columns = own.centres(cells[1], x1 - x0)
    if flipped:
        # mirrored within the window first, then moved to its place on the photograph
        columns = (x1 - x0 - 1) - columns
    across = grid.weights(columns + x0, width, maps.shape[2])
    return rows @ maps.astype(np.float32) @ across.T
