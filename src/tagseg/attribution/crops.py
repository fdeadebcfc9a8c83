"""Ten-crop maps, as the published localisation script of LayerCAM makes them (ten crops of 224 from 256 pixels)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tagseg.attribution.fusion import normalise
from tagseg.errors import BadInput

Attribution = Callable[[torch.Tensor, Any], torch.Tensor]


def ten_crops(attribution: Attribution, images: torch.Tensor, classes: torch.Tensor, side: int = 224) -> torch.Tensor:
    """Returns the maps of ten crops, pasted back where they came from and added.

    The crops are the four corners and the centre, and their mirror images.

    Args:
        attribution: `(images, classes) -> (B, K, H, W)`.
        images: `(B, 3, H, W)`, both sides at least `side`.
        classes: `(B, K)`.

    Returns:
        `(B, K, H, W)` in [0, 1].
    """
    height, width = images.shape[2:]
    if min(height, width) < side:
        raise BadInput(f"ten crops of {side} pixels do not fit images of {width} x {height}; give larger images.")
    bottom, right = height - side, width - side
    total = images.new_zeros(len(images), classes.shape[1], height, width, dtype=torch.float32)
    for top, left in ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)):
        crop = images[:, :, top : top + side, left : left + side]
        for flipped in (False, True):
            maps = attribution(crop.flip(3) if flipped else crop, classes)
            total[:, :, top : top + side, left : left + side] += (maps.flip(3) if flipped else maps).to(total)
    return normalise(total)
