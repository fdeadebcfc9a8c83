"""How KTSE shows an anchor and its partner in one image (see `tagseg.methods.ktse`)."""

from __future__ import annotations

from typing import Literal

import torch

Side = Literal["above", "below", "left", "right"]
SIDES: tuple[Side, ...] = ("above", "below", "left", "right")


def joined(images: torch.Tensor, partners: torch.Tensor, side: Side, stride: int, fill: float = 0.0) -> torch.Tensor:
    """Joins images with their partners on one side of them, "below" or another.

    Where a side is not a multiple of the stride, a stripe of `fill` between the two keeps cells on the pixels they were
    on, so that the network's grid of the whole is the two grids side by side. `(B, K, S, S)` twice -> twice as high or
    wide.
    """
    axis = 2 if side in ("above", "below") else 3
    gap = -images.shape[axis] % stride
    stripe = images.new_full([gap if i == axis else n for i, n in enumerate(images.shape)], fill)
    parts = [images, stripe, partners] if side in ("below", "right") else [partners, stripe, images]
    return torch.cat(parts, dim=axis)


def own_part(maps: torch.Tensor, side: Side, grid: tuple[int, ...]) -> torch.Tensor:
    """Returns the anchors' part of maps of `joined` images. `(B, C, H, W) -> (B, C, *grid)`."""
    height, width = grid
    if side in ("below", "right"):
        return maps[:, :, :height, :width]
    return maps[:, :, -height:, -width:]


def random_box(grid: tuple[int, ...], random: torch.Generator | None = None) -> tuple[int, int, int, int]:
    """Draws the box of CutMix in cells: y0, y1, x0, x1.

    It is a random share of the grid at a random place, cut at its border.
    """
    height, width = grid
    ratio = float((1 - torch.rand((), generator=random)).sqrt())
    y, x = (int(torch.randint(n, (), generator=random)) for n in (height, width))
    down, across = round(height * ratio) // 2, round(width * ratio) // 2
    return max(0, y - down), min(height, y + down), max(0, x - across), min(width, x + across)


def with_box(images: torch.Tensor, partners: torch.Tensor, box: tuple[int, int, int, int], stride: int) -> torch.Tensor:
    """Returns images `(B, 3, H, W)` with the box, in cells, of their partners."""
    y0, y1, x0, x1 = (stride * edge for edge in box)
    mixed = images.clone()
    mixed[:, :, y0:y1, x0:x1] = partners[:, :, y0:y1, x0:x1]
    return mixed
