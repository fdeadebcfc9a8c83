"""SPG: Zhang et al., "Self-produced Guidance for Weakly-supervised Object Localization", ECCV 2018.

Where class maps are sure of object and of background, they teach a branch on the stage before them what is object; what
that branch is sure of teaches one on the stage before it, through shared layers; and the mean of both teaches a third
one on the features of the class maps. So these features learn where objects end. The maps are still CAM's.

The paper has one class in an image. Here the strongest of the tags' maps is what is sure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.labels import IGNORE
from tagseg.methods.cam import CAM
from tagseg.methods.settings.spg import SPGSettings
from tagseg.networks.heads import WIDTH, extra_convolutions
from tagseg.networks.ranks import shared_mean

FEWEST = 30  # pixels of an image that are object at least (published code)
RELATIVE = 0.7  # of the highest score, above which a pixel is object where there are fewer


class SPG(CAM):
    """CAM whose inner stages learn what is object, from what its maps are sure of; its arguments are those of `CAM`."""

    Settings = SPGSettings
    on_features = False  # it needs inner stages
    weight_of = dict.fromkeys(("deeper", "shallower", "last"), "guidance_weight")

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: SPGSettings, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        width, channels = settings.width, self.backbone.channels
        if settings.convolutions:
            self.convolutions = extra_convolutions(channels, settings.convolutions)
            channels = WIDTH
            self.classifier = nn.Conv2d(channels, self.num_classes, kernel_size=1, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.01)
        self.entries = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w, width, 3, padding=1), nn.ReLU(inplace=True))
            for w in self.backbone.inner_widths()
        )
        self.shared = guidance_branch(width, width)
        self.last = guidance_branch(channels, width)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns class activation maps. `(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return self.classifier(self._deepened(self.backbone(images)))

    def _deepened(self, features: torch.Tensor) -> torch.Tensor:
        return self.convolutions(features) if self.settings.convolutions else features

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification loss, and the losses of the deeper, the shallower and the last branch."""
        s, tags, images = self.settings, batch["tags"], batch["image"]
        features, stages = self.backbone.with_stages(images)
        features = self._deepened(features)
        maps = self.classifier(features).float()
        classification = self.tag_loss(maps, batch)

        def grown(scores: torch.Tensor) -> torch.Tensor:
            return self.backbone.grid.resize(scores.float(), images.shape[-2:])

        shallow, deep = (
            grown(self.shared(entry(stage))) for entry, stage in zip(self.entries, stages[-3:-1], strict=True)
        )
        sure = tag_attention(maps.detach(), tags, grown)
        fused = (shallow.sigmoid() + deep.sigmoid()) / 2
        terms = {
            "deeper": guidance_loss(deep, sure, s.attention_high, s.attention_low),
            "shallower": guidance_loss(shallow, deep.sigmoid(), s.deeper_high, s.deeper_low),
            "last": guidance_loss(grown(self.last(features)), fused, s.fused_high, s.fused_low),
        }
        terms = {name: s.guidance_weight * term for name, term in terms.items()}
        return self.told(sum(terms.values(), classification), classification=classification, **terms)


def guidance_branch(inputs: int, width: int) -> nn.Sequential:
    """Returns a 3x3 convolution with ReLU and a 1x1 convolution: `(B, D, h, w) -> (B, 1, h, w)` logits of objects."""
    return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, 1, 1))


def tag_attention(
    maps: torch.Tensor, tags: torch.Tensor, grown: Callable[[torch.Tensor], torch.Tensor] = lambda maps: maps
) -> torch.Tensor:
    """Returns the strongest of the tags' maps, each brought between its extremes; 0 without tags.

    Args:
        maps: `(B, C, h, w)` signed.
        tags: `(B, C)` multi-hot.
        grown: brings maps to the size of the result first.

    Returns:
        `(B, 1, H, W)` in [0, 1].
    """
    images, classes = tags.nonzero(as_tuple=True)
    strongest = torch.zeros_like(grown(maps[:, :1]))
    if not len(images):
        return strongest
    found = grown(maps[images, classes, None])
    lowest, highest = found.amin(dim=(2, 3), keepdim=True), found.amax(dim=(2, 3), keepdim=True)
    found = (found - lowest) / (highest - lowest).clamp(min=1e-8)
    return strongest.scatter_reduce_(0, images[:, None, None, None].expand_as(found), found, "amax")


@torch.no_grad()
def guidance(scores: torch.Tensor, high: float, low: float) -> torch.Tensor:
    """Returns what scores are sure of: 1 above `high`, 0 below `low`, 255 between (section 3.2).

    Where fewer than 30 pixels of an image are above, those above 0.7 of its highest score are 1 (published code).

    Args:
        scores: `(B, 1, H, W)` in [0, 1].

    Returns:
        `(B, 1, H, W)` of the same type.
    """
    above = scores > high
    few = above.sum(dim=(1, 2, 3), keepdim=True) < FEWEST
    above = torch.where(few, scores > RELATIVE * scores.amax(dim=(1, 2, 3), keepdim=True), above)
    labels = torch.full_like(scores, IGNORE).masked_fill(above, 1.0)
    return labels.masked_fill(scores < low, 0.0)


def guidance_loss(logits: torch.Tensor, scores: torch.Tensor, high: float, low: float) -> torch.Tensor:
    """Returns the binary cross-entropy of logits with what scores are sure of, the mean over these pixels.

    Nothing is learnt through the scores. `(B, 1, H, W)` both.
    """
    labels = guidance(scores.detach(), high, low)
    known = labels != IGNORE
    entropy = F.binary_cross_entropy_with_logits(logits, labels * known, reduction="none")
    return shared_mean(entropy, known)
