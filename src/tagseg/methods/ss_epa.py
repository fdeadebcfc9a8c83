"""SS-EPA: single-stage segmentation with enhanced patch affinity, on ToCo (see `tagseg.methods.toco`).

What every patch attends to, averaged over heads and blocks, says which patches belong together: the class maps that
teach the decoder are spread along it. Hierarchical attention-aware fusion (HAAF) weighs the blocks, by a small network
that sees one number of each.

As it is written, that network learns nothing: the mean of a softmax is 1/n for every block and image, and its output
reaches the loss only through pseudo-labels. `affinity="literal"` does just that. By default the number is the mean of
the products of queries and keys before the softmax; rows, which lack what goes to the class token, are made to add up
to 1; and maps are rectified before they are spread.

The network learns from where attention goes: a patch that class maps (`fusion_labels`) label for sure is to attend to
patches of the same label, and more than if the labels lay elsewhere in the photograph
(`affinity_content_loss`). Without the latter (`fusion_signal="affinity"`) the first blocks win, in which patches attend
to themselves and their neighbours: these have the same label, and nothing spreads along them
(docs/experiments/one-stage.md). To classify the spread and pooled maps, which is the other reading
(`fusion_signal="tags"`), says nothing of that: their mean over patches depends on how much attention every patch gets,
and not on whose. None of them teaches the maps or the attention themselves.

Nothing of the size of the attention is ever held (see `tagseg.networks.vit.Attention.spread`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.labels import IGNORE
from tagseg.methods.settings.ss_epa import SSEPASettings
from tagseg.methods.toco import ToCo
from tagseg.networks.ranks import shared_mean
from tagseg.networks.vit import Attention, Tokens


class BlockWeights(nn.Module):
    """A small network that turns one number a block into one weight a block, all 1 at the start.

    Args:
        blocks: K.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        inner = max(1, blocks // 4)
        self.layers = nn.Sequential(nn.Linear(blocks, inner), nn.ReLU(), nn.Linear(inner, blocks))
        nn.init.zeros_(self.layers[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[2].bias)  # type: ignore[arg-type]

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Returns the weights of blocks. `(B, K) -> (B, K)` in (0, 2)."""
        return 2 * self.layers(numbers.float()).sigmoid()


class SSEPA(ToCo):
    """ToCo whose maps are spread along what patches attend to; its arguments are those of `ToCo`."""

    Settings = SSEPASettings

    def __init__(
        self, backbone: str, weights: str, classes: Sequence[str], settings: SSEPASettings, steps: int
    ) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        self.refined_by = settings.fusion_labels
        self.fusion = BlockWeights(self.backbone.blocks) if settings.affinity in ("enhanced", "literal") else None
        if self.fusion is not None and settings.affinity == "literal":
            self.fusion.requires_grad_(False)  # nothing teaches it

    def tokens(self, images: torch.Tensor) -> Tokens:
        """Returns what the transformer says of images `(B, 3, H, W)`, with attention if maps are spread along it."""
        return self.backbone.tokens(images, attention=self.settings.affinity != "none")

    def block_weights(self, attention: Attention) -> torch.Tensor | None:
        """Returns the weights of blocks, `(B, K)`, or None where all are 1."""
        if self.fusion is None:
            return None
        if self.settings.affinity == "enhanced":
            return self.fusion(attention.logit_means())
        tokens = attention.keys[0].shape[2]  # the mean of a softmax over so many
        return self.fusion(torch.full((len(attention.keys[0]), len(attention.keys)), 1 / tokens).to(attention.keys[0]))

    def refined(self, maps: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """Returns the maps spread along the affinity (equations 5 and 7)."""
        if tokens.attention is None:
            return maps
        weights = self.block_weights(tokens.attention)
        return tokens.attention.spread(maps, weights, normalise=self.settings.affinity != "literal")

    def main_maps(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the class maps that are spread, rectified unless the paper is followed to the letter."""
        maps = self.classifier(features).float()
        return maps if self.settings.affinity == "literal" else maps.relu()

    def refinement_loss(
        self, tokens: Tokens, tags: torch.Tensor, labels: torch.Tensor | None, boxes: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Returns the loss by which the weights of blocks learn, and nothing else does."""
        s = self.settings
        if s.affinity != "enhanced" or tokens.attention is None or not s.fusion_weight:
            return {}
        attention = tokens.attention.detach()
        if s.fusion_signal != "tags":
            if labels is None:
                return {}
            weights = self.block_weights(attention)
            if s.fusion_signal == "content":
                missed = affinity_content_loss(attention, labels, weights, boxes)
            else:
                missed = affinity_share_loss(attention, labels, weights)
            return {"fusion": s.fusion_weight * missed}
        still = tokens._replace(attention=attention)
        maps = self.refined(self.main_maps(tokens.patches.detach()).detach(), still)
        return {"fusion": s.fusion_weight * F.multilabel_soft_margin_loss(maps.relu().mean(dim=(2, 3)), tags)}

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns features of the patches and the spread maps, `(B, D + C, h, w)`."""
        tokens = self.tokens(images)
        return torch.cat([tokens.patches.float(), self.refined(self.main_maps(tokens.patches), tokens)], dim=1)

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the spread maps `(B, C, h, w)`, less their minimum, and logits `(B, C)` of the features' maxima.

        The minimum goes, for attention reaches everywhere.
        """
        features, maps = score_maps.split([self.backbone.channels, self.num_classes], dim=1)
        return maps - maps.amin(dim=(2, 3), keepdim=True), super().maps_and_logits(features)[1]

    def heads(self) -> list[nn.Module]:
        """Returns the networks that learn `head_factor` times faster, the weights of blocks among them."""
        return super().heads() if self.fusion is None else [*super().heads(), self.fusion]


def affinity_share_loss(attention: Attention, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Returns how little patches attend to patches of their own label, of all that they attend to patches with a label.

    It is `1 - sum of A_ij over j labelled like i / sum of A_ij over labelled j`, the mean of background patches and
    that of others, half of each, and 0 without any. The affinity A (equations 5 and 7) is never held: it spreads one
    map for every label.

    Args:
        attention: of all blocks.
        labels: `(B, h, w)` of the patches, 255 for unknown.
        weights: `(B, K)` of the blocks, which learn; None: all 1.
    """
    return _missed(attention, [labels], weights)[0]


def affinity_content_loss(
    attention: Attention, labels: torch.Tensor, weights: torch.Tensor | None, boxes: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns `affinity_share_loss` of the labels, less its mean over the same labels laid elsewhere.

    Labels are shifted within the photograph, by a third or two of its height and of its width, and come in again at its
    other end. What patches owe to where they are, as that they attend to their neighbours, they owe to labels laid
    elsewhere too; so what is left is owed to what they show.

    Args:
        attention: of all blocks.
        labels: `(B, h, w)` of the patches, 255 for unknown.
        weights: `(B, K)` of the blocks, which learn; None: all 1.
        boxes: `(B, 4)` rows y0, y1, x0, x1 of the patches that are photograph and not padding; None: all are.

    Returns:
        a number in [-1, 1], the lower the better.
    """
    elsewhere = [laid_elsewhere(labels, boxes, down, across) for down in (1, 2) for across in (1, 2)]
    own, *others = _missed(attention, [labels, *elsewhere], weights)
    return own - torch.stack(others).mean()


def laid_elsewhere(labels: torch.Tensor, boxes: torch.Tensor | None, down: int, across: int) -> torch.Tensor:
    """Returns labels `(B, h, w)` shifted within their boxes by so many thirds; what leaves one comes in again."""
    if boxes is None:
        height, width = labels.shape[1:]
        return labels.roll((down * height // 3, across * width // 3), (1, 2))
    laid = torch.full_like(labels, IGNORE)
    for own, found, (y0, y1, x0, x1) in zip(laid, labels, boxes.tolist(), strict=True):
        shift = (down * (y1 - y0) // 3, across * (x1 - x0) // 3)
        own[y0:y1, x0:x1] = found[y0:y1, x0:x1].roll(shift, (0, 1))
    return laid


def _missed(attention: Attention, layouts: Sequence[torch.Tensor], weights: torch.Tensor | None) -> list[torch.Tensor]:
    """The losses of `affinity_share_loss` for several layouts of labels, for which maps are spread once."""
    found = torch.unique(layouts[0][layouts[0] != IGNORE])
    if not len(found):
        found = layouts[0].new_zeros(1)  # what nothing has will do: processes count together
    of_label = [(labels[:, None] == found[:, None, None]).float() for labels in layouts]
    reached = attention.spread(torch.cat(of_label, dim=1), weights).float().split(len(found), dim=1)
    losses = []
    for labels, own, every in zip(layouts, of_label, reached, strict=True):
        missed = 1 - (every * own).sum(dim=1) / every.sum(dim=1).clamp(min=1e-8)
        halves = [labels == 0, (labels > 0) & (labels != IGNORE)]
        losses.append(sum((shared_mean(missed * half, half) for half in halves), missed.new_zeros(())) / 2)
    return losses
