"""Boxes of a network's image on the photograph that it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, the last two exclusive
Channel = tuple[int, int]  # level, number


def cut(photo: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Returns the part of a photograph under a box of the network's image of `size` (H, W); never empty."""
    x0, y0, x1, y1 = scaled(box, size, photo.shape[:2])
    return photo[y0:y1, x0:x1]


def scaled(box: Box, size: tuple[int, int], to: Sequence[int]) -> Box:
    """Returns a box of an image of `size` (H, W) in the pixels of one of the size `to`; at least one pixel."""
    down, across = to[0] / size[0], to[1] / size[1]
    x0, y0 = min(int(box[0] * across), to[1] - 1), min(int(box[1] * down), to[0] - 1)
    return x0, y0, max(x0 + 1, round(box[2] * across)), max(y0 + 1, round(box[3] * down))
