"""EPS: Lee et al., "Railroad is not a Train: Saliency as Pseudo-pixel Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2021.

The classifier has one map more, for the background. What its maps call foreground and background is compared with a
saliency map, so that the maps learn to end where objects end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.methods.cam import CAM
from tagseg.methods.settings.eps import EPSSettings


class EPS(CAM):
    """CAM with a background map and a saliency loss; its arguments are those of `CAM`.

    Channel 0 is the background; it has no tag, and `class_maps` leaves it out.
    """

    Settings = EPSSettings

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: EPSSettings, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        self.classifier = nn.Conv2d(self.backbone.channels, self.num_classes + 1, kernel_size=1, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the maps of the classes, without the background's. `(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return super().class_maps(images)[:, 1:]

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification loss and the saliency loss."""
        maps = self.classifier(self.backbone(batch["image"])).float()
        classification = F.multilabel_soft_margin_loss(self.tag_logits(maps[:, 1:], self.inside(batch)), batch["tags"])
        saliency = saliency_loss(
            maps, batch["saliency"], batch["tags"], self.settings.overlap, self.settings.foreground_share
        )
        return self.told(classification + saliency, classification=classification, saliency=saliency)


def saliency_loss(
    maps: torch.Tensor, saliency: torch.Tensor, tags: torch.Tensor, overlap: float = 0.4, foreground_share: float = 0.5
) -> torch.Tensor:
    """Returns the mean squared difference between saliency and what the maps say of it (section 3.2, equations 2 to 5).

    The maps' softmax gives probabilities. A tagged class counts as foreground if more than `overlap` of where it is
    likelier than not is salient; else it joins the background. The saliency that the maps say is
    `share * foreground + (1 - share) * (1 - background)`.

    Args:
        maps: `(B, C + 1, h, w)` scores, background first.
        saliency: `(B, H, W)` in [0, 1].
        tags: `(B, C)` multi-hot.
    """
    truth = F.interpolate(saliency[:, None], size=maps.shape[-2:], mode="nearest")
    probabilities = maps.softmax(dim=1)
    background, classes = probabilities[:, :1], probabilities[:, 1:]
    likely = classes.detach().round()
    shared = (likely * truth.round()).sum(dim=(2, 3)) / likely.sum(dim=(2, 3)).clamp(min=1e-6)
    salient = (tags.bool() & (shared > overlap))[:, :, None, None]
    other = (tags.bool() & (shared <= overlap))[:, :, None, None]
    foreground = (classes * salient).sum(dim=1, keepdim=True)
    background = background + (classes * other).sum(dim=1, keepdim=True)
    said = foreground_share * foreground + (1 - foreground_share) * (1 - background)
    return F.mse_loss(said, truth)
