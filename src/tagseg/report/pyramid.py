"""A tree of pictures as one figure: what was decided on top, and the evidence for it below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from tagseg.report.sheets import INK, rendered, words

_LINE = "#94a3b8"


@dataclass(frozen=True)
class Tile:
    """A place in a pyramid of pictures.

    Attributes:
        pictures: `(H, W, 3)` uint8, one above the other, of one shape in all tiles.
        caption: a line or two below them.
        parent: number of the tile in the row above; None in the first row.
        weight: in [0, 1], how strong the line to it is drawn.
    """

    pictures: tuple[np.ndarray, ...]
    caption: str
    parent: int | None = None
    weight: float = 1.0


@words()
def pyramid(rows: Sequence[Sequence[Tile]], names: Sequence[str], *, width: float = 20.0) -> np.ndarray:
    """Draws rows of tiles, children in the order of their parents.

    Args:
        rows: from the top down; not empty.
        names: of the rows, written beside them.
        width: inches, at 110 pixels each.

    Returns:
        `(H, W, 3)` uint8.
    """
    left = 0.9
    sides = [min(1.9, 0.94 * (width - left) / len(row)) for row in rows]
    counts = [max(len(tile.pictures) for tile in row) for row in rows]
    shape = rows[0][0].pictures[0].shape
    tall = shape[0] / shape[1]
    heights = [side * tall * count + 0.52 for side, count in zip(sides, counts, strict=True)]
    total = sum(heights) + 0.25
    figure = Figure(figsize=(width, total), dpi=110, facecolor="white")
    behind = figure.add_axes((0, 0, 1, 1))
    behind.set_axis_off()
    bottoms: list[tuple[float, float]] = []
    y = total - 0.12
    for row, name, side, count, height in zip(rows, names, sides, counts, heights, strict=True):
        slot = (width - left) / len(row)
        ends: list[tuple[float, float]] = []
        behind.text(0.1, y - side * tall * count / 2, name, ha="left", va="center", fontsize=9, color=INK, wrap=True)
        for number, tile in enumerate(row):
            x = left + (number + 0.5) * slot
            if tile.parent is not None:
                x0, y0 = bottoms[tile.parent]
                behind.plot((x0, x), (y0, y), color=_LINE, linewidth=0.4 + 3.2 * min(1.0, max(0.0, tile.weight)))
            for place, picture in enumerate(tile.pictures):
                top = y - (place + 1) * side * tall
                half = 0.485 * side
                extent = (x - half, x + half, top, top + 2 * half * tall)
                behind.imshow(picture, extent=extent, aspect="auto", zorder=2)
            below = y - side * tall * count - 0.03
            size = 10.0 if side > 1.2 else 8.5 if side > 0.7 else 7.0
            behind.text(x, below, tile.caption, ha="center", va="top", fontsize=size, color=INK, linespacing=1.1)
            ends.append((x, below - 0.3))
        bottoms, y = ends, y - height
    behind.set(xlim=(0, width), ylim=(0, total))  # pictures had set them to their own
    return rendered(figure)
