"""A method as a plain classifier, for whoever asks any classifier for maps."""

from __future__ import annotations

import torch
from torch import nn

from tagseg.methods.base import Method


class TagClassifier(nn.Module):
    """A method's tag scores as a plain classifier, `(B, 3, H, W) -> (B, C)`.

    `class_maps` gives the maps that the run itself uses: those of its second network `where`, if it has one.
    """

    def __init__(self, method: Method, where: Method | None = None) -> None:
        super().__init__()
        self.network = method.backbone.network  # first, so that its layers have short names
        self.method, self.where = method, where

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the maps that the run itself uses. `(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return (self.where or self.method).class_maps(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the tag scores. `(B, 3, H, W) -> (B, C)`."""
        return self.method.maps_and_logits(self.method.score_maps(images))[1]
