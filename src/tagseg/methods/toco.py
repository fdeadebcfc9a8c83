"""ToCo: Ru et al., "Token Contrast for Weakly-Supervised Semantic Segmentation", CVPR 2023: classifier and segmentation
network in one, on a plain vision transformer, trained at once.

Deep blocks of a transformer make all patches alike. The class maps of an earlier block tell patches apart that are of
different classes (patch token contrast), and choose small crops whose class token must, or must not, be that of the
whole image (class token contrast). The class maps of the last block, refined by PAR, teach the decoder.

Where the published code errs, this does not, unless `compat="official"`:

- The code mirrors the training image and the source of the crops once more, each by its own chance, and neither the
  photograph's box nor the map of regions with them.
- It applies that box, in pixels, to labels of the patch grid, so that a third of the views teach no patch contrast.
- Its class token contrast has one term too many, of a similarity of 1.
- It normalises photographs by ImageNet's statistics whatever the weights expect; here by those of the weights, unless
  `statistics="imagenet"`.

What the code computes more than once is computed once: the training image is its own first global view, and its own
class map at the first scale; the teacher shares the encoder.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.data.contrast_views import ContrastViews
from tagseg.data.dataset import Sample
from tagseg.errors import BadInput
from tagseg.masks.dense_energy import dense_energy
from tagseg.masks.two_thresholds import refined_labels
from tagseg.methods.auxiliary_stage import AuxiliaryStage, affinity_labels, cells_inside, patch_contrast_loss
from tagseg.methods.settings.toco import ToCoSettings
from tagseg.methods.single_stage import balanced_cross_entropy, pooled_logits
from tagseg.networks.pooling import box_masks
from tagseg.networks.vit import Tokens

MOMENTUM = 0.9  # of the teacher's projection


class Projection(nn.Module):
    """A projection of the class token to 1024 values, as in self-distillation.

    It has three layers, then one whose weights have unit length.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = nn.Linear(256, 1024, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns projected tokens. `(B, D) -> (B, 1024)` in [-1, 1], float32."""
        inner = F.normalize(self.layers(tokens).float(), dim=-1)
        with torch.autocast(tokens.device.type, enabled=False):
            return F.linear(inner, F.normalize(self.last.weight.float(), dim=-1))


class ToCo(AuxiliaryStage):
    """A transformer whose tokens are contrasted; its arguments are those of `AuxiliaryStage`.

    Raises:
        BadInput: the backbone is no plain transformer, or crops are larger than the image.
    """

    Settings: type[ToCoSettings] = ToCoSettings
    refined_by: Literal["auxiliary", "last"] | None = None  # whose maps label patches for `refinement_loss`, if any
    moved: int | None = None  # the step in which the teacher of the projection moved last

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        self.crop_side, _ = self.backbone.grid.fit(*[settings.crop_share * self.side] * 2)
        if self.crop_side > self.side:
            raise BadInput(f"train.crop_share {settings.crop_share}: crops of {self.crop_side} pixels are too large.")
        self.projection = Projection(self.backbone.channels)
        self.teacher = copy.deepcopy(self.projection).requires_grad_(False)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification losses, and L_ptc, L_ctc, L_seg and L_reg, each from its share of the steps on."""
        s, images, tags = self.settings, batch["image"], batch["tags"]
        tokens = self.tokens(images)
        classification = F.multilabel_soft_margin_loss(pooled_logits(self.classifier, tokens.patches), tags)
        early = F.multilabel_soft_margin_loss(pooled_logits(self.auxiliary, tokens.early), tags)
        terms = {"classification": classification, "auxiliary": s.auxiliary_weight * early}

        contrasted = self.global_step >= s.contrast_from * self.steps
        segmented = self.global_step >= s.classes_first * self.steps
        if contrasted or segmented:
            maps, early_maps = self.taught_maps(images, tokens, tags)
        labels = self.patch_labels(early_maps, tags, batch["inside"], s.high) if contrasted else None
        cells, known = cells_inside(batch["inside"], self.backbone.stride), None
        if contrasted and self.refined_by is not None:
            refining = maps if self.refined_by == "last" else early_maps
            known = self.labels_within(refining, tags, cells, s.high)
        terms |= self.refinement_loss(tokens, tags, known, cells)
        if labels is not None:
            contrast = patch_contrast_loss(tokens.patches.float(), affinity_labels(labels))
            terms["patch_contrast"] = s.patch_weight * contrast
            terms["class_contrast"] = s.class_weight * self.class_contrast(batch, tokens.summary, early_maps)
        if segmented:
            teaching = maps if contrasted else early_maps
            terms |= self.segmentation(images, tokens.patches, teaching, tags, batch["inside"])
        return self.told(sum(terms.values(), classification.new_zeros(())), **terms)

    def refinement_loss(
        self, tokens: Tokens, tags: torch.Tensor, labels: torch.Tensor | None, boxes: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Returns the terms that a refinement adds to the loss if it learns: none here.

        `labels` are those of patches by the maps that `refined_by` names, None before anything is contrasted;
        `boxes` `(B, 4)` say which patches are photograph and not padding: rows y0, y1, x0, x1.
        """
        del tokens, tags, labels, boxes
        return {}

    def class_contrast(self, batch: dict[str, torch.Tensor], summary: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Returns L_ctc; `summary` is the class token of the image, `maps` are those of the auxiliary classifier."""
        s = self.settings
        found = regions(maps, batch["tags"], high=s.high, low=s.low)
        corners = draw_crops(found, self.crop_side, s.crops, batch["draw"])
        crops, flags = cut_crops(batch["again"], found, corners, self.crop_side, s.uncertain)
        if self.global_step != self.moved:  # once a step: a batch may come in parts
            self.moved = self.global_step
            with torch.no_grad():
                for mean, own in zip(self.teacher.parameters(), self.projection.parameters(), strict=True):
                    mean.lerp_(own.detach(), 1 - MOMENTUM)
        views = torch.cat([summary, self.tokens(batch["other"]).summary])
        parts = torch.cat([views, self.tokens(crops.flatten(0, 1)).summary])
        with torch.no_grad():
            target = self.teacher(views.detach())
        both = torch.cat([flags.new_ones(len(flags), 2), flags], dim=1)
        return class_contrast_loss(self.projection(parts), target, both, s.temperature, extra=s.compat == "official")

    def segmentation(
        self,
        images: torch.Tensor,
        features: torch.Tensor,
        maps: torch.Tensor,
        tags: torch.Tensor,
        inside: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Returns L_seg, with labels that PAR refines, and L_reg, weighted."""
        s = self.settings
        labels = refined_labels(images, maps * tags[:, :, None, None], tags, high=s.high, low=s.low, boxes=inside)
        scores = self.scores_at(features, images)
        terms = {"segmentation": s.segmentation_weight * balanced_cross_entropy(scores, labels)}
        if s.energy_weight:
            colours = self.colours(images)
            energy = dense_energy(colours, scores.softmax(dim=1), box_masks(inside, images.shape[-2:]), labels)
            terms["energy"] = s.energy_weight * energy
        return terms

    def colours(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the images' colours in 0..255."""
        mean, std = (
            torch.tensor(v, device=images.device)[:, None, None] for v in (self.backbone.mean, self.backbone.std)
        )
        return 255 * (images * std + mean)

    def training_views(self, samples: tuple[Sample, ...], seed: int) -> ContrastViews:
        """Returns one window in two colourings, and another window of the same photograph."""
        official = self.settings.compat == "official"
        spec = self.view_spec(seed, black=official)  # as the code pads
        return ContrastViews(samples, self.num_classes, self.backbone, spec, mirror_apart=official)

    def heads(self) -> list[nn.Module]:
        """Returns the networks that learn `head_factor` times faster, the projection among them."""
        return [*super().heads(), self.projection]


def regions(maps: torch.Tensor, tags: torch.Tensor, *, high: float, low: float) -> torch.Tensor:
    """Returns 0 where there is surely background, 2 where surely an object, 1 between.

    `(B, C, H, W)`, `(B, C)` -> `(B, H, W)`.
    """
    strength = (maps * tags[:, :, None, None]).amax(dim=1)
    return (strength > low).long() + (strength >= high).long()


def class_contrast_loss(
    student: torch.Tensor, teacher: torch.Tensor, flags: torch.Tensor, temperature: float, *, extra: bool = False
) -> torch.Tensor:
    """Returns L_ctc, the loss of class token contrast.

    Args:
        student: `(V B, D)` of all views, the view varying slowest.
        teacher: `(2 B, D)` of the global views.
        flags: `(B, V)`, 1 for views that are to be like the global ones, 0 for those that are not.
        temperature: tau.
        extra: whether every global view has one positive more, of similarity 1 (published code).
    """
    batch, views = flags.shape
    others, globals_ = student.view(views, batch, -1), teacher.view(-1, batch, teacher.shape[1])
    # p . q / tau of every global view, from the teacher, with every view: (B, G, V). It can be in the hundreds, whose
    # exponentials no float32 holds, so that all that follows are logarithms
    with torch.autocast(student.device.type, enabled=False):
        similar = torch.einsum("gbd,vbd->bgv", globals_.float(), others.float()) / temperature
    positive = flags.to(similar.dtype)[:, None]
    # InfoNCE: a positive stands against all negatives of its photograph and 1e-4, not against other positives
    negatives = F.pad(similar.masked_fill(positive > 0, -torch.inf), (0, 1), value=math.log(1e-4))
    against = negatives.logsumexp(dim=2, keepdim=True)
    total = ((torch.logaddexp(similar, against) - similar) * positive).sum(dim=2)
    if extra:
        # the spare positive: similarity 1 over itself and the negatives
        total = total + F.softplus(against[:, :, 0])
    # the mean over global views, and over the positives of each photograph
    return (total.sum(dim=1) / len(globals_) / (positive[:, 0].sum(dim=1) + 1e-4)).mean()


def draw_crops(found: torch.Tensor, side: int, count: int, seeds: torch.Tensor) -> torch.Tensor:
    """Draws where crops are cut: centred on random pixels that are not surely an object, none twice.

    If there are too few of these, any will do. What is drawn for an image depends on its seed alone.

    Args:
        found: `(B, H, W)` regions.
        side: of a crop, pixels.
        count: crops of an image.
        seeds: `(B,)` int64.

    Returns:
        `(B, count, 2)`, y and x of the upper left corners, pixels.
    """
    height, width = found.shape[-2:]
    # corners, along either axis, of which a crop stays inside
    rooms = (height - side + 1, width - side + 1)
    half = side // 2
    corners = []
    for one, seed in zip(found.cpu(), seeds.tolist(), strict=True):
        random = torch.Generator().manual_seed(seed)
        # place (y, x) of this window is the centre of the crop whose corner is (y, x)
        free = (one[half : half + rooms[0], half : half + rooms[1]] <= 1).flatten().nonzero()[:, 0]
        if len(free) < count:
            # too little is not surely an object: any corner goes
            free = torch.arange(rooms[0] * rooms[1])
        # none twice, unless there are fewer corners than crops
        chosen = (
            free[torch.randperm(len(free), generator=random)[:count]]
            if len(free) >= count
            else free[torch.randint(len(free), (count,), generator=random)]
        )
        # corners were numbered row by row
        corners.append(torch.stack([chosen // rooms[1], chosen % rooms[1]], dim=1))
    return torch.stack(corners)


def cut_crops(
    images: torch.Tensor, found: torch.Tensor, corners: torch.Tensor, side: int, uncertain: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cuts crops, `(count, B, 3, side, side)`, and flags them, `(B, count)`.

    A flag is 1 where the mean region exceeds `uncertain`.
    """
    crops, flags = [], []
    for image, regions_of_one, places in zip(images, found, corners.tolist(), strict=True):
        crops.append(torch.stack([image[:, y : y + side, x : x + side] for y, x in places]))
        shares = [regions_of_one[y : y + side, x : x + side].float().mean() for y, x in places]
        flags.append(torch.stack(shares) > uncertain)
    return torch.stack(crops, dim=1), torch.stack(flags).long()
