"""What AEFT and KTSE share: a classifier with gated pyramid pooling that learns more than the tags after a warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tagseg.grid import PIXELS, Grid
from tagseg.methods.base import Method
from tagseg.methods.settings.pyramid import PyramidSettings
from tagseg.networks.backbone import Backbone
from tagseg.networks.gpp import GatedPyramidPooling, agreement


class PyramidClassifier(Method):
    """A classifier of a 1x1 convolution with ReLU, and one to the class maps.

    Gated pyramid pooling scores these; neither convolution has a bias.

    Args:
        backbone, weights: see `tagseg.networks.backbone.Backbone`.
        classes: the C class names.
        settings: see `PyramidSettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.
    """

    Settings = PyramidSettings
    others = 0  # channels before those of the classes

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(classes, settings, steps)
        self.backbone = Backbone(backbone, weights, settings.output_stride)
        self.backbone.keep_pretrained(settings.early_stride, settings.norms)
        if settings.frozen:
            self.backbone.hold()
        if settings.dropout is not None:
            for module in self.backbone.modules():
                if isinstance(module, nn.Dropout | nn.Dropout2d):
                    module.p = settings.dropout
        self.reduce = nn.Conv2d(self.backbone.channels, settings.width, kernel_size=1, bias=False)
        self.classifier = nn.Conv2d(settings.width, self.others + self.num_classes, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.reduce.weight)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.pyramid = GatedPyramidPooling(self.num_classes)

    def all_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the maps of the classes, and of what stands before them.

        `(B, 3, H, W) -> (B, others + C, h, w)`, signed, float32.
        """
        return self.classifier(self.reduce(self.backbone(images)).relu()).float()

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the class maps. `(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return self.all_maps(images)[:, self.others :]

    def tag_logits(self, class_maps: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        """Returns class scores by gated pyramid pooling. `(B, C, h, w) -> (B, C)`."""
        del inside  # the pyramid is of whole squares, as published
        return agreement(class_maps, self.pyramid(class_maps))

    def grown(self, maps: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Returns maps at the size of the images they are of."""
        return self.grid.resize(maps, images.shape[-2:])

    @property
    def grid(self) -> Grid:
        """Returns how cells lie on the images of a batch; photographs beside stored features tile theirs."""
        return PIXELS if self.settings.frozen else self.backbone.grid

    @property
    def warm(self) -> bool:
        """Tells whether the warm-up is over."""
        return self.current_epoch >= self.settings.warmup_epochs

    @property
    def schedule_steps(self) -> int:
        """Returns the step at which the learning rate's schedule ends: the last one, or that of the published code."""
        return schedule_end(self.settings, self.steps) if self.settings.compat == "official" else self.steps


def schedule_end(settings: PyramidSettings, steps: int) -> int:
    """Returns the step at which the published schedule would end.

    It is as if batches were those of the warm-up all the time. In the published training the rate so ends at 0.4 of its
    start.
    """
    first, later = settings.warmup_batch_size or settings.batch_size, settings.batch_size
    share = settings.warmup_epochs / settings.epochs
    return round(steps / first / (share / first + (1 - share) / later))
