"""Teaching DeepLab with masks that are partly unknown and partly wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as lightning
import torch

from tagseg.grid import PIXELS
from tagseg.networks.optimisers import poly_optimiser
from tagseg.segmentation.deeplab import DeepLab
from tagseg.segmentation.losses import clipped_loss, segmentation_loss
from tagseg.segmentation.settings import SegmentSettings

MULTI_SCALE = (0.75, 0.5)  # of a window, beside its own size


class SegmentationTraining(lightning.LightningModule):
    """The training of DeepLab by the cross-entropy at the settings' `loss_stride`."""

    def __init__(self, network: DeepLab, settings: SegmentSettings, steps: int) -> None:
        super().__init__()
        self.network, self.settings, self.steps = network, settings, steps

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the mean cross-entropy over labelled pixels; with `multi_scale` the sum of four."""
        s, grid = self.settings, self.network.backbone.grid
        masks = grid.with_stride(s.loss_stride).sample(batch["mask"])
        size = (masks.shape[-2], masks.shape[-1])
        seen = [self.network.logits_at(batch["image"], size)]
        if s.multi_scale:
            height, width = batch["image"].shape[-2:]
            for scale in MULTI_SCALE:
                smaller = PIXELS.resize(batch["image"], grid.fit(height * scale, width * scale))
                seen.append(self.network.logits_at(smaller, size))
            seen.append(torch.stack(seen).amax(dim=0))
        if s.clip_from is None:
            losses = [segmentation_loss(logits, masks) for logits in seen]
        else:
            side = max(1, s.clip_side // s.loss_stride)
            losses = [clipped_loss(logits, masks, s.clip_from, side) for logits in seen]
        if s.multi_scale:
            names = ("scale 1", *(f"scale {scale:g}" for scale in MULTI_SCALE), "largest logits")
            self.terms = {name: loss.detach() for name, loss in zip(names, losses, strict=True)}
        loss = torch.stack(losses).sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Returns the optimiser of the backbone and of the head, with poly decay."""
        return descent([self.network], self.settings, self.steps)


def descent(networks: Sequence[DeepLab], settings: SegmentSettings, steps: int) -> dict[str, Any]:
    """Returns the optimiser of all backbones, and of all heads, which learn faster, with poly decay.

    Args:
        networks: one, or those that learn together.
        settings: with the rates.
        steps: of the whole training.
    """
    s, (first, *others) = settings, networks
    return poly_optimiser(
        first.backbone,
        first.head,
        more=[part for one in others for part in ((one.backbone, 1.0), (one.head, s.head_factor))],
        kind=s.optimiser,
        learning_rate=s.learning_rate,
        head_factor=s.head_factor,
        bias_factor=s.bias_factor,
        weight_decay=s.weight_decay,
        steps=steps,
    )
