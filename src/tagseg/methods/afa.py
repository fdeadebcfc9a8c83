"""AFA: Ru et al., "Learning Affinity from Attention: End-to-End Weakly-Supervised Semantic Segmentation with
Transformers", CVPR 2022.

Attention tells which patches belong together, roughly. A 1x1 convolution over the heads of the last two blocks turns it
into affinities, which pseudo-labels teach; class maps that are spread along them, and refined by PAR, become the
pseudo-labels that teach the decoder.

The paper has SegFormer's encoder, a mix transformer ("mit_b1"), whose attention at the last stage is over the whole
image, and its head; here any plain transformer will do too, with the decoder of `SingleStage`. As in the published code
there is no regulariser (it is commented out there), class token and head normalisations stay as they are, and the
diagonal counts as a positive pair.

The published affinity sees products of queries and keys that are not scaled. Those of a plain transformer are so large
that nearly all affinities would begin at 0 or 1, where nothing is learnt; here they are scaled, as attention scales
them, and with `compat="official"` they are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.data.dataset import Sample
from tagseg.data.paired_views import PairedViews
from tagseg.grid import PIXELS, Grid
from tagseg.labels import IGNORE
from tagseg.masks.two_thresholds import refined_labels
from tagseg.methods.settings.afa import AFASettings
from tagseg.methods.single_stage import SingleStage, balanced_cross_entropy, pooled_logits
from tagseg.networks import mix_transformer
from tagseg.networks.ranks import shared_mean
from tagseg.networks.vit import Attention, StagedTransformer, Tokens

BLOCKS = 2  # the last ones, whose attention is learnt from
FLAT = 1e-3  # slope of the sigmoid below which an affinity counts as saturated


class AFA(SingleStage):
    """A transformer whose attention learns affinities; its arguments are those of `SingleStage` without `early`."""

    Settings = AFASettings
    power = 1.0

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: AFASettings, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        for module in self.backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(False)
        self.affinity = nn.Conv2d(BLOCKS * self.backbone.attentions[-1].num_heads, 1, kernel_size=1)
        nn.init.kaiming_normal_(self.affinity.weight, a=math.sqrt(5), mode="fan_out")
        nn.init.zeros_(self.affinity.bias)  # type: ignore[arg-type]

    def transformer(self, backbone: str, weights: str, early: int) -> Any:
        """Returns the transformer, which may be a mix transformer; its decoder is then SegFormer's."""
        if backbone not in mix_transformer.NAMES:
            return super().transformer(backbone, weights, early)
        self.decoder_name = "segformer"
        return StagedTransformer(backbone, weights)

    def tokens(self, images: torch.Tensor) -> Tokens:
        """Returns what the transformer says of images `(B, 3, H, W)`, with its attention."""
        return self.backbone.tokens(images, attention=True)

    def affinities(self, attention: Attention) -> torch.Tensor:
        """Returns the affinities of patches: `(B, n, n)` in (0, 1), symmetric.

        They come from the products of queries and keys and their transposes.
        """
        logits = attention.logits(BLOCKS).float()
        if self.settings.compat == "official":
            logits = logits / self.backbone.attentions[-1].scale
        return self.affinity(logits + logits.transpose(2, 3)).float().sigmoid()[:, 0]

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns L_cls, L_aff and L_seg, the last two once their share of the steps is over."""
        s, images, tags = self.settings, batch["image"], batch["tags"]
        tokens = self.tokens(images)
        classification = F.multilabel_soft_margin_loss(pooled_logits(self.classifier, tokens.patches), tags)
        terms = {"classification": classification}
        saturated: dict[str, torch.Tensor] = {}
        if self.global_step >= s.classes_first * self.steps:
            maps, attention = self.taught_maps(images, tokens, tags)
            # maps were made for the classes of the whole batch; an image keeps those of its own tags
            maps = maps * tags[:, :, None, None]
            how: dict[str, Any] = {"high": s.high, "low": s.low, "boxes": batch["inside"], "cells": self.backbone.grid}
            labels_by = partial(refined_labels, images, maps, tags, **how, iterations=s.par_iterations)
            # affinities are taught by labels of maps that were not spread along them
            labels = labels_by()
            assert tokens.attention is not None
            grid = tokens.attention.grid
            pairs = near_pairs(labels, grid, s.radius, self.backbone.grid)
            affinity = self.affinities(tokens.attention)
            terms["affinity"] = s.affinity_weight * affinity_loss(affinity, pairs)
            # affinities that learn nothing any more, for their slope is gone
            saturated = {"saturated": (affinity.detach() * (1 - affinity.detach()) < FLAT).float().mean()}
            # later the decoder learns from labels of maps that were spread along the affinities
            if self.global_step >= s.spread_from * self.steps:
                labels = labels_by(affinity=self.transitions(attention))
            entropy = balanced_cross_entropy(self.scores_at(tokens.stages or tokens.patches, images), labels)
            terms["segmentation"] = s.segmentation_weight * entropy
        return self.told(sum(terms.values(), classification.new_zeros(())), **terms, **saturated)

    @torch.no_grad()
    def teaching_maps(self, images: torch.Tensor, tokens: Tokens, tags: torch.Tensor) -> tuple[torch.Tensor, Attention]:
        """Returns class maps over scales and flips, `(B, C, H, W)` in [0, 1], and the attention at the largest scale.

        Args:
            images: `(B, 3, H, W)`.
            tokens: of the images as they are.
            tags: `(B, C)` multi-hot; maps of classes that none of the images has are 0.
        """
        seen: list[Attention] = []  # at every scale, then of the mirror image

        def class_maps(at_scale: Tokens) -> tuple[torch.Tensor]:
            assert at_scale.attention is not None
            seen.append(at_scale.attention)
            return (self.classifier(at_scale.patches).float(),)

        (maps,) = self.over_scales(images, class_maps, tokens, tags)
        return maps, max(seen, key=lambda attention: attention.grid)  # of equals the first, which is not mirrored

    @torch.no_grad()
    def transitions(self, attention: Attention) -> torch.Tensor:
        """Returns the transitions along which class maps are spread, `(B, h, w, h, w)`."""
        height, width = attention.grid
        matrix = transition_matrix(
            self.affinities(attention), attention.grid, self.settings.radius, self.settings.power
        )
        return matrix.view(-1, height, width, height, width)

    def training_views(self, samples: tuple[Sample, ...], seed: int) -> PairedViews:
        """Returns views that know what of them is photograph; none has a partner."""
        return PairedViews(samples, self.num_classes, self.backbone, self.view_spec(seed), pairs_from=None)

    def heads(self) -> list[nn.Module]:
        """Returns the networks that learn `head_factor` times faster, the affinity among them."""
        return [*super().heads(), self.affinity]


def within(grid: tuple[int, int], radius: int, device: torch.device) -> torch.Tensor:
    """Returns which pairs of patches are at most `radius` rows and columns apart, `(n, n)` bool."""
    y, x = torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij")
    rows, columns = y.flatten(), x.flatten()
    return ((rows[:, None] - rows).abs() <= radius) & ((columns[:, None] - columns).abs() <= radius)


def near_pairs(labels: torch.Tensor, grid: tuple[int, int], radius: int, cells: Grid = PIXELS) -> torch.Tensor:
    """Returns labels of pairs of patches: 1 of the same label, 0 of others, 255 unknown or too far apart.

    `(B, H, W)` labels, 255 for unknown -> `(B, n, n)`. Of cells that lie on the image's corners the label at their
    centre counts.
    """
    if cells.corners:
        labels = cells.sample(labels)
    flat = F.interpolate(labels[:, None].float(), size=grid, mode="nearest")[:, 0].long().flatten(1)
    pairs = (flat[:, :, None] == flat[:, None]).long()
    unknown = (flat == IGNORE)[:, :, None] | (flat == IGNORE)[:, None]
    return pairs.masked_fill(unknown | ~within(grid, radius, labels.device), IGNORE)


def affinity_loss(affinity: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Returns L_aff: half from pairs that are alike, half from those that are not.

    It takes affinities `(B, n, n)` in [0, 1], and the pairs that `near_pairs` gives.
    """
    return (shared_mean(1 - affinity, pairs == 1, more=1) + shared_mean(affinity, pairs == 0, more=1)) / 2


def transition_matrix(affinity: torch.Tensor, grid: tuple[int, int], radius: int, power: float) -> torch.Tensor:
    """Returns near affinities to a power, every column divided by its sum plus 0.1. `(B, n, n)` -> the same."""
    near = (affinity * within(grid, radius, affinity.device)) ** power
    return near / (near.sum(dim=1, keepdim=True) + 0.1)
