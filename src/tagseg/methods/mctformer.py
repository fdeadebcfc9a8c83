"""MCTformer: Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation", CVPR 2022 (V1 and
V2); and "MCTformer+: Multi-Class Token Transformer for Weakly Supervised Semantic Segmentation", TPAMI 2024.

A vision transformer gets a token for every class. A class is there as far as its token's mean is large, and lies where
its token attends to (V1). V2 multiplies these maps with those of a class convolution on the patches, and MCTformer+
takes the root of that, keeps the tokens of different classes apart, and pools the convolution's maps by rank. All of
them spread their maps along what patches attend to.

Maps of scales and mirror images are added, so that constant factors do not matter: means stand for the published sums
over blocks. In MCTformer+ a class token and its position are two parameters, here their sum is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.methods.base import Method
from tagseg.methods.settings.mctformer import MCTformerPlusSettings, MCTformerSettings, MCTformerV2Settings
from tagseg.networks.class_tokens import ClassTokens, ClassTokenTransformer
from tagseg.networks.optimisers import cosine_optimiser
from tagseg.networks.pooling import pooled
from tagseg.networks.ranks import shared_mean


class MCTformerV1(Method):
    """A transformer with class tokens, whose attention to the patches is the class map.

    Args:
        backbone: a plain vision transformer; see `tagseg.networks.vit.Transformer`.
        weights: see `tagseg.networks.backbone.Backbone`.
        classes: the C class names.
        settings: see `MCTformerSettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.

    Raises:
        BadInput: the backbone is no plain transformer.
    """

    Settings: type[Any] = MCTformerSettings
    backbone: ClassTokenTransformer
    from_minimum = True  # attention is positive everywhere

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(classes, settings, steps)
        self.backbone = ClassTokenTransformer(backbone, weights, self.num_classes, settings.drop_path)
        self.backbone.keep_pretrained(settings.early_stride, "batch")

    def seen(self, images: torch.Tensor) -> ClassTokens:
        """Returns what the transformer says of images `(B, 3, H, W)`."""
        return self.backbone.with_classes(images)

    def attended(self, seen: ClassTokens) -> torch.Tensor:
        """Returns how much the class tokens attend to the patches (section 3.2). `(B, C, h, w)` in [0, 1]."""
        return seen.attention.to_patches(self.num_classes, self.settings.attention_blocks)

    def coarse_maps(self, seen: ClassTokens) -> torch.Tensor:
        """Returns the class maps before they are spread. `(B, C, h, w)`, not negative."""
        return self.attended(seen)

    def logits(self, seen: ClassTokens) -> torch.Tensor:
        """Returns the tag logits, `(B, C)`."""
        return seen.logits

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the spread maps, and the tag logits at every place: `(B, 2 C, h, w)`."""
        seen = self.seen(images)
        maps = self.spread(seen)
        return torch.cat([maps, self.logits(seen)[:, :, None, None].expand_as(maps)], dim=1)

    def spread(self, seen: ClassTokens) -> torch.Tensor:
        """Returns the class maps spread along what patches attend to (section 3.4). `(B, C, h, w)`, not negative."""
        return seen.attention.spread(self.coarse_maps(seen).to(seen.attention.keys[0].dtype)).float()

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the spread maps `(B, C, h, w)` and the tag logits `(B, C)`."""
        maps, logits = score_maps.chunk(2, dim=1)
        return maps, logits.mean(dim=(2, 3))

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the spread maps. `(B, 3, H, W) -> (B, C, h, w)`, not negative."""
        return self.spread(self.seen(images))

    def starting_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the class maps before they are spread, and the tag logits."""
        seen = self.seen(images)
        return self.coarse_maps(seen), self.logits(seen)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the sum of the losses."""
        terms = self.losses(self.seen(batch["image"]), batch["tags"], self.inside(batch))
        return self.told(sum(terms.values(), batch["tags"].new_zeros(())), **terms)

    def losses(
        self, seen: ClassTokens, tags: torch.Tensor, inside: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Returns the terms of the loss by name: here the multi-label soft margin of the class tokens.

        `inside` `(B, h, w)` in [0, 1] says how much of each patch is photograph and not padding; None: all of it is.
        """
        del inside
        return {"tokens": F.multilabel_soft_margin_loss(seen.logits, tags)}

    def configure_optimizers(self) -> Any:
        """Returns AdamW whose rate rises first and then falls as a cosine."""
        s = self.settings
        return cosine_optimiser(
            self.backbone,
            nn.ModuleList(self.heads()),
            learning_rate=s.learning_rate,
            head_factor=getattr(s, "head_factor", 1.0),  # V1 has nothing beside the transformer
            weight_decay=s.weight_decay,
            steps=self.steps,
            warmup=round(s.rise * self.steps),
            lowest=s.lowest,
            kept=("pos_embed", "class_tokens"),
        )


class MCTformerV2(MCTformerV1):
    """MCTformer whose patches are classified too; its arguments are those of `MCTformerV1`."""

    Settings: type[Any] = MCTformerV2Settings

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        self.head = nn.Conv2d(self.backbone.channels, self.num_classes, kernel_size=3, padding=1)

    def coarse_maps(self, seen: ClassTokens) -> torch.Tensor:
        """Returns the attention of the class tokens times the rectified maps of the patches (section 3.3)."""
        return self.attended(seen) * self.head(seen.patches).relu()

    def patch_logits(self, seen: ClassTokens, inside: torch.Tensor | None = None) -> torch.Tensor:
        """Returns class scores of the patches by global average pooling, `(B, C)`."""
        return pooled(self.head(seen.patches).float(), "mean", inside)

    def losses(
        self, seen: ClassTokens, tags: torch.Tensor, inside: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Returns the multi-label soft margins of the class tokens and of the patches that are photograph."""
        patches = F.multilabel_soft_margin_loss(self.patch_logits(seen, inside), tags)
        return super().losses(seen, tags, inside) | {"patches": patches}


class MCTformerPlus(MCTformerV2):
    """MCTformer whose class tokens are kept apart; its arguments are those of `MCTformerV1`."""

    Settings = MCTformerPlusSettings

    def coarse_maps(self, seen: ClassTokens) -> torch.Tensor:
        """Returns the root of what MCTformer-V2 has (published code), whose slope at 0 is taken for 0."""
        maps = super().coarse_maps(seen)
        positive = maps > 0
        return torch.where(positive, maps.where(positive, 1).sqrt(), 0)

    def patch_logits(self, seen: ClassTokens, inside: torch.Tensor | None = None) -> torch.Tensor:
        """Returns class scores of the patches by global weighted ranking pooling, `(B, C)`."""
        return ranked_mean(self.head(seen.patches).float(), self.settings.rank_decay, inside)

    def logits(self, seen: ClassTokens) -> torch.Tensor:
        """Returns the mean of the class tokens' logits and those of the patches, `(B, C)` (published code)."""
        return (seen.logits + self.patch_logits(seen)) / 2

    def losses(
        self, seen: ClassTokens, tags: torch.Tensor, inside: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Returns the losses of MCTformer-V2, and the contrast of class tokens."""
        s = self.settings
        tokens = torch.stack(seen.classes[-s.contrast_blocks :])
        return super().losses(seen, tags, inside) | {"contrast": s.contrast_weight * token_contrast_loss(tokens, tags)}


def ranked_mean(maps: torch.Tensor, decay: float, inside: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the mean of every map's values, of which each weighs `decay` times as much as the next stronger one.

    It is global weighted ranking pooling (Kolesnikov and Lampert, ECCV 2016).

    Args:
        maps: `(B, C, h, w)`.
        decay: in (0, 1].
        inside: `(B, h, w)` in [0, 1], how much of each cell is photograph; those that are mostly padding do not count.

    Returns:
        `(B, C)`.
    """
    values = maps.flatten(2)
    weights = decay ** torch.arange(values.shape[2], device=maps.device, dtype=torch.float32)[None, None]
    if inside is not None:
        most = inside.flatten(1) >= 0.5 * inside.flatten(1).amax(dim=1, keepdim=True)
        values = values.masked_fill(~most[:, None], -torch.inf)
        counted = torch.arange(values.shape[2], device=maps.device) < most.sum(dim=1, keepdim=True)
        weights = weights * counted[:, None]
    ranked = values.sort(dim=2, descending=True).values
    return (torch.where(weights > 0, ranked, 0.0) * weights).sum(dim=2) / weights.sum(dim=2)


def token_contrast_loss(tokens: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy by which every token of a tag is to be like itself and like no other class's.

    It is a softmax over the cosines with all class tokens of the same block, of which the right one is itself; the mean
    over a photograph's tags and over blocks, then over photographs, where those without tags count with 0.

    Args:
        tokens: class tokens of K blocks, `(K, B, C, D)`.
        tags: `(B, C)` multi-hot.
    """
    unit = F.normalize(tokens.float(), dim=3)
    entropy = -(unit @ unit.transpose(2, 3)).log_softmax(dim=3).diagonal(dim1=2, dim2=3).mean(dim=0)  # (B, C)
    each = (entropy * tags).sum(dim=1) / tags.sum(dim=1).clamp(min=1)
    return shared_mean(each, torch.ones_like(each, dtype=torch.bool))
