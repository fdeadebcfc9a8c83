"""ReCAM: Chen et al., "Class Re-Activation Maps for Weakly-Supervised Semantic Segmentation", CVPR 2022.

A classifier of tags asks of every class whether it is there, so that places which several classes share are bright in
the maps of all of them. So after some epochs a second classifier learns to tell the tags of a photograph apart: it sees
the features that the map of one class lets through, and names that class, by a softmax over all classes. Class maps are
then those of the product of both classifiers' weights. Where both are negative the published product is positive, so
that what speaks against a class twice speaks for it. On features that learn nothing maps of positive weights alone are
much the better ones (docs/experiments/comparison.md).

Its code's tag scores are means over whole windows, padding included; here over the photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.methods.cam import CAM
from tagseg.methods.settings.recam import ReCAMSettings
from tagseg.networks.optimisers import two_stage_optimiser


class ReCAM(CAM):
    """CAM with a second classifier, of the features that the map of one class lets through.

    Its arguments are those of `CAM`.
    """

    Settings = ReCAMSettings
    rests = True  # during the warm-up the second classifier learns nothing
    classifier: nn.Conv2d

    def __init__(
        self, backbone: str, weights: str, classes: Sequence[str], settings: ReCAMSettings, steps: int
    ) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        self.softmax_classifier = nn.Conv2d(self.backbone.channels, self.num_classes, kernel_size=1, bias=False)

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the maps of the first classifier, and those of the product of both: `(B, 2 C, h, w)` signed."""
        first, second = self.classifier.weight, self.softmax_classifier.weight
        both = first * second if self.settings.products == "signed" else first.relu() * second.relu()
        return F.conv2d(self.backbone(images), torch.cat([first, both]))

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the class maps of both classifiers `(B, C, h, w)`, signed, and the first one's logits `(B, C)`."""
        plain, both = score_maps.chunk(2, dim=1)
        return both, self.tag_logits(plain)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the class maps of both classifiers (section 4.1). `(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return self.maps_and_logits(self.score_maps(images))[0]

    def starting_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the class maps of the first classifier alone, signed, and tag logits."""
        plain = self.classifier(self.backbone(images))
        return plain, self.tag_logits(plain)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification loss, and after the warm-up the softmax cross-entropy of the tags."""
        features, tags = self.backbone(batch["image"]), batch["tags"]
        maps = self.classifier(features)
        loss = F.multilabel_soft_margin_loss(self.tag_logits(maps, self.inside(batch)).float(), tags)
        if self.current_epoch < self.settings.warmup_epochs:
            return self.told(loss)
        seen = features_of_tags(maps, features, tags)
        softmax = self.settings.softmax_weight * softmax_loss(self.softmax_classifier.weight[:, :, 0, 0], seen, tags)
        return self.told(loss + softmax, classification=loss, softmax=softmax)

    def configure_optimizers(self) -> Any:
        """Returns CAM's optimiser, or where there is a second rate one whose rates begin once more with the softmax."""
        s = self.settings
        if s.second_learning_rate is None:
            return super().configure_optimizers()
        rate, second = s.learning_rate, s.second_learning_rate
        return two_stage_optimiser(
            [
                (self.backbone, rate, second),
                (self.classifier, rate * s.head_factor, second),
                (self.softmax_classifier, 0.0, second * s.softmax_factor),
            ],
            kind=s.optimiser,
            weight_decay=s.weight_decay,
            first=round(self.steps * s.warmup_epochs / s.epochs),
            steps=self.steps,
        )


def features_of_tags(maps: torch.Tensor, features: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Returns what of the features the map of a tag lets through, as their mean over all places.

    Maps are rectified and divided by their maxima.

    Args:
        maps: `(B, C, h, w)` signed.
        features: `(B, D, h, w)`.
        tags: `(B, C)` multi-hot, T ones in all.

    Returns:
        `(T, D)` float32, the tags of a photograph one after the other.
    """
    photographs, classes = tags.nonzero(as_tuple=True)
    masks = maps[photographs, classes].float().relu().flatten(1)
    masks = masks / (masks.amax(dim=1, keepdim=True) + 1e-5)
    with torch.autocast(maps.device.type, enabled=False):
        # a photograph's features are multiplied by all of its tags' maps at once, and so never copied
        found = [
            masks[photographs == number] @ each.float().flatten(1).T / masks.shape[1]
            for number, each in enumerate(features)
            if (photographs == number).any()
        ]
    return torch.cat(found) if found else masks.new_zeros(0, features.shape[1])


def softmax_loss(weights: torch.Tensor, seen: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Returns the softmax cross-entropy of the tags: the mean over a photograph's tags, then over all photographs.

    Photographs without tags count, with 0 (published code).

    Args:
        weights: of the second classifier, `(C, D)`.
        seen: what `features_of_tags` gives, `(T, D)`.
        tags: `(B, C)` multi-hot, T ones in all.
    """
    photographs, classes = tags.nonzero(as_tuple=True)
    with torch.autocast(seen.device.type, enabled=False):
        entropy = F.cross_entropy(F.linear(seen, weights.float()), classes, reduction="none")
    return (entropy / tags.sum(dim=1)[photographs]).sum() / len(tags)
