"""CAM: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.

Backbone -> 1x1 class convolution -> global average pooling -> multi-label soft margin. Because pooling and the
class convolution are both linear they change places: channel c before pooling *is* the class activation map of c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.methods.base import Method
from tagseg.methods.settings.cam import CAMSettings, PooledSettings
from tagseg.networks.backbone import Backbone
from tagseg.networks.pooling import pooled


class CAM(Method):
    """A classifier whose class convolution gives the class maps.

    It pools them by their mean (section 2, equation 1), or as the settings say.

    Args:
        backbone, weights: see `tagseg.networks.backbone.Backbone`.
        classes: the C class names.
        settings: see `CAMSettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.
    """

    Settings: type[PooledSettings] = CAMSettings
    on_features = True
    features_as = "cam"
    classifier: nn.Module

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(classes, settings, steps)
        self.backbone = Backbone(backbone, weights, settings.output_stride)
        self.backbone.keep_pretrained(settings.early_stride, settings.norms)
        if settings.frozen:
            self.backbone.hold()
        self.exclusive = getattr(settings, "loss", "tags") == "softmax"
        self.classifier = nn.Conv2d(self.backbone.channels, self.num_classes, kernel_size=1, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns class activation maps (section 2, equation 2). `(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return self.classifier(self.backbone(images))

    def tag_logits(self, class_maps: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        """Returns class scores by the pooling of the settings. `(B, C, h, w) -> (B, C)`.

        `inside` `(B, h, w)` in [0, 1] says how much of each cell is photograph and not padding; None: all of it is.
        """
        return pooled(class_maps, self.settings.pooling, inside)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the loss of the tags."""
        return self.told(self.tag_loss(self.class_maps(batch["image"]), batch))

    def tag_loss(self, class_maps: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the multi-label soft margin of pooled maps `(B, C, h, w)`, or the cross-entropy of their softmax."""
        logits, tags = self.tag_logits(class_maps, self.inside(batch)).float(), batch["tags"]
        if self.exclusive:
            # several tags share what is to be said alike; of a photograph without any nothing is learnt
            return F.cross_entropy(logits, tags / tags.sum(dim=1, keepdim=True).clamp(min=1))
        return F.multilabel_soft_margin_loss(logits, tags)
