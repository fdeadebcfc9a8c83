"""SIPE: Chen et al., "Self-supervised Image-specific Prototype Exploration for Weakly Supervised Semantic
Segmentation", CVPR 2022.

A class map finds what makes the class on all photographs. On one photograph there is more that looks like it: cells
join the class whose map overlaps most with what is like them, the mean of their features is the class's prototype on
this photograph, and its map is how much every cell is like the prototype. Both kinds of maps are to agree.

Where the code differs from what is here:

- It forms prototypes of the tags alone. What is like the prototype of one class does not depend on which others there
  are, so that no tags are needed here.
- After training it adds the maps and features of an image and its mirror image before it forms prototypes; here each
  has its own, and the maps are fused later, as for all methods.
- It lets a prototype of the background compete in the end, after the views of all scales were added. Here a score
  decides, or that prototype within every view (`background="prototype"`).
- Its tag scores are means over whole windows, padding included, as SEAM's and ReCAM's are; here over the photograph.
- It brings features of fine stages to the grid of the maps as if their cells had their corners in common; here they are
  matched as they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.masks.rescaling import over_maximum
from tagseg.methods.cam import CAM
from tagseg.methods.settings.sipe import SIPESettings

WIDTHS = (128, 128, 256, 256)  # of what is left of the last four stages, fine to coarse (published code)
BACKGROUND = 0.5  # by which the background's overlap is multiplied before classes compete (published code)
LARGEST_GRADIENT = 1.0  # the norm to which gradients are cut (published code)
EPSILON = 1e-5


class SIPE(CAM):
    """A classifier whose class maps, and those of prototypes that each image has of its own, agree.

    Its arguments are those of `CAM`.
    """

    Settings = SIPESettings
    on_features = False  # it needs inner stages
    enlarges = True
    classifier: nn.Conv2d
    local_maps = False  # cells are compared with all others

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: SIPESettings, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        inner = [*self.backbone.stage_shapes()[0][-4:-1], self.backbone.channels]
        self.sides = nn.ModuleList(
            nn.Conv2d(i, o, kernel_size=1, bias=False) for i, o in zip(inner, WIDTHS[-len(inner) :], strict=True)
        )

    def plain_and_features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the class maps, the features they are of, and hierarchical ones, through which the backbone learns
        nothing.

        `(B, 3, H, W) -> (B, C, h, w), (B, D, h, w), (B, E, h, w)`, float32.
        """
        features, stages = self.backbone.with_stages(images)
        maps = self.classifier(features).float()
        sides = [
            side(stage.detach()).float() for side, stage in zip(self.sides, [*stages[-4:-1], features], strict=True)
        ]
        resize, size = self.backbone.grid.resize, maps.shape[-2:]
        joined = [resize(side / (side.norm(dim=1, keepdim=True) + EPSILON), size) for side in sides]
        return maps, features.float(), torch.cat(joined, dim=1)

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the class maps and those of prototypes, `(B, 2 C, h, w)`."""
        maps, _, features = self.plain_and_features(images)
        specific = prototype_maps(structure_seeds(with_background(maps), features), features)
        found = specific[:, 1:]
        if self.settings.background == "prototype":
            scaled = over_maximum(specific)
            found = found * (scaled[:, 1:] > scaled[:, :1])
        return torch.cat([maps, found], dim=1)

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the prototypes' maps `(B, C, h, w)` in [0, 1], and tag logits `(B, C)`."""
        maps, specific = score_maps.chunk(2, dim=1)
        return specific, self.tag_logits(maps)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the prototypes' maps (section 3.2). `(B, 3, H, W) -> (B, C, h, w)` in [0, 1]."""
        return self.maps_and_logits(self.score_maps(images))[0]

    def starting_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the class maps of the classifier alone, signed, and tag logits."""
        maps = self.classifier(self.backbone(images)).float()
        return maps, self.tag_logits(maps)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification loss and the general-specific consistency."""
        tags, inside = batch["tags"], self.inside(batch)
        maps, features, hierarchical = self.plain_and_features(batch["image"])
        classification = F.multilabel_soft_margin_loss(self.tag_logits(maps, inside), tags)
        # nothing counts of absent classes, and nothing of padding
        valid = torch.cat([torch.ones_like(tags[:, :1]), tags], dim=1)[:, :, None, None] * (inside > 0.5)[:, None]
        general = with_background(maps) * valid
        seeds = structure_seeds(general.detach(), features.detach()) * valid
        specific = prototype_maps(seeds, hierarchical)
        specific = specific / (specific.amax(dim=(2, 3), keepdim=True) + EPSILON)
        consistency = self.settings.consistency_weight * (general - specific).abs().mean()
        return self.told(classification + consistency, classification=classification, consistency=consistency)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Cuts gradients to the published norm."""
        del optimizer
        nn.utils.clip_grad_norm_(self.parameters(), LARGEST_GRADIENT)


def with_background(maps: torch.Tensor) -> torch.Tensor:
    """Returns maps over their maxima, and before them what no class claims.

    `(B, C, h, w)` signed -> `(B, C + 1, h, w)` in [0, 1].
    """
    maps = maps.relu()
    maps = maps / (maps.amax(dim=(2, 3), keepdim=True) + EPSILON)
    return torch.cat([1 - maps.amax(dim=1, keepdim=True), maps], dim=1)


@torch.no_grad()
def structure_seeds(maps: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Returns which class every cell is a seed of (section 3.2, structure-aware seed exploration).

    What is like a cell, the rectified cosines with all cells, overlaps with every class's map (intersection over
    union, of sums), and most with that of its own class.

    Args:
        maps: `(B, C + 1, h, w)` in [0, 1], background first.
        features: `(B, D, h, w)`, which are compared.

    Returns:
        `(B, C + 1, h, w)` float32 of 0 and 1, one 1 a cell.
    """
    with torch.autocast(maps.device.type, enabled=False):
        unit = features.float().flatten(2)
        unit = unit / (unit.norm(dim=1, keepdim=True) + EPSILON)
        like = torch.bmm(unit.transpose(1, 2), unit).relu()
        values = maps.float().flatten(2)
        shared = torch.bmm(values, like)  # likeness is symmetric
        overlap = shared / (like.sum(dim=1, keepdim=True) + values.sum(dim=2, keepdim=True) - shared)
    overlap[:, 0] *= BACKGROUND
    seeds = torch.zeros_like(overlap).scatter_(1, overlap.argmax(dim=1, keepdim=True), 1.0)
    return seeds.unflatten(2, maps.shape[-2:])


def prototype_maps(seeds: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Returns how much every cell is like the prototype of every class: rectified cosines, 0 of a class without seeds.

    A prototype is the mean of the features of a class's seeds (section 3.2, background-aware prototype modelling).

    Args:
        seeds: `(B, C + 1, h, w)` of 0 and 1.
        features: `(B, E, h, w)`.

    Returns:
        `(B, C + 1, h, w)` in [0, 1].
    """
    with torch.autocast(features.device.type, enabled=False):
        prototypes = torch.einsum("bkhw,behw->bke", seeds, features.float()) / seeds[0, 0].numel()
        cosines = torch.einsum("bke,behw->bkhw", F.normalize(prototypes, dim=2), F.normalize(features.float(), dim=1))
    return cosines.relu()
