"""SEAM: Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic Segmentation",
CVPR 2020.

A classifier says of a small photograph something else than of a large one, though objects are where they were. So it
sees both, and its class maps are to be the same (equivariant regularisation); and they are to be what the maps of the
other size become when they flow between cells that look alike (the pixel correlation module, `tagseg.networks.pcm`).
These maps are the ones that are used afterwards.

What the paper does not say is as in its code: the winner of every cell alone flows, beside the background, which is
what no class claims; and a quarter of every image is to be free of classes. The code's twenty-first class map, which no
loss reaches, is left out. Its class scores are means of enlarged maps, padding included; here of the photograph's
cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.masks.rescaling import normalised
from tagseg.methods.cam import CAM
from tagseg.methods.settings.seam import SEAMSettings
from tagseg.methods.single_stage import classes_of
from tagseg.networks.pcm import EPSILON, PCM
from tagseg.networks.pooling import box_masks, inside_cells

FREE = 0.25  # share of an image that is to be free of classes (published code)


class SEAM(CAM):
    """A classifier whose class maps, and what they become by pixel correlation, agree between two sizes.

    Its arguments are those of `CAM`.
    """

    Settings = SEAMSettings
    classifier: nn.Conv2d
    local_maps = False  # cells are compared with all others
    on_features = False  # it needs inner stages, and photographs of two sizes
    from_minimum = True
    enlarges = True
    weight_of = {"free": "background_weight"}  # noqa: RUF012

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: SEAMSettings, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.drop = nn.Dropout2d(settings.dropout)
        self.correlation = PCM(self.backbone.inner_widths(), self.backbone.grid, rectified=True)
        side = self.view_spec(0).side
        self.small, _ = self.backbone.grid.fit(*[settings.rescaling * side] * 2)

    def plain_and_refined(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the class maps, signed, and what flowed of them between cells that look alike, background first.

        `(B, 3, H, W) -> (B, C, h, w), (B, C + 1, h, w)`, the latter in [0, 1].
        """
        features, stages = self.backbone.with_stages(images)
        maps = self.classifier(self.drop(features)).float()
        return maps, self.correlation(winners_and_background(maps), images, stages[-3:-1])

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the class maps and the refined ones, `(B, 2 C, h, w)`."""
        maps, refined = self.plain_and_refined(images)
        return torch.cat([maps, refined[:, 1:]], dim=1)

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the refined maps `(B, C, h, w)`, and the class maps' means as logits `(B, C)`."""
        plain, refined = score_maps.chunk(2, dim=1)
        return refined, self.tag_logits(plain)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the refined maps. `(B, 3, H, W) -> (B, C, h, w)` in [0, 1]."""
        return self.plain_and_refined(images)[1][:, 1:]

    def starting_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the class maps before they flow, signed, and tag logits."""
        maps = self.classifier(self.backbone(images)).float()
        return maps, self.tag_logits(maps)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification loss of both sizes, L_ER, L_ECR, and what keeps a quarter of images free."""
        s, grid, images, tags = self.settings, self.backbone.grid, batch["image"], batch["tags"]
        classes = classes_of(tags)  # of all others every loss below is 0
        told = tags[:, classes]
        sizes = (self.small, self.small)
        views = (images, grid.resize(images, sizes))
        plain, refined, classification, free = [], [], [], []
        for view in views:
            maps, flowed = self.plain_and_refined(view)
            at = (view.shape[-2], view.shape[-1])
            boxes = batch["inside"] * (at[1] / images.shape[-1])  # what of the view is photograph
            logits = self.tag_logits(maps, inside_cells(boxes, grid, at))
            classification.append(F.multilabel_soft_margin_loss(logits, tags))
            flowed = grid.resize(torch.cat([flowed[:, :1], flowed[:, 1:][:, classes]], dim=1), at)
            free.append(free_loss(flowed[:, 1:] * told[:, :, None, None], box_masks(boxes, at).bool()))
            plain.append(grid.resize(normalised(grid.resize(maps[:, classes], at), "official"), sizes))
            refined.append(grid.resize(normalised(flowed, "official"), sizes))
        equal, cross = equivariance_losses(plain, refined, told, self.num_classes, s.hardest)
        terms = {
            "classification": (classification[0] + classification[1]) / 2,
            "equivariance": s.equivariance_weight * equal,
            "cross": s.cross_weight * cross,
            "free": s.background_weight * (free[0] + free[1]) / 2,
        }
        return self.told(sum(terms.values(), equal.new_zeros(())), **terms)


@torch.no_grad()
def winners_and_background(maps: torch.Tensor) -> torch.Tensor:
    """Returns what flows: of every cell the class that is strongest there, and before it what no class claims.

    Maps are rectified and divided by their maxima first (section 3.3 and published code).

    Args:
        maps: `(B, C, h, w)` signed.

    Returns:
        `(B, C + 1, h, w)` in [0, 1], background first.
    """
    maps = maps.relu()
    scaled = (maps - EPSILON).relu() / (maps.amax(dim=(2, 3), keepdim=True) + EPSILON)
    return torch.cat([1 - scaled.amax(dim=1, keepdim=True), strongest_only(scaled)], dim=1)


def strongest_only(maps: torch.Tensor) -> torch.Tensor:
    """Returns maps `(B, C, h, w)` of which every cell keeps its strongest class, and 0 of the others."""
    return maps * (maps == maps.amax(dim=1, keepdim=True))


def free_loss(maps: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
    """Returns how strong the strongest class is in the quarter of every image where it is weakest (published code).

    Args:
        maps: `(B, C, H, W)` of the tags, 0 for other classes; rectified.
        inside: `(B, H, W)` bool, what is photograph and not padding, of which a quarter is taken; None: all of it is.
    """
    strongest = maps.amax(dim=1).flatten(1)
    if inside is None:
        counts = strongest.new_full((len(strongest),), strongest.shape[1])
    else:
        strongest = strongest.masked_fill(~inside.flatten(1), torch.inf)
        counts = inside.flatten(1).sum(dim=1).clamp(min=1)
    counts = (FREE * counts).long().clamp(min=1)
    weakest = strongest.topk(int(counts.max()), dim=1, largest=False, sorted=True).values
    taken = torch.arange(weakest.shape[1], device=maps.device) < counts[:, None]
    return (torch.where(taken & weakest.isfinite(), weakest, 0.0).relu().sum(dim=1) / counts).mean()


def equivariance_losses(
    plain: Sequence[torch.Tensor], refined: Sequence[torch.Tensor], tags: torch.Tensor, classes: int, hardest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns L_ER and L_ECR of two views (section 3.4, equations 6 and 7).

    L_ER is the mean difference between the class maps of both. L_ECR is that between the refined maps of one and of
    every place the strongest class of the other, beside the background; of each image only its largest values count.

    Args:
        plain: the class maps of either view, `(B, K, H, W)` in [0, 1], at one size.
        refined: their refined maps, `(B, K + 1, H, W)` in [0, 1], background first.
        tags: `(B, K)` multi-hot; nothing counts of classes that an image does not have.
        classes: C >= K: of how many the K are those that some image of the batch has.
        hardest: share of the (C + 1) H W values of an image that count in L_ECR.
    """
    kept = tags[:, :, None, None].to(plain[0].dtype)
    first, second = (maps * kept for maps in plain)
    height, width = first.shape[-2:]
    equal = (first - second).abs().sum() / (len(first) * classes * height * width)
    count = max(1, int(hardest * (classes + 1) * height * width))
    with_background = torch.cat([torch.ones_like(kept[:, :1]), kept], dim=1)
    cross = first.new_zeros(())
    for maps, other in ((second, refined[0]), (first, refined[1])):
        wanted = torch.cat([1 - maps.amax(dim=1, keepdim=True), strongest_only(maps)], dim=1).detach()
        apart = (wanted - other * with_background).abs().flatten(1)
        # of classes that no image has all differences are 0: they are counted, but need not be there
        cross = cross + apart.topk(min(count, apart.shape[1]), dim=1).values.sum() / (count * len(apart))
    return equal, cross
