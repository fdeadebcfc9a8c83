"""Ten-crop maps, as the published localisation script of LayerCAM makes them (ten crops of 224 from 256 pixels)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tagseg.attribution.fusion import normalise
from tagseg.errors import BadInput

Attribution = Callable[[torch.Tensor, Any], torch.Tensor]


def ten_crops(attribution: Attribution, images: torch.Tensor, classes: torch.Tensor, side: int = 224) -> torch.Tensor:
    """Returns the maps of ten crops, pasted back where they came from and added, over their maximum.

    The crops are the four corners and the centre, and their mirror images.

    Args:
        attribution: `(images, classes) -> (B, K, H, W)`.
        images: `(B, 3, H, W)`, both sides at least `side`.
        classes: `(B, K)`.
        side: of a crop, pixels.

    Returns:
        `(B, K, H, W)` in [0, 1].
    """
    return normalise(paste_crops(attribution, images, classes, side))


def paste_crops(attribution: Attribution, images: torch.Tensor, classes: torch.Tensor, side: int) -> torch.Tensor:
    """Returns the sums of the maps of ten crops; see `ten_crops`.

    The attribution may give any number of maps: `(B, 3, side, side) -> (B, N, side, side)`, summed to `(B, N, H, W)`.
    """
    height, width = images.shape[2:]
    if min(height, width) < side:
        raise BadInput(f"ten crops of {side} pixels do not fit images of {width} x {height}; give larger images.")
    bottom, right = height - side, width - side
    total: torch.Tensor | None = None
    for top, left in ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)):
        crop = images[:, :, top : top + side, left : left + side]
        for flipped in (False, True):
            maps = attribution(crop.flip(3) if flipped else crop, classes)
            if total is None:
                total = images.new_zeros(*maps.shape[:2], height, width, dtype=torch.float32)
            total[:, :, top : top + side, left : left + side] += (maps.flip(3) if flipped else maps).to(total)
    assert total is not None
    return total
