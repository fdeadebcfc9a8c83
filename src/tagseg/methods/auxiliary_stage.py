"""What ToCo and DuPL share: a single stage with an auxiliary classifier of an earlier block, whose maps tell patches
apart that are of different classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.labels import IGNORE
from tagseg.methods.single_stage import SingleStage
from tagseg.networks.pooling import box_masks
from tagseg.networks.ranks import shared_mean
from tagseg.networks.vit import Tokens


class AuxiliaryStage(SingleStage):
    """A single stage with an auxiliary classifier; its arguments are those of `SingleStage` without `early`."""

    weight_of = {"patch_contrast": "patch_weight", "class_contrast": "class_weight"}  # noqa: RUF012

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps, settings.auxiliary_block)
        self.auxiliary = nn.Conv2d(self.backbone.channels, self.num_classes, kernel_size=1, bias=False)

    def main_maps(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the class maps that teach, of one scale. `(B, D, h, w) -> (B, C, h, w)`."""
        return self.classifier(features).float()

    def refined(self, maps: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """Returns what becomes of the class maps before they teach: here they stay as they are."""
        del tokens
        return maps

    @torch.no_grad()
    def teaching_maps(
        self, images: torch.Tensor, tokens: Tokens, tags: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns maps of both classifiers over scales and flips, `(B, C, H, W)` each, in [0, 1].

        They are 0 for classes that none of the images has.

        Args:
            images: `(B, 3, H, W)`.
            tokens: of the images as they are.
            tags: `(B, C)` multi-hot.
        """

        def both(seen: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
            return self.refined(self.main_maps(seen.patches), seen), self.auxiliary(seen.early).float()

        main, early = self.over_scales(images, both, tokens, tags)
        return main, early

    def patch_labels(
        self, maps: torch.Tensor, tags: torch.Tensor, inside: torch.Tensor, high: torch.Tensor | float
    ) -> torch.Tensor:
        """Returns the labels of patches that are contrasted, `(B, h, w)`, 255 for unknown.

        `maps` are those of the auxiliary classifier, `inside` is in pixels, in which `compat=official` reads it as
        cells; `high` is the higher background score, or that of each image `(B,)`.
        """
        official = self.settings.compat == "official"
        boxes = inside if official else cells_inside(inside, self.backbone.stride)
        return self.labels_within(maps, tags, boxes, high)

    def labels_within(
        self, maps: torch.Tensor, tags: torch.Tensor, boxes: torch.Tensor, high: torch.Tensor | float
    ) -> torch.Tensor:
        """Returns the labels of patches by maps `(B, C, H, W)`, `(B, h, w)`, 255 for unknown and outside of `boxes`.

        `boxes` `(B, 4)` are rows y0, y1, x0, x1 of patches; `high` is as in `patch_labels`.
        """
        grid = self.backbone.grid.cells(maps.shape[-2], maps.shape[-1])
        small = F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
        return labels_of(small, tags, high=high, low=self.settings.low, boxes=boxes)

    def heads(self) -> list[nn.Module]:
        """Returns the networks that learn `head_factor` times faster, the auxiliary classifier among them."""
        return [*super().heads(), self.auxiliary]


def labels_of(
    maps: torch.Tensor,
    tags: torch.Tensor,
    *,
    high: torch.Tensor | float,
    low: float,
    boxes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Labels the strongest tag where it exceeds `high`, and background where it is at most `low`.

    Between the two, and off the box, the label is 255.

    Args:
        maps: `(B, C, h, w)` in [0, 1].
        tags: `(B, C)` multi-hot.
        high, low: background scores; `high` may be one for each image, `(B,)`.
        boxes: `(B, 4)` rows y0, y1, x0, x1 of what counts, cells.

    Returns:
        `(B, h, w)` int64, class c at c + 1.
    """
    strength, strongest = (maps * tags[:, :, None, None]).max(dim=1)
    if isinstance(high, torch.Tensor):
        high = high[:, None, None]
    labels = torch.where(strength > high, strongest + 1, IGNORE)
    labels = torch.where(strength <= low, 0, labels)
    if boxes is None:
        return labels
    return torch.where(box_masks(boxes, maps.shape[-2:]).bool(), labels, IGNORE)


def cells_inside(boxes: torch.Tensor, stride: int) -> torch.Tensor:
    """Turns boxes in pixels into boxes of the cells that lie in them whole."""
    y0, y1, x0, x1 = boxes.unbind(1)
    # starts are rounded up and ends down, so that a cell which holds any padding is out
    return torch.stack([-(-y0 // stride), y1 // stride, -(-x0 // stride), x1 // stride], dim=1)


def affinity_labels(labels: torch.Tensor) -> torch.Tensor:
    """Returns labels of pairs of patches: 1 alike, 0 not, 255 unknown or the same patch.

    `(B, h, w) -> (B, n, n)`.
    """
    flat = labels.flatten(1)
    pairs = (flat[:, :, None] == flat[:, None, :]).long()
    unknown = (flat == IGNORE)[:, :, None] | (flat == IGNORE)[:, None, :]
    unknown = unknown | torch.eye(flat.shape[1], dtype=torch.bool, device=labels.device)
    return pairs.masked_fill(unknown, IGNORE)


def patch_contrast_loss(features: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Returns L_ptc: patches alike are to point the same way, or the opposite one, others at right angles.

    Args:
        features: `(B, D, h, w)`.
        pairs: `(B, n, n)` of `affinity_labels`.
    """
    # small differences of large products: in half precision they would be lost
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float().flatten(2), dim=1)
        alike = (unit.transpose(1, 2) @ unit).abs()
    attracted = 1 - shared_mean(alike, pairs == 1, more=1)
    return (attracted + shared_mean(alike, pairs == 0, more=1)) / 2
