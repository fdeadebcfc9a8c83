"""Pooling class maps to tag scores: what a classifier is asked decides where it looks."""

from __future__ import annotations

import torch

from tagseg.grid import Grid
from tagseg.settings import Pooling

TOP_SHARE = 0.2  # of the cells that "top" takes the mean of
SHARPNESS = 3.0  # of the log-sum-exp


def pooled(maps: torch.Tensor, kind: Pooling, inside: torch.Tensor | None = None) -> torch.Tensor:
    """Returns tag scores of class maps. `(B, C, h, w) -> (B, C)`.

    "mean" (Zhou et al., CVPR 2016) asks for whole objects, "top", the mean of the strongest fifth of the cells, for
    what is sure, and "lse" (Pinheiro and Collobert, CVPR 2015) lies between the mean and the maximum.

    Args:
        maps: `(B, C, h, w)` signed.
        kind: "mean", "top" or "lse".
        inside: `(B, h, w)` in [0, 1], how much of each cell is photograph (see `inside_cells`); None: all of them are.
    """
    cells = maps.flatten(2)
    weights = cells.new_ones(len(cells), 1, cells.shape[2]) if inside is None else inside.flatten(1)[:, None]
    # a photograph of no size weighs as much as any other: its cells all count
    weights = torch.where(weights.sum(dim=2, keepdim=True) > 0, weights, 1.0).float()
    total = weights.sum(dim=2)
    if kind == "mean":
        return (cells * weights).sum(dim=2) / total
    if kind == "lse":
        return (torch.logsumexp(SHARPNESS * cells.float() + weights.log(), dim=2) - total.log()) / SHARPNESS
    whole = weights >= 0.5 * weights.amax(dim=2, keepdim=True)
    strongest = cells.masked_fill(~whole, -torch.inf).sort(dim=2, descending=True).values
    count = (TOP_SHARE * whole.sum(dim=2, keepdim=True)).round().clamp(min=1)
    chosen = torch.arange(cells.shape[2], device=cells.device) < count
    return torch.where(chosen, strongest, 0).sum(dim=2) / count[:, :, 0]


def box_masks(boxes: torch.Tensor, size: tuple[int, ...] | torch.Size) -> torch.Tensor:
    """Returns masks of boxes. `(B, 4)` rows y0, y1, x0, x1 -> `(B, h, w)`, 1 inside."""
    y, x = (torch.arange(n, device=boxes.device) for n in size)
    y0, y1, x0, x1 = boxes[:, :, None, None].unbind(1)
    return ((y[:, None] >= y0) & (y[:, None] < y1) & (x >= x0) & (x < x1)).float()


def inside_cells(boxes: torch.Tensor, grid: Grid, size: tuple[int, int]) -> torch.Tensor:
    """Returns how much of each cell of an image is photograph and not padding.

    Args:
        boxes: `(B, 4)` rows y0, y1, x0, x1 of what is photograph, pixels.
        grid: where the cells lie.
        size: (H, W) of the images, pixels.

    Returns:
        `(B, h, w)` float32 in [0, 1].
    """
    down, across = (
        _inside(boxes[:, 2 * axis : 2 * axis + 2], grid, cells, side)
        for axis, (cells, side) in enumerate(zip(grid.cells(*size), size, strict=True))
    )
    return down[:, :, None] * across[:, None]


def _inside(ends: torch.Tensor, grid: Grid, cells: int, side: int) -> torch.Tensor:
    """Of one axis: `(B, 2)` pixels -> `(B, cells)`."""
    edges = torch.arange(cells + 1, device=ends.device) * grid.stride - (grid.stride / 2 if grid.corners else 0)
    edges = edges.clamp(0, side)  # cells on a border reach beyond the image, where nothing is
    within = edges.minimum(ends[:, 1:]).maximum(ends[:, :1])
    return within.diff(dim=1) / edges.diff().clamp(min=1e-6)
