"""DuPL: Wu et al., "DuPL: Dual Student with Trustworthy Progressive Learning for Robust Weakly Supervised Semantic
Segmentation", CVPR 2024: two single-stage transformers at once, each of which teaches the other's decoder.

A network that learns from its own maps believes its errors more and more. Two of them, which are kept apart by a
discrepancy loss, exchange their pseudo-labels. More and more pixels are labelled, as the threshold of objects falls;
labels whose loss is improbably high among those of their photograph are dropped; and where no label is left, a strongly
altered photograph is to be segmented as the network itself, when it is sure, segments the plain one.

The published code departs from the paper, which this follows unless it is said:

- Segmentation weighs 0.2 in the code's script for VOC and 0.1 in the paper.
- The threshold of some classes of VOC (0.7 at the end, not 0.55) is a list in the code; `high_of` says it by names.
- On COCO the code begins with the discrepancy at a tenth of the steps, and with the contrast of patches and the falling
  thresholds at three twentieths; on VOC contrast and discrepancy are there from the first step, as here.
- Padding has no label and so counts as open in the code's consistency loss; here it does not count, unless
  `compat="official"`.
- The mixture of two normal distributions is scikit-learn's, begun at drawn centres; here it begins at the losses' ends.

Either network could be taken home (the published numbers are of the better one); it is the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.data.dataset import Sample
from tagseg.data.perturbed_views import PerturbedViews
from tagseg.labels import IGNORE
from tagseg.masks.mixture import improbable
from tagseg.masks.two_thresholds import refined_labels
from tagseg.methods.auxiliary_stage import AuxiliaryStage, affinity_labels, patch_contrast_loss
from tagseg.methods.settings.dupl import DuPLSettings
from tagseg.methods.single_stage import balanced_cross_entropy, pooled_logits
from tagseg.networks.pooling import box_masks
from tagseg.networks.ranks import shared_mean
from tagseg.networks.vit import Tokens

SMALLER = 0.75  # size at which the altered photograph is seen
COUNTED = 0.1  # losses of labels above this are asked whether they are of two kinds
LEAST = 1000 / 448**2  # share of the window's pixels that must have such a loss


class DuPL(AuxiliaryStage):
    """Two transformers that teach each other; its arguments are those of `AuxiliaryStage`.

    The second one is `second`; what is mined and segmented is the first one's.
    """

    Settings: type[DuPLSettings] = DuPLSettings

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        self.second = AuxiliaryStage(backbone, weights, classes, settings, steps)
        ends = [settings.high_of.get(name, settings.high_end) for name in self.classes]
        self.ends: torch.Tensor
        self.register_buffer("ends", torch.tensor(ends), persistent=False)

    @property
    def students(self) -> tuple[AuxiliaryStage, AuxiliaryStage]:
        """Returns the two networks."""
        return self, self.second

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the losses of classification, patch contrast and discrepancy, and those of the decoders, each from
        its share of the steps on."""
        s, images, tags, inside = self.settings, batch["image"], batch["tags"], batch["inside"]
        seen = [student.tokens(images) for student in self.students]
        maps, early = zip(
            *(student.teaching_maps(images, t, tags) for student, t in zip(self.students, seen, strict=True)),
            strict=True,
        )
        high = self.thresholds(tags)
        terms = {
            "classification": sum(
                F.multilabel_soft_margin_loss(pooled_logits(layer, features), tags)
                for student, t in zip(self.students, seen, strict=True)
                for layer, features in ((student.classifier, t.patches), (student.auxiliary, t.early))
            ),
            "patch_contrast": s.patch_weight * self.contrast(seen, early, tags, inside, high),
            "discrepancy": s.discrepancy_weight * discrepancy_loss(seen[0].patches, seen[1].patches),
        }
        if self.global_step >= s.classes_first * self.steps:
            terms |= self.exchange(batch, seen, maps, high)
        return self.told(sum(terms.values(), images.new_zeros(())), **terms)

    def thresholds(self, tags: torch.Tensor) -> torch.Tensor:
        """Returns the higher background score of every photograph now, `(B,)`: the largest of its tags' (equation 6).

        From the end of the warm-up on each falls along half a cosine from `high` to what it ends at.
        """
        s, first = self.settings, self.settings.classes_first * self.steps
        done = min(1.0, max(0.0, (self.global_step - first) / max(1.0, self.steps - first - 1)))
        now = s.high + (self.ends - s.high) * (1 - math.cos(math.pi * done)) / 2
        return torch.where(tags.any(dim=1), (tags * now).amax(dim=1), s.high)

    def contrast(
        self,
        seen: Sequence[Tokens],
        early: Sequence[torch.Tensor],
        tags: torch.Tensor,
        inside: torch.Tensor,
        high: torch.Tensor,
    ) -> torch.Tensor:
        """Returns L_ptc of both networks, each by the maps of its own auxiliary classifier."""
        total = high.new_zeros(())
        for student, tokens, maps in zip(self.students, seen, early, strict=True):
            labels = student.patch_labels(maps, tags, inside, high)
            total = total + patch_contrast_loss(tokens.patches.float(), affinity_labels(labels))
        return total

    def exchange(
        self,
        batch: dict[str, torch.Tensor],
        seen: Sequence[Tokens],
        maps: Sequence[torch.Tensor],
        high: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Returns L_seg, in which each decoder learns the other's labels, and later L_reg."""
        s, images, tags, inside = self.settings, batch["image"], batch["tags"], batch["inside"]
        how: dict[str, Any] = {"high": high, "low": s.low, "boxes": inside}
        labels = [refined_labels(images, of_one * tags[:, :, None, None], tags, **how) for of_one in maps]
        scores = [student.scores_at(t.patches, images) for student, t in zip(self.students, seen, strict=True)]
        trusted = self.global_step >= s.filter_from * self.steps
        if trusted:
            labels = [self.cleaned(own, found) for own, found in zip(scores, labels, strict=True)]
        segmented = balanced_cross_entropy(scores[0], labels[1]) + balanced_cross_entropy(scores[1], labels[0])
        terms = {"segmentation": s.segmentation_weight * segmented}
        if trusted and s.consistency_weight:
            size = self.backbone.grid.fit(*(SMALLER * side for side in images.shape[-2:]))
            altered = F.interpolate(batch["altered"], size, mode="bilinear", align_corners=False)
            loss = images.new_zeros(())
            for student, own, others in zip(self.students, scores, reversed(labels), strict=True):
                features = student.tokens(altered).patches
                mirrored = student.scores_at(features, images).flip(-1)
                loss = loss + self.consistency(mirrored, own.detach(), others, inside)
            terms["consistency"] = s.consistency_weight * loss
        return terms

    @torch.no_grad()
    def cleaned(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns labels without those of objects whose loss is improbably high (section 3.4).

        The losses of a photograph's object pixels that are not yet learnt are taken for a mixture of two normal
        distributions; where these lie far enough apart, what belongs to the higher one becomes 255.
        """
        s = self.settings
        losses = F.cross_entropy(scores, labels, ignore_index=IGNORE, reduction="none")
        found = labels.clone()
        for one, own, result in zip(losses, labels, found, strict=True):
            objects = (own != 0) & (own != IGNORE)
            counted = one[objects & (one > COUNTED)]
            if len(counted) <= LEAST * own.numel():
                continue
            wrong = improbable(counted, one, gap=s.noise_gap, sure=s.noise_sure)
            if wrong is not None:
                result[wrong & (own != 0)] = IGNORE
        return found

    def consistency(
        self, altered: torch.Tensor, plain: torch.Tensor, labels: torch.Tensor, inside: torch.Tensor
    ) -> torch.Tensor:
        """Returns L_reg of one network: the cross-entropy of what it says of the altered photographs with what it says
        of the plain ones, where it is sure of that and no label is left."""
        confidence, said = plain.softmax(dim=1).max(dim=1)
        open_ = (labels == IGNORE) & (confidence > self.settings.confident)
        if self.settings.compat != "official":
            open_ = open_ & box_masks(inside, labels.shape[-2:]).bool()
        return shared_mean(F.cross_entropy(altered, said, reduction="none"), open_)

    def training_views(self, samples: tuple[Sample, ...], seed: int) -> PerturbedViews:
        """Returns windows, and each once more, mirrored and in strongly altered colours."""
        spec = self.view_spec(seed, black=self.settings.compat == "official")  # as the code pads
        return PerturbedViews(samples, self.num_classes, self.backbone, spec)

    def bodies(self) -> nn.Module:
        """Returns both transformers."""
        return nn.ModuleList([self.backbone, self.second.backbone])

    def heads(self) -> list[nn.Module]:
        """Returns the networks that learn `head_factor` times faster than the transformers: those of both."""
        return [*super().heads(), *self.second.heads()]


def discrepancy_loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Returns L_dis: how alike two networks' features are, each against the other's as they stand (equation 2).

    It is 1 plus the cosine of every channel's map with that of the other network, the mean, of either. `(B, D, h, w)`
    twice.
    """
    one, other = first.float().flatten(2), second.float().flatten(2)
    likeness = [F.cosine_similarity(a.detach(), b, dim=-1, eps=1e-6).mean() for a, b in ((one, other), (other, one))]
    return 2 + likeness[0] + likeness[1]
