"""ACoL: Zhang et al., "Adversarial Complementary Learning for Weakly Supervised Object Localization", CVPR 2018.

Two classifiers of three convolutions on the same features. The second one does not see what the first one found, and
has to find something else; their maps are joined by the maximum.

The paper has one class in an image. Here an image has tags: what the first classifier found of any of them is erased.
Where they are not known, those that it finds itself stand for them, and the likeliest class if it finds none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tagseg.masks.rescaling import foreground, normalised
from tagseg.methods.cam import CAM
from tagseg.methods.settings.acol import ACoLSettings
from tagseg.networks.heads import class_branch


class ACoL(CAM):
    """Two classifiers, the second of which does not see what the first one found; its arguments are those of `CAM`."""

    Settings: Any = ACoLSettings
    enlarges = True
    classifier: Any

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        self.classifier = nn.ModuleList(
            [class_branch(self.backbone.channels, self.num_classes, settings.convolutions) for _ in range(2)]
        )

    def branches(self, images: torch.Tensor, tags: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the signed maps of both classifiers, `(B, C, h, w)` each.

        What is erased before the second follows `tags` `(B, C)`, or those that the first finds.
        """
        return self.both(self.backbone(images), tags)

    def both(self, features: torch.Tensor, tags: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the signed maps of both classifiers of the backbone's features `(B, D, h, w)`, `(B, C, h, w)` each.

        What is erased before the second follows `tags` `(B, C)`, or those that the first finds.
        """
        maps = self.classifier[0](features).float()
        if tags is None:
            logits = maps.mean(dim=(2, 3))
            likeliest = logits == logits.amax(dim=1, keepdim=True)
            tags = (likeliest if self.exclusive else likeliest | (logits > 0)).float()
        return maps, self.classifier[1](self.left(features, foreground(maps, tags))).float()

    def left(self, features: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """Returns what the second classifier sees: 0 where the first one's map is high.

        Args:
            features: `(B, D, h, w)`.
            found: the strongest of the tags' maps, `(B, 1, h, w)` in [0, 1].
        """
        return features * (found < self.settings.erase_threshold).to(features.dtype)

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the maps of both classifiers, `(B, 2 C, h, w)`."""
        return torch.cat(self.branches(images), dim=1)

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the larger of both normalised maps, and the first classifier's logits: `(B, C, h, w)`, `(B, C)`."""
        first, second = score_maps.float().chunk(2, dim=1)
        return torch.maximum(normalised(first), normalised(second)), self.tag_logits(first)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the joined maps of both classifiers. `(B, 3, H, W) -> (B, C, h, w)` in [0, 1]."""
        return self.maps_and_logits(self.score_maps(images))[0]

    def starting_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the maps of the first classifier, signed, and its tag logits."""
        first = self.classifier[0](self.backbone(images)).float()
        return first, self.tag_logits(first)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the sum of both classifiers' classification losses."""
        losses = [self.tag_loss(maps, batch) for maps in self.branches(batch["image"], batch["tags"])]
        return self.told(losses[0] + losses[1], first=losses[0], second=losses[1])
