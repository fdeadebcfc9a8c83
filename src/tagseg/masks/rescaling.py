"""Bringing class maps to [0, 1]: the ways of this field, in one place."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from tagseg.grid import PIXELS, Grid
from tagseg.settings import Compat

Array = TypeVar("Array", torch.Tensor, np.ndarray)


def over_maximum(maps: Array) -> Array:
    """Divides every map by its maximum; a map that is nowhere positive becomes 0, where it is not negative.

    Args:
        maps: `(..., h, w)`, rectified.

    Returns:
        maps of the same shape, in [0, 1].
    """
    if isinstance(maps, np.ndarray):
        return maps / np.maximum(maps.max(axis=(-2, -1), keepdims=True, initial=0), 1e-8)
    return maps / maps.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-8)


def between_extremes(maps: torch.Tensor) -> torch.Tensor:
    """Subtracts its minimum from every map and divides it by its maximum, as ToCo's published code does.

    `(B, C, H, W)` -> the same in [0, 1).
    """
    maps = maps - maps.amin(dim=(2, 3), keepdim=True)
    return maps / (maps.amax(dim=(2, 3), keepdim=True) + 1e-5)


def normalised(maps: torch.Tensor, compat: Compat = "paper") -> torch.Tensor:
    """Rectifies maps and divides them by the maximum of each class, as KTSE's paper does.

    The published codes of KTSE and AEFT ("official") subtract their minimum first. `(B, C, h, w)` signed -> the same in
    [0, 1].
    """
    maps = maps.relu()
    if compat == "paper":
        return over_maximum(maps)
    highest = maps.amax(dim=(2, 3), keepdim=True)
    lowest = maps.amin(dim=(2, 3), keepdim=True)
    return (maps - lowest - 1e-5).relu() / (highest - lowest + 1e-5)


@torch.no_grad()
def foreground(
    maps: torch.Tensor,
    tags: torch.Tensor,
    compat: Compat = "paper",
    size: tuple[int, ...] | None = None,
    grid: Grid | None = None,
) -> torch.Tensor:
    """Returns the strongest of the tags' normalised maps, 0 without tags; nothing is learnt through it.

    Tags are few, so that only theirs are touched.

    Args:
        maps: `(B, C, h, w)` signed.
        tags: `(B, C)` multi-hot.
        compat: see `normalised`.
        size: (H, W) to which maps are brought first; None: they stay as they are.
        grid: the geometry of the maps, if they are brought to another size.

    Returns:
        `(B, 1, h, w)`, or of that size, in [0, 1].
    """
    images, classes = tags.nonzero(as_tuple=True)
    found = maps[images, classes, None]
    strongest = maps.new_zeros(len(maps), 1, *(maps.shape[2:] if size is None else size))
    if not len(found):
        return strongest
    if size is not None:
        assert grid is not None, "give the grid of the maps to be resized"
        found = grid.resize(found, size)
    found = normalised(found, compat)
    return strongest.scatter_reduce_(0, images[:, None, None, None].expand_as(found), found, "amax")


def on_cells(maps: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
    """Returns the mean of maps in every cell of a grid that tiles the photograph. `(K, H, W) -> (K, h, w)` float32."""
    if maps.shape[1:] == tuple(cells):
        return np.asarray(maps, dtype=np.float32)
    if not len(maps):
        return np.zeros((0, *cells), dtype=np.float32)
    size = tuple(n * -(-m // n) for n, m in zip(cells, maps.shape[1:], strict=True))  # whole pixels to a cell
    fine = PIXELS.resize(np.ascontiguousarray(maps, dtype=np.float32), size)
    return fine.reshape(len(maps), cells[0], size[0] // cells[0], cells[1], size[1] // cells[1]).mean(axis=(2, 4))
