"""SeeNet: Hou et al., "Self-Erasing Network for Integral Object Attention", NeurIPS 2018.

As in ACoL a second classifier does not see what the first one found. What is new is that it is kept from the
background, into which erasing drives attention sooner or later, in two ways (section 3):

- Three zones are told apart by the first classifier's map: what is found is erased, what is surely background enters
  with its sign turned, so that it speaks against every class (the conditionally sign-flipping ReLU), and the rest
  enters as it is.
- Once more the second classifier sees the background alone, by its own map, and is to find no class there.

The authors have published their network, but no training; its layer that turns signs is followed, except that maps are
divided by their maximum without subtracting their minimum first, which is 0 wherever a map is not positive everywhere.
Its layer stops gradients where features were erased in the first channel of the first image of a batch only, by a slip;
here nothing is learnt through what was erased. What equals a threshold is erased here, and kept there.

Signs are turned in training alone: the published network's file, with which it is tested, turns none, and erases from
0.8 on. To turn them in tests too cost 3 points on voc_mini (docs/experiments/comparison.md).

The background in which no class is to be found is what lies below halfway between both thresholds, as published. Where
maps are narrow that is most of every object, and the second classifier unlearns it (docs/experiments/comparison.md); so
the setting that comes with `--method seenet` takes what is surely background, as for the signs.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tagseg.masks.rescaling import foreground
from tagseg.methods.acol import ACoL
from tagseg.methods.settings.seenet import SeeNetSettings

HIGH_IN_TESTS = 0.8  # of the first classifier's map, from which on it is erased once the network has learnt


class SeeNet(ACoL):
    """Two classifiers, the second of which sees what is left, and is kept from the background; its arguments are those
    of `CAM`."""

    Settings: type[SeeNetSettings] = SeeNetSettings
    maps_version = 2  # signs were turned once

    def left(self, features: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """Returns rectified features, 0 where the first classifier's map is high; in training negative where it is low.

        In tests no sign is turned, and what is 0.8 and more is erased, as in the published network's file.

        Args:
            features: `(B, D, h, w)`.
            found: `(B, 1, h, w)` in [0, 1].
        """
        return self._turned(features, found) if self.training else features.relu() * (found < HIGH_IN_TESTS)

    def _turned(self, features: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        s = self.settings
        zones = torch.where(found >= s.high, 0.0, torch.where(found < s.low, -1.0, 1.0))
        return features.relu() * zones.to(features.dtype)

    def background(self, images: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        """Returns where the second classifier is to find no class in training: where its own map is low.

        `(B, 1, h, w)` bool.
        """
        features = self.backbone(images)
        first = self.classifier[0](features).float()
        return self._background(self.classifier[1](self._turned(features, foreground(first, tags))).float(), tags)

    def _background(self, second: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        s = self.settings
        return foreground(second, tags) < (s.low if s.background == "low" else (s.high + s.low) / 2)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification losses of both classifiers, and what the second one finds in the background."""
        tags, inside = batch["tags"], self.inside(batch)
        features = self.backbone(batch["image"])
        first, second = self.both(features, tags)
        background = self._background(second, tags).to(features.dtype)
        third = self.classifier[1](features.relu() * background).float()
        losses = {
            "first": F.multilabel_soft_margin_loss(self.tag_logits(first, inside), tags),
            "second": F.multilabel_soft_margin_loss(self.tag_logits(second, inside), tags),
            "background": F.multilabel_soft_margin_loss(self.tag_logits(third, inside), torch.zeros_like(tags)),
        }
        return self.told(sum(losses.values(), first.new_zeros(())), **losses)
