"""WeakTr: Zhu et al., "WeakTr: Exploring Plain Vision Transformer for Weakly-supervised Semantic Segmentation", 2023.

MCTformer takes the mean of all heads of all blocks, though some of them look at what is to be found and others do not.
Here a small network weighs them, for every photograph anew, by what their attention adds to the tokens (adaptive
attention fusion). It learns from the tags: the class maps, multiplied with the weighed attention of class tokens and
spread along that of patches, are pooled and classified. Nothing else learns from that loss.

As in its code the features of a block are divided among the heads as if these alternated, though what the block's
last layer gives has none. Without that layer they would lie one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.methods.mctformer import MCTformerV2
from tagseg.methods.settings.weaktr import WeakTrSettings
from tagseg.networks.class_tokens import ClassTokens
from tagseg.networks.pooling import pooled


class HeadWeights(nn.Module):
    """A small network that turns the features of every head into one weight a head (adaptive attention fusion).

    Args:
        heads: of all blocks together, M.
        features: d, of a head.
        reduction, feature_reduction: how much narrower it is inside than either.
    """

    def __init__(self, heads: int, features: int, reduction: int, feature_reduction: int) -> None:
        super().__init__()
        inner, narrow = max(1, heads // reduction), max(1, features // feature_reduction)
        self.of_features = nn.Sequential(nn.Linear(features, narrow), nn.Linear(narrow, 1))
        self.of_heads = nn.Sequential(
            nn.Linear(heads, inner, bias=False), nn.ReLU(), nn.Linear(inner, heads, bias=False), nn.Sigmoid()
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the weights of heads. `(B, M, d) -> (B, M)` in (0, 1)."""
        return self.of_heads(self.of_features(features)[:, :, 0])


class WeakTr(MCTformerV2):
    """A transformer with class tokens whose heads are weighed; its arguments are those of `MCTformerV2`."""

    Settings = WeakTrSettings

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        self.heads_a_block = self.backbone.network.blocks[0].attn.num_heads
        self.fusion = HeadWeights(
            self.backbone.blocks * self.heads_a_block,
            self.backbone.channels // self.heads_a_block,
            settings.reduction,
            settings.feature_reduction,
        )

    def seen(self, images: torch.Tensor) -> ClassTokens:
        """Returns what the transformer says of images `(B, 3, H, W)`, with what every block's attention adds."""
        largest = self.settings.summary == "max"
        return self.backbone.with_classes(images, lambda x: (x.amax(dim=1) if largest else x.mean(dim=1)).detach())

    def head_weights(self, seen: ClassTokens) -> torch.Tensor:
        """Returns the weights of all heads of all blocks (section 3.2), `(B, K, H)` in (0, 1)."""
        blocks, heads = self.backbone.blocks, self.heads_a_block
        features = torch.stack(seen.added, dim=1).float()  # (B, K, D)
        features = features.unflatten(2, (-1, heads)).permute(0, 3, 1, 2).flatten(1, 2)  # (B, H K, d)
        return self.fusion(features).unflatten(1, (heads, blocks)).transpose(1, 2)

    def fine_maps(self, seen: ClassTokens) -> torch.Tensor:
        """Returns the class maps spread along the weighed attention (section 3.3). `(B, C, h, w)`, not negative.

        Only the weights learn through them.
        """
        attention, weights = seen.attention.detach(), self.head_weights(seen)
        attended = attention.to_patches(self.num_classes, self.backbone.blocks, weights)
        coarse = self.head(seen.patches).detach().relu()
        return attention.spread(attended * coarse, weights).float()

    def coarse_maps(self, seen: ClassTokens) -> torch.Tensor:
        """Returns the class maps of the patches alone, rectified. `(B, C, h, w)`."""
        return self.head(seen.patches).relu().float()

    def spread(self, seen: ClassTokens) -> torch.Tensor:
        """Returns the class maps spread along the weighed attention. `(B, C, h, w)`, not negative."""
        return self.fine_maps(seen)

    def losses(
        self, seen: ClassTokens, tags: torch.Tensor, inside: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Returns the multi-label soft margins of the class tokens, of the patches, and of the spread maps."""
        fine = F.multilabel_soft_margin_loss(pooled(self.fine_maps(seen), "mean", inside), tags)
        return super().losses(seen, tags, inside) | {"fine": fine}
