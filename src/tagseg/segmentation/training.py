"""Teaching DeepLab with masks that are partly unknown and partly wrong."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as lightning
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch.nn import functional as F

from tagseg.labels import IGNORE
from tagseg.networks.backbone import sample_masks
from tagseg.networks.optimisers import poly_optimiser
from tagseg.segmentation.deeplab import DeepLab, HeadName
from tagseg.settings import ScaleRange, Settings, SidePixels


class SegmentSettings(Settings):
    """Of the segmentation network and its training. The published ones are in the recipes."""

    # "masks": trained on the pseudo-masks; "method": the method's own, where it learns to segment while it learns from
    # tags (ToCo and its heirs), and what follows does not matter; "auto": the method's own if it has one
    source: Literal["auto", "masks", "method"] = "auto"
    backbone: str | None = None  # None: that of the classifier
    weights: str | None = None  # None: those the classifier began with, or "pretrained" for another backbone
    head: HeadName = "aspp"
    start: Literal["attention", "weights"] = "attention"  # backbone from the tag-trained network, or as it came
    output_stride: int | None = 16
    epochs: PositiveInt = 16
    batch_size: PositiveInt = 16
    side: SidePixels = 321  # of the square training window; photographs are predicted at this long side times 1.25
    scales: ScaleRange = (0.8, 1.6)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    head_factor: PositiveFloat = 10.0
    weight_decay: NonNegativeFloat = 0.01


def segmentation_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over labelled pixels; zero, with zero gradient, when there is none.

    Args:
        logits: `(B, C + 1, h, w)`; masks: `(B, h, w)` int64, 255 = ignore.
    """
    total = F.cross_entropy(logits.float(), masks, ignore_index=IGNORE, reduction="sum")
    return total / (masks != IGNORE).sum().clamp(min=1)


def halves_of_loss(
    logits: torch.Tensor, masks: torch.Tensor, counted: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over background pixels, and over the pixels of classes; zero for either where there are none.

    Args:
        logits: `(B, C + 1, h, w)`; masks: `(B, h, w)`, 255 = ignore.
        counted: `(B,)` bool, the images whose pixels of classes count; None: all.
    """
    entropy = F.cross_entropy(logits.float(), masks.long(), ignore_index=IGNORE, reduction="none")
    classes = (masks > 0) & (masks != IGNORE)
    if counted is not None:
        classes = classes & counted[:, None, None]
    background, objects = ((entropy * m).sum() / m.sum().clamp(min=1) for m in (masks == 0, classes))
    return background, objects


class SegmentationTraining(lightning.LightningModule):
    """Cross-entropy at a quarter of the resolution: between the published output stride (which loses borders)
    and full size (which costs more than the network on a CPU)."""

    LOSS_STRIDE = 4

    def __init__(self, network: DeepLab, settings: SegmentSettings, steps: int) -> None:
        super().__init__()
        self.network, self.settings, self.steps = network, settings, steps

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        masks = sample_masks(batch["mask"], self.LOSS_STRIDE, self.network.backbone.corners)
        logits = self.network.logits_at(batch["image"], (masks.shape[-2], masks.shape[-1]))
        loss = segmentation_loss(logits, masks)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        s = self.settings
        return poly_optimiser(
            self.network.backbone,
            self.network.head,
            kind=s.optimiser,
            learning_rate=s.learning_rate,
            head_factor=s.head_factor,
            weight_decay=s.weight_decay,
            steps=self.steps,
        )
