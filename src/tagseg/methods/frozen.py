"""Frozen: one stage on a frozen vision transformer, after WeCLIP (Zhang et al., CVPR 2024) and WeCLIP+ (2024).

The transformer learns nothing, so that it is asked once per photograph; all that is learnt are a 1x1 class convolution
on its last patches and a light decoder on the patches of several blocks. Class maps are spread along the proxy affinity
of the last patches (`tagseg.masks.proxy`) and become, between two background scores and refined by PAR, the labels that
teach the decoder; cells of the same label are to look alike to it. Later a moving average of the decoder is the teacher
where it is sure.

WeCLIP has its maps from CLIP's texts, by gradients; here a class convolution learns them from the tags, or they come
from the value path of a CLIP tower and text embeddings (see `tagseg.networks.texts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.masks.proxy import spread
from tagseg.masks.rescaling import over_maximum
from tagseg.masks.two_thresholds import refined_labels
from tagseg.methods.afa import affinity_loss, near_pairs
from tagseg.methods.base import Method
from tagseg.methods.settings.frozen import FrozenSettings
from tagseg.methods.single_stage import balanced_cross_entropy
from tagseg.networks.averaging import MovingAverage
from tagseg.networks.features import LEVELS, Levels
from tagseg.networks.optimisers import poly_optimiser
from tagseg.networks.pooling import box_masks, pooled
from tagseg.networks.texts import TextMatcher, probabilities, read_projection, read_texts
from tagseg.segmentation.decoder import WARMUP, Decoder

ALIKENESS = 5.0  # by which cosines are multiplied, so that like and unlike cells reach 0.99 and 0.01


class Frozen(Method):
    """A frozen transformer, a classifier of its patches, and a decoder.

    Args:
        backbone, weights: see `tagseg.networks.features.Levels`.
        classes: the C class names.
        settings: see `FrozenSettings`.
        steps: how many optimiser steps the whole training takes.

    Raises:
        BadInput: the backbone is no plain transformer.
    """

    Settings = FrozenSettings
    backbone: Levels
    decoder: Decoder
    segments = True
    on_features = True
    on_pixels = True
    rests = True  # at first the decoder learns nothing

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(classes, settings, steps)
        self.backbone = Levels(backbone, weights, values=settings.maps == "texts")
        self.side, _ = self.backbone.grid.fit(settings.side, settings.side)
        depth = self.backbone.depth
        self.matcher: TextMatcher | None = None
        if settings.maps == "texts":
            self.matcher = TextMatcher(self.num_classes)
        else:
            self.norm = nn.LayerNorm(depth)
            self.classifier = nn.Conv2d(depth, self.num_classes, kernel_size=1, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.01)
        self.decoder = Decoder(LEVELS * depth, self.num_classes + 1, settings.width, settings.layers)

    def read_texts(self, path: Path, weights: str) -> None:
        """Reads text embeddings, and the layer that brings patches to them.

        Args:
            path: see `tagseg.networks.texts.read_texts`.
            weights: those of the backbone.

        Raises:
            BadInput: the file cannot be used, or it belongs to another network.
        """
        texts = read_texts(path, self.classes)
        layer = read_projection(self.backbone.name, weights, self.backbone.depth, texts.shape[1])
        assert self.matcher is not None
        self.matcher.set(texts, *layer)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the class maps, signed; where they come from texts they are log odds against the background.

        `(B, 3, H, W)` or features `(B, M, h, w) -> (B, C, h, w)`.
        """
        levels, values = self.backbone.parts(self.backbone(images))
        if self.matcher is not None:
            return self.matcher(values)
        last = levels.chunk(LEVELS, dim=1)[-1]
        return self.classifier(self.norm(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns class maps `(B, C, h, w)`, of texts probabilities, and tag logits `(B, C)` of score maps."""
        maps = score_maps if self.matcher is None else score_maps.sigmoid()
        return maps, self.tag_logits(score_maps)

    def tag_logits(self, class_maps: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        """Returns class scores by the pooling of the settings. `(B, C, h, w) -> (B, C)`.

        `inside` `(B, h, w)` in [0, 1] says how much of each cell is photograph and not padding; None: all of it is.
        """
        return pooled(class_maps, self.settings.pooling, inside)

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the decoder's logits, background first. `(B, 3, H, W) -> (B, C + 1, h, w)`."""
        return self.decoder(self.backbone.parts(self.backbone(images))[0])

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the sum of L_cls, where class maps are learnt, and of L_seg and L_aff, which then begin later."""
        s, tags, boxes = self.settings, batch["tags"], batch["box"]
        maps = self.class_maps(batch["image"]).float()
        features, _values = self.backbone.parts(batch["image"])
        terms: dict[str, torch.Tensor] = {}
        if self.matcher is None:
            terms["classification"] = F.multilabel_soft_margin_loss(self.tag_logits(maps, self.inside(batch)), tags)
        share = self.global_step / max(1, self.steps)
        if share >= s.classes_first or self.matcher is not None:
            inner = self.decoder.inner(features)
            logits = self.decoder.exit(inner).float()
            labels = self.labels(features, batch["pixels"], maps, tags, boxes)
            if share >= s.teacher_from and self.average is not None:
                labels = self.taught(features, tags, labels, boxes)
            size = (labels.shape[-2], labels.shape[-1])
            scores = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            terms["segmentation"] = balanced_cross_entropy(scores, labels)
            pairs = near_pairs(labels, (inner.shape[-2], inner.shape[-1]), s.radius)
            terms["affinity"] = s.affinity_weight * affinity_loss(alikeness(inner), pairs)
        return self.told(sum(terms.values(), maps.new_zeros(())), **terms)

    @torch.no_grad()
    def labels(
        self,
        features: torch.Tensor,
        pixels: torch.Tensor,
        maps: torch.Tensor,
        tags: torch.Tensor,
        boxes: torch.Tensor,
    ) -> torch.Tensor:
        """Returns the labels that teach the decoder: `(B, H, W)`, 0 background, class c at c + 1, 255 not sure.

        Args:
            features: `(B, L D, h, w)`.
            pixels: the photographs, `(B, 3, H, W)`, a few pixels to a cell.
            maps: `(B, C, h, w)`, those of `class_maps`.
            tags: `(B, C)` multi-hot.
            boxes: `(B, 4)`, what of the pixels is photograph: y0, y1, x0, x1.
        """
        s, size = self.settings, pixels.shape[-2:]
        last = features.chunk(LEVELS, dim=1)[-1]
        maps = maps.relu() * tags[:, :, None, None] if self.matcher is None else probabilities(maps, tags)
        fine = pixels.shape[-1] // features.shape[-1]  # pixels to a cell
        found = torch.zeros_like(maps)
        for index, (y0, y1, x0, x1) in enumerate((boxes // fine).tolist()):
            present = tags[index].nonzero()[:, 0]
            if len(present):
                inside = maps[index, present, y0:y1, x0:x1]
                found[index, present, y0:y1, x0:x1] = over_maximum(spread(last[index, :, y0:y1, x0:x1], inside))
        large = F.interpolate(found, size=size, mode="bilinear", align_corners=False)
        return refined_labels(pixels, large, tags, high=s.high, low=s.low, boxes=boxes)

    @torch.no_grad()
    def taught(
        self, features: torch.Tensor, tags: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor
    ) -> torch.Tensor:
        """Returns labels in which the teacher's own stand wherever it is sure of one of the tags; see `labels`."""
        present = F.pad(tags.bool(), (1, 0), value=True)[:, :, None, None]
        assert self.average is not None
        self.decoder.eval()
        with self.average.standing_in():
            scores = self.decoder(features).float().masked_fill(~present, -torch.inf).softmax(dim=1)
        self.decoder.train()
        size = (labels.shape[-2], labels.shape[-1])
        sure, own = F.interpolate(scores, size=size, mode="bilinear", align_corners=False).max(dim=1)
        return torch.where((sure > self.settings.confidence) & box_masks(boxes, size).bool(), own, labels)

    def begin_average(self) -> MovingAverage:
        """Returns the teacher."""
        return MovingAverage([self.decoder], self.settings.teacher_decay)

    def heads(self) -> list[nn.Module]:
        """Returns all that learns."""
        return [self.decoder] if self.matcher is not None else [self.norm, self.classifier, self.decoder]

    def configure_optimizers(self) -> Any:
        """Returns AdamW with poly decay."""
        s = self.settings
        return poly_optimiser(
            self.backbone,
            nn.ModuleList(self.heads()),
            kind="adamw",
            learning_rate=s.learning_rate,
            head_factor=1.0,
            weight_decay=s.weight_decay,
            steps=self.steps,
            warmup=WARMUP,
        )


def alikeness(features: torch.Tensor) -> torch.Tensor:
    """Returns how alike cells are: sigmoid(F F^T) of unit vectors, scaled. `(B, D, h, w) -> (B, n, n)` in (0, 1)."""
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float().flatten(2), dim=1)
        return (ALIKENESS * (unit.transpose(1, 2) @ unit)).sigmoid()
