"""A small network that learns to segment from the features of a frozen transformer.

WeCLIP (Zhang et al., CVPR 2024) and ExCEL (2025) freeze their encoder and train such a decoder. Features of several
blocks are normalised, brought to a few channels, and related to each other by a 3x3 convolution or by a light
transformer; a 1x1 convolution names the classes. What is frozen is asked once per photograph, so that an epoch costs
seconds.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.nn import functional as F

from tagseg.networks.features import LEVELS, Levels
from tagseg.networks.optimisers import poly_optimiser
from tagseg.networks.settings import DecoderSettings
from tagseg.segmentation.losses import segmentation_loss, tag_loss

WARMUP = 20  # first steps, in which the rate rises
DROPPED = 0.3  # share of the channels that are left out while it learns


class Decoder(nn.Module):
    """The small network: features of L levels in, logits of all classes out.

    Args:
        channels: of the features, L D.
        outputs: C + 1.
        width: channels inside.
        layers: of a transformer over all cells; 0: one 3x3 convolution.
    """

    def __init__(self, channels: int, outputs: int, width: int, layers: int) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.norms = nn.ModuleList([nn.LayerNorm(channels // LEVELS) for _ in range(LEVELS)])
        self.entry = nn.Conv2d(channels, width, kernel_size=1)
        self.drop = nn.Dropout2d(DROPPED)
        self.middle: nn.Module = (
            nn.ModuleList([_layer(width) for _ in range(layers)])
            if layers
            else nn.Sequential(nn.GELU(), nn.Conv2d(width, width, kernel_size=3, padding=1), nn.GELU())
        )
        self.exit = nn.Conv2d(width, outputs, kernel_size=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the logits, background first. `(B, L D, h, w) -> (B, C + 1, h, w)`."""
        return self.exit(self.inner(features))

    def inner(self, features: torch.Tensor) -> torch.Tensor:
        """Returns what the last convolution sees. `(B, L D, h, w) -> (B, width, h, w)`."""
        levels = features.permute(0, 2, 3, 1).chunk(LEVELS, dim=-1)
        normed = [norm(level) for norm, level in zip(self.norms, levels, strict=True)]
        found = self.drop(self.entry(torch.cat(normed, dim=-1).permute(0, 3, 1, 2)))
        if not isinstance(self.middle, nn.ModuleList):
            return self.middle(found)
        tokens = found.flatten(2).transpose(1, 2)
        for layer in self.middle:
            tokens = layer(tokens)
        return tokens.transpose(1, 2).reshape(found.shape)


def _layer(width: int) -> nn.Module:
    heads = max(1, width // 32)
    return nn.TransformerEncoderLayer(
        width, heads, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
    )


class FrozenSegmenter(nn.Module):
    """A frozen transformer and a decoder: `(B, 3, H, W) -> (B, C + 1, h, w)` logits, background first.

    Features that were computed before may come in the place of images.
    """

    head_name = "decoder"

    def __init__(self, backbone: Levels, num_classes: int, width: int, layers: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = Decoder(backbone.channels, num_classes + 1, width, layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the logits, background first. `(B, 3, H, W)` or `(B, L D, h, w) -> (B, C + 1, h, w)`."""
        return self.head(self.backbone(images))

    @property
    def stride(self) -> int:
        """Returns the pixels from one cell of the logits to the next."""
        return self.backbone.stride

    @property
    def local(self) -> bool:
        """Returns whether nothing in it attends to all cells, so that padding far away changes nothing."""
        return self.backbone.local

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """Returns what of it tells classes apart."""
        return (self.head,)


def _inside(boxes: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Where photographs are in squares of cells: y0, y1, x0, x1 `(B, 4)` and `(B, K, h, w)` -> `(B, h, w)` bool."""
    y, x = (torch.arange(n, device=cells.device) for n in cells.shape[-2:])
    y0, y1, x0, x1 = boxes.to(cells.device)[:, :, None].unbind(dim=1)
    return ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None]


class DecoderTraining(lightning.LightningModule):
    """The training of a decoder by the cross-entropy with masks that have several labels along a cell, and by tags."""

    def __init__(self, head: Decoder, settings: DecoderSettings, steps: int) -> None:
        super().__init__()
        self.head, self.settings, self.steps = head, settings, steps

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the mean cross-entropy over labelled places, and that of the tags by its weight."""
        coarse = self.head(batch["image"]).float()
        masks = batch["mask"]
        size = (masks.shape[-2], masks.shape[-1])
        logits = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        loss = segmentation_loss(logits, masks, self.settings.balance)
        if self.settings.tags:
            loss = loss + self.settings.tags * tag_loss(coarse, batch["tags"], _inside(batch["inside"], coarse))
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Returns AdamW with poly decay."""
        s = self.settings
        return poly_optimiser(
            nn.Identity(),
            self.head,
            kind="adamw",
            learning_rate=s.learning_rate,
            head_factor=1.0,
            weight_decay=s.weight_decay,
            steps=self.steps,
            warmup=WARMUP,
        )
