"""Gated pyramid pooling: the classification head of AEFT (Yoon et al., ECCV 2022) and KTSE (ECCV 2024).

Plain pooling rewards a class map for one strong place. Here the map is pooled over 2, 4, 8 and 16 tiles a side, gates
that see the whole image mix the levels, and the class score is the agreement of the map with the mixture: a map gains
by being large where its surroundings are.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

LEVELS = (2, 4, 8, 16)  # tiles a side


class Gate(nn.Module):
    """A gate that mixes two levels of a pyramid, their positive and their negative parts apart.

    A 3x3 convolution over both levels of all classes gives two weights a place in (0, 1), which all classes share.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.positive = nn.Conv2d(2 * num_classes, 2, kernel_size=3, padding=1, bias=False)
        self.negative = nn.Conv2d(2 * num_classes, 2, kernel_size=3, padding=1, bias=False)

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        """Mixes two levels `(B, C, h, w)` of one size into one such level."""
        return _mixed(self.positive, coarse.relu(), fine.relu()) - _mixed(
            self.negative, (-coarse).relu(), (-fine).relu()
        )


def _mixed(gate: nn.Conv2d, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    weights = gate(torch.cat([coarse, fine], dim=1)).float().sigmoid()
    return (coarse * weights[:, :1] + fine * weights[:, 1:]) / 2


class GatedPyramidPooling(nn.Module):
    """A module that turns class maps `(B, C, h, w)` into their pyramid, `(B, C, h, w)`.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList([Gate(num_classes) for _ in LEVELS[1:]])

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Returns the pyramid of class maps. `(B, C, h, w)` -> the same."""
        first, *others = (pooled(maps, tiles) for tiles in LEVELS)
        for gate, level in zip(self.gates, others, strict=True):
            first = gate(first, level)
        return first


def pooled(maps: torch.Tensor, tiles: int) -> torch.Tensor:
    """Returns the means of `tiles` x `tiles` tiles, bilinear at the maps' own size. `(B, C, h, w)` -> the same."""
    means = F.adaptive_avg_pool2d(maps, tiles)
    return F.interpolate(means, size=maps.shape[-2:], mode="bilinear", align_corners=False)


def agreement(maps: torch.Tensor, pyramid: torch.Tensor) -> torch.Tensor:
    """Returns class scores: the mean product of positive parts less that of negative parts.

    Two `(B, C, h, w)` -> `(B, C)`. Twice the map gives about four times the score, whatever its sign.
    """
    negative = (-maps).relu() * (-pyramid).relu()
    return (maps.relu() * pyramid.relu() - negative).mean(dim=(2, 3))
