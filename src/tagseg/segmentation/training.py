"""Teaching DeepLab with masks that are partly unknown and partly wrong."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import torch

from tagseg.networks.optimisers import poly_optimiser
from tagseg.segmentation.deeplab import DeepLab
from tagseg.segmentation.losses import segmentation_loss
from tagseg.segmentation.settings import SegmentSettings


class SegmentationTraining(lightning.LightningModule):
    """The training of DeepLab by the cross-entropy at a quarter of the resolution.

    That is between the published output stride (which loses borders) and full size (which costs more than the network
    on a CPU).
    """

    LOSS_STRIDE = 4

    def __init__(self, network: DeepLab, settings: SegmentSettings, steps: int) -> None:
        super().__init__()
        self.network, self.settings, self.steps = network, settings, steps

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the mean cross-entropy over labelled pixels."""
        masks = self.network.backbone.grid.with_stride(self.LOSS_STRIDE).sample(batch["mask"])
        logits = self.network.logits_at(batch["image"], (masks.shape[-2], masks.shape[-1]))
        loss = segmentation_loss(logits, masks)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Returns the optimiser of the backbone and of the head, with poly decay."""
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
