"""KTSE: Chen et al., "Knowledge Transfer with Simulated Inter-Image Erasing for Weakly Supervised Semantic
Segmentation", ECCV 2024.

Erasing the strongest part of an object makes a classifier look at the rest, and soon beyond the object. KTSE simulates
erasing by distraction: beside another image of the same class, the weaker object loses part of its evidence. The
anchor's own maps teach that part (inter-image erasing), they are bounded by pseudo-labels that the network makes itself
(self-supervised regularisation), and what is found once the strongest part is erased is learnt by the whole image
(multi-granularity alignment).

Where paper and published code differ, the paper is followed, and the code with `compat="official"`:

- The paper compares the anchor's maps with its own part of the joined image. The code always puts the anchor above its
  partner, compares both halves, and counts the union of both images' tags on both.
- The code grants transfer and local alignment a margin of 0.05.
- The code takes the cross entropy of background and of class pixels apart, the mean of each, weighs the latter by
  0.0125 and learns them from images with a single tag only, which are settings here (`class_weight`, `single_tag`);
  and it learns joined images from joined pseudo-labels too.
- Class maps are rectified and divided by their maximum in the paper; the code has three ways (`rescaling.normalised`,
  `label_maps`).
- The code labels padding like image content; here it is ignored. An image may be its own partner there.
- In the code the rate falls as if batches never grew (`pyramid.schedule_end`).

The published thresholds of pseudo-labels, 0.3 and 0.15, are for maps of which that is the edge. Where maps are wider,
half of what exceeds 0.3 is no object; with "auto" they follow the value that cuts the maps in two (Otsu's, of the
strongest map of every cell). So does the threshold above which pixels are erased, with "auto".

Scores are rectified before the cross entropy in both, and the second strongest class that `inter` pushes down is sought
among all classes: so says the code, and the paper as we know it says nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset as TorchDataset

from tagseg.data.dataset import Sample
from tagseg.data.paired_views import PairedViews
from tagseg.labels import IGNORE
from tagseg.masks.background import BINS, otsu_score
from tagseg.masks.rescaling import foreground
from tagseg.masks.two_thresholds import refined_labels
from tagseg.methods.ktse_images import SIDES, joined, own_part, random_box, with_box
from tagseg.methods.ktse_losses import global_alignment, inter_loss, label_maps, official_label_loss, rise_loss
from tagseg.methods.pyramid import PyramidClassifier
from tagseg.methods.settings.ktse import KTSESettings
from tagseg.networks.averaging import MovingAverage
from tagseg.networks.ranks import own_share, shared_sum, step_generator
from tagseg.segmentation.losses import segmentation_loss

OFFICIAL_MARGIN = 0.05
OFFICIAL_CLASS_WEIGHT = 0.0125
ABOVE, BELOW = 0.15, 0.10  # of the thresholds, from the value that cuts the maps
MEMORY = 0.98  # how much of the distribution of map values stays in a step


class KTSE(PyramidClassifier):
    """A classifier whose own erased and joined images teach it; its arguments are those of `PyramidClassifier`.

    Channel 0 of `all_maps` is the background.
    """

    Settings = KTSESettings
    whole_batches = True
    on_features = True  # without the parts that erase or join images
    on_pixels = True
    features_as = "cam"
    others = 1
    enlarges = True
    begins_after_warmup = True
    must_fall = "regularisation"

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        # of the strongest map of every cell, over the last steps
        self.values: torch.Tensor
        self.register_buffer("values", torch.zeros(BINS, dtype=torch.float64))

    def begin_average(self) -> MovingAverage | None:
        """Returns the average of the whole network, where it is to make the pseudo-labels."""
        decay = self.settings.teacher_decay
        return MovingAverage([self], decay) if decay else None

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification loss, and after the warm-up those of erasing, regularisation and alignment."""
        scores = self.all_maps(batch["image"])
        terms = {"classification": F.multilabel_soft_margin_loss(self.tag_logits(scores[:, 1:]), batch["tags"])}
        if self.warm:
            s = self.settings
            labels = self.own_labels(batch, scores) if s.regularisation else None
            if s.erasing != "none":
                erased = self.official_erasing if s.compat == "official" else self.erasing
                terms["erasing"] = erased(batch, scores, labels)
            if labels is not None:
                terms["regularisation"] = self.regularisation(batch, scores, labels)
            if s.alignment != "none":
                terms["alignment"] = self.alignment(batch, scores[:, 1:])
        return self.told(sum(terms.values(), scores.new_zeros(())), **terms)

    def erasing(
        self, batch: dict[str, torch.Tensor], scores: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Returns L_kt of the first images of the batch, each joined with its partner."""
        del labels
        chosen, random = slice(0, own_share(self.settings.synthesised)), step_generator(self.global_step)
        images, partners, maps = batch["image"][chosen], batch["partner"][chosen], scores[chosen, 1:]
        if not self.settings.bidirectional:
            maps = maps.detach()
        if self.settings.erasing == "cutmix":
            box = random_box(maps.shape[-2:], random)
            seen = self.class_maps(with_box(images, partners, box, self.backbone.stride))
            kept = torch.ones_like(maps[:, :1])
            kept[:, :, box[0] : box[1], box[2] : box[3]] = 0
            return rise_loss(maps * kept, seen * kept, batch["tags"][chosen])
        side = SIDES[int(torch.randint(len(SIDES), (), generator=random))]
        both = self.class_maps(joined(images, partners, side, self.backbone.stride))
        return rise_loss(maps, own_part(both, side, maps.shape[-2:]), batch["tags"][chosen])

    def official_erasing(
        self, batch: dict[str, torch.Tensor], scores: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Returns L_kt as in the published code, plus the cross entropy of joined images with joined `labels`."""
        s, chosen, stride = self.settings, slice(0, own_share(self.settings.synthesised)), self.backbone.stride
        if s.erasing == "cutmix":
            return self.erasing(batch, scores, labels)
        images, partners = batch["image"][chosen], batch["partner"][chosen]
        tags, others = batch["tags"][chosen], batch["partner_tags"][chosen]
        # either half is held against the tags of both images
        seen, union = self.all_maps(partners), torch.maximum(tags, others)
        both_images = joined(images, partners, "below", stride)
        both = self.all_maps(both_images)
        # the maps of the two alone, laid as the images are: `joined` keeps cells where they were
        target = torch.cat([scores[chosen, 1:], seen[:, 1:]], dim=2)
        if not s.bidirectional:
            target = target.detach()
        loss = rise_loss(target, both[:, 1:], union, OFFICIAL_MARGIN)
        if labels is not None:
            # the truth of the joined image is that of its halves; on the stripe nothing is known
            found = self.labels(partners, seen, others, None, self.thresholds())
            truth = joined(labels[chosen, None], found[:, None], "below", stride, fill=IGNORE)[:, 0]
            loss = loss + self.label_loss(self.grown(both, both_images).relu(), truth, None)
        return loss

    def own_labels(self, batch: dict[str, torch.Tensor], scores: torch.Tensor) -> torch.Tensor:
        """Returns the pseudo-labels of a batch, by its scores or by what the average says (see `labels`)."""
        images, boxes = self.pictures(batch)
        if self.average is not None:
            with self.average.standing_in(), torch.no_grad():
                scores = self.all_maps(batch["image"])
        self.remember(scores[:, 1:], batch["tags"], self.inside(batch))
        return self.labels(images, scores, batch["tags"], boxes, self.thresholds())

    def pictures(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the images of a batch, small ones where their features are stored, and what of each is image."""
        return (batch["pixels"], batch["box"]) if self.settings.frozen else (batch["image"], batch["inside"])

    @torch.no_grad()
    def remember(self, maps: torch.Tensor, tags: torch.Tensor, inside: torch.Tensor) -> None:
        """Counts the values of the tags' maps `(B, C, h, w)` into those of earlier steps."""
        strongest = foreground(maps, tags)[:, 0]
        counted = (inside > 0) & (tags.sum(dim=1) > 0)[:, None, None]
        bins = (strongest[counted] * (BINS - 1)).round().long()
        counts = shared_sum(torch.bincount(bins, minlength=BINS).to(self.values))
        self.values.mul_(MEMORY).add_(counts)

    def cut(self) -> float:
        """Returns the value that cuts the maps of the last steps in two."""
        return otsu_score(self.values.cpu().numpy())

    def thresholds(self) -> tuple[float, float]:
        """Returns the higher and the lower one of pseudo-labels, as they are set or as the maps want them."""
        s = self.settings
        cut = self.cut() if "auto" in (s.high, s.low) else 0.0
        high = min(0.99, cut + ABOVE) if s.high == "auto" else s.high
        return high, max(0.01, cut - BELOW) if s.low == "auto" else s.low

    def erased_from(self) -> float:
        """Returns the value of the strongest map from which a pixel is erased."""
        threshold = self.settings.erase_threshold
        return (1 + self.cut()) / 2 if threshold == "auto" else threshold

    def labels(
        self,
        images: torch.Tensor,
        scores: torch.Tensor,
        tags: torch.Tensor,
        inside: torch.Tensor | None,
        thresholds: tuple[float, float],
    ) -> torch.Tensor:
        """Returns pseudo-labels by two thresholds, the higher one first, and PAR.

        They are `(B, H, W)` int64, class c at c + 1, 255 where nothing is sure.
        """
        s, (high, low) = self.settings, thresholds
        boxes = None if s.compat == "official" else inside
        maps = images.new_zeros(*tags.shape, *images.shape[2:])
        which = tags.nonzero(as_tuple=True)
        if len(which[0]):  # only the maps of tags are looked at
            maps[which] = label_maps(self.grown(scores[:, 1:].detach()[which][:, None], images), s.compat)[:, 0]
        return refined_labels(images, maps, tags, high=high, low=low, boxes=boxes)

    def foreground(self, images: torch.Tensor, maps: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        """Returns where the tags are, at the size of the images: `(B, 1, H, W)` in [0, 1]."""
        return foreground(maps, tags, self.settings.compat, images.shape[2:], self.grid)

    def regularisation(
        self, batch: dict[str, torch.Tensor], scores: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Returns L_ce plus the weighted L_inter."""
        s, tags, (images, _) = self.settings, batch["tags"], self.pictures(batch)
        large = self.grown(scores, images).relu()
        seen = self.foreground(images, scores[:, 1:], tags) > s.inter_threshold
        inter = s.inter_weight * inter_loss(large[:, 1:], tags, seen)
        return self.label_loss(large, labels, tags if s.single_tag else None) + inter

    def label_loss(self, scores: torch.Tensor, labels: torch.Tensor, tags: torch.Tensor | None) -> torch.Tensor:
        """Returns L_ce; with `tags` `(B, C)` pixels of classes count in images with a single one only."""
        weight = self.settings.class_weight
        if weight is not None:
            background, classes = official_label_loss(scores, labels, tags)
            return background + weight * classes
        if tags is not None:
            several = (tags.sum(dim=1) > 1)[:, None, None]
            labels = labels.masked_fill(several & (labels > 0), IGNORE)
        return segmentation_loss(scores, labels)

    def alignment(self, batch: dict[str, torch.Tensor], maps: torch.Tensor) -> torch.Tensor:
        """Returns L_global, L_local or both, as it is set, with the image whose strongest parts are erased."""
        s, images, tags = self.settings, batch["image"], batch["tags"]
        if not s.regularisation and s.erase_threshold == "auto":
            self.remember(maps, tags, self.inside(batch))
        threshold = self.erased_from()
        keep = self.foreground(images, maps, tags) < threshold
        erased = self.class_maps(images * keep)
        loss = maps.new_zeros(())
        if s.alignment != "local":
            loss = loss + global_alignment(maps, erased, tags)
        if s.alignment != "global":
            kept = foreground(maps, tags, s.compat) < threshold
            margin = OFFICIAL_MARGIN if s.compat == "official" else 0.0
            loss = loss + rise_loss(erased * kept, maps * kept, tags, margin)
        return loss

    def training_views(self, samples: tuple[Sample, ...], seed: int) -> TorchDataset[Any]:
        """Returns views beside views of photographs that share a class, once the warm-up is over."""
        s = self.settings
        if s.frozen:
            return super().training_views(samples, seed)
        return PairedViews(
            samples,
            self.num_classes,
            self.backbone,
            self.view_spec(seed),
            pairs_from=None if s.erasing == "none" else s.warmup_epochs,
            itself=s.compat == "official",
            control=s.partner == "itself",
        )
