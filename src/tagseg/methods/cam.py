"""CAM: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.

Backbone -> 1x1 class convolution -> global average pooling -> multi-label soft margin. Because pooling and the
class convolution are both linear they change places: channel c before pooling *is* the class activation map of c.
"""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as lightning
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn
from torch.nn import functional as F

from tagseg.data.dataset import Sample
from tagseg.data.loading import TrainingViews
from tagseg.methods.base import TrainSettings
from tagseg.networks.backbone import Backbone
from tagseg.networks.optimisers import poly_optimiser
from tagseg.settings import ScaleRange, SidePixels


class CAMSettings(TrainSettings):
    """The paper fine-tunes an ImageNet classifier; these values suit a few hundred to a few thousand photographs."""

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 16
    side: SidePixels = 257  # of the square training window, pixels
    scales: ScaleRange = (0.8, 1.6)  # long side of the photograph over `side`
    output_stride: int | None = 16
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    head_factor: PositiveFloat = 10.0
    weight_decay: NonNegativeFloat = 0.01


class CAM(lightning.LightningModule):
    """A classifier whose class convolution gives the class maps.

    Args:
        backbone, weights: see `tagseg.networks.backbone.Backbone`.
        num_classes: C.
        settings: see `CAMSettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.
    """

    Settings = CAMSettings

    def __init__(self, backbone: str, weights: str, num_classes: int, settings: CAMSettings, steps: int) -> None:
        super().__init__()
        self.settings, self.num_classes, self.steps = settings, num_classes, steps
        self.backbone = Backbone(backbone, weights, settings.output_stride)
        self.backbone.freeze(early=self.backbone.pretrained, norms=self.backbone.pretrained)
        self.classifier = nn.Conv2d(self.backbone.channels, num_classes, kernel_size=1, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Class activation maps (section 2, equation 2). `(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return self.classifier(self.backbone(images))

    def tag_logits(self, class_maps: torch.Tensor) -> torch.Tensor:
        """Class scores (section 2, equation 1). `(B, C, h, w) -> (B, C)`."""
        return class_maps.mean(dim=(2, 3))

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        logits = self.tag_logits(self.class_maps(batch["image"]))
        loss = F.multilabel_soft_margin_loss(logits.float(), batch["tags"])
        self.log("loss", loss)
        return loss

    def training_views(self, samples: tuple[Sample, ...], seed: int) -> TrainingViews:
        s = self.settings
        side, _ = self.backbone.fit_size(s.side, s.side)
        return TrainingViews(samples, self.num_classes, self.backbone, side=side, scales=s.scales, seed=seed)

    def configure_optimizers(self) -> Any:
        s = self.settings
        return poly_optimiser(
            self.backbone,
            self.classifier,
            kind=s.optimiser,
            learning_rate=s.learning_rate,
            head_factor=s.head_factor,
            weight_decay=s.weight_decay,
            steps=self.steps,
        )


METHOD = CAM
