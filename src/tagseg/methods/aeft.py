"""AEFT: Yoon et al., "Adversarial Erasing Framework via Triplet with Gated Pyramid Pooling Layer for Weakly Supervised
Semantic Segmentation", ECCV 2022. After its published code.

A classifier with gated pyramid pooling learns the tags. Then two losses on its pyramids join: an image whose
strongest part is dimmed must show its classes as much as the whole image does (attract), and what is background in one
image must not look like an image that shares no class with it (repulse).

In the published code the tags of no more photographs are learnt than a batch of the beginning has, and fewer than five
hard pairs repulse nothing; `compat="official"` does so too.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tagseg.masks.rescaling import foreground
from tagseg.methods.pyramid import PyramidClassifier
from tagseg.methods.settings.aeft import AEFTSettings
from tagseg.networks.gpp import agreement
from tagseg.networks.ranks import gathered, own_share, shared_mean, shared_sum


class AEFT(PyramidClassifier):
    """A classifier that erases adversarially what it found in images.

    Its arguments are those of `PyramidClassifier`.
    """

    Settings = AEFTSettings
    whole_batches = True
    enlarges = True
    begins_after_warmup = True

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification loss, and after the warm-up the attract and the repulse loss."""
        s, images, tags = self.settings, batch["image"], batch["tags"]
        official = s.compat == "official"
        maps = self.class_maps(images)
        pyramid = self.pyramid(maps)
        each = F.multilabel_soft_margin_loss(agreement(maps, pyramid), tags, reduction="none")
        learnt = own_share(s.warmup_batch_size or s.batch_size) if official else len(tags)
        terms = {"classification": shared_mean(each, torch.arange(len(each), device=each.device) < learnt)}
        if self.warm:
            seen = foreground(maps, tags, "official", images.shape[2:], self.backbone.grid)
            dimmed = self.class_maps(images * seen * (seen < s.erase_threshold))
            terms["attract"] = s.attract_weight * attract_loss(pyramid, self.pyramid(dimmed), tags)
            background = foreground(maps, tags, "official") < s.background_threshold
            repulse = repulse_loss(pyramid, background, tags, s.margin, fewest=5 if official else 1)
            terms["repulse"] = s.repulse_weight * repulse
        return self.told(sum(terms.values(), maps.new_zeros(())), **terms)


def attract_loss(pyramid: torch.Tensor, dimmed: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Returns the mean difference between how much the image and the dimmed image show of their tags.

    Two pyramids `(B, C, h, w)`, and `(B, C)` multi-hot.
    """
    difference = pyramid.relu().mean(dim=(2, 3)) - dimmed.relu().mean(dim=(2, 3))
    return (difference * tags).abs().mean()


def repulse_loss(
    pyramid: torch.Tensor, background: torch.Tensor, tags: torch.Tensor, margin: float, fewest: int = 1
) -> torch.Tensor:
    """Returns how near the background of each image is to the images that share no class with it.

    Args:
        pyramid: `(B, C, h, w)`; each class is divided by its largest absolute value.
        background: `(B, 1, h, w)` bool, the places of an image that are averaged; of the other one all are.
        tags: `(B, C)` multi-hot.
        margin: M; only pairs whose squared distance is less count ("hard").
        fewest: if there are fewer hard pairs, the loss is 0.
    """
    scaled = pyramid / pyramid.abs().amax(dim=(2, 3), keepdim=True).clamp(min=1e-5)
    anchors = (scaled * background).sum(dim=(2, 3)) / background.sum(dim=(2, 3)).clamp(min=1)
    # an anchor of this process meets the images of all
    wholes, others = gathered(scaled.mean(dim=(2, 3))), gathered(tags)
    distances = (anchors[:, None] - wholes[None]).square().sum(dim=2)
    hard = (tags @ others.T == 0) & (distances < margin) & background.any(dim=(2, 3))
    return shared_mean(margin - distances, hard) * (shared_sum(hard.sum()) >= fewest)
