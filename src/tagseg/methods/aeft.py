"""AEFT: Yoon et al., "Adversarial Erasing Framework via Triplet with Gated Pyramid Pooling Layer for Weakly Supervised
Semantic Segmentation", ECCV 2022. After its published code.

A classifier with gated pyramid pooling learns the tags. Then two losses on its pyramids join: an image whose
strongest part is dimmed must show its classes as much as the whole image does (attract), and what is background in one
image must not look like an image that shares no class with it (repulse).

In the published code the tags of no more photographs are learnt than a batch of the beginning has, and fewer than five
hard pairs repulse nothing; `compat="official"` does so too.
"""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as lightning
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn
from torch.nn import functional as F

from tagseg.data.dataset import Sample
from tagseg.data.loading import TrainingViews
from tagseg.methods.cam import CAMSettings
from tagseg.networks.backbone import Backbone, resize_maps
from tagseg.networks.gpp import GatedPyramidPooling, agreement
from tagseg.networks.optimisers import poly_optimiser

Compat = Literal["paper", "official"]


class PyramidSettings(CAMSettings):
    """Of a classifier with gated pyramid pooling that learns more after a warm-up; thresholds as published, and a
    schedule for a few hundred to a few thousand photographs, with a longer warm-up, for in few steps classes are hardly
    learnt. `voc/aeft` and `voc/ktse` hold the published one."""

    batch_size: PositiveInt = 8
    warmup: float = Field(default=0.6, ge=0, le=1)  # share of the epochs in which only the tags are learnt
    warmup_batch_size: PositiveInt | None = None  # photographs a step during these; None: as many as later
    width: PositiveInt = 256  # channels between features and class maps
    dropout: float | None = Field(default=None, ge=0, lt=1)  # of the backbone's dropout layers; None: as they are
    erase_threshold: float = Field(default=0.6, ge=0, le=1)  # a class map's value from which a pixel is erased
    compat: Compat = "paper"

    @property
    def warmup_epochs(self) -> int:
        """How many epochs teach only the tags."""
        return round(self.warmup * self.epochs)

    def batch_size_at(self, epoch: int) -> int:
        first = self.warmup_batch_size or self.batch_size
        return first if epoch < self.warmup_epochs else self.batch_size


class AEFTSettings(PyramidSettings):
    """As published, but for the schedule."""

    attract_weight: NonNegativeFloat = 0.2
    repulse_weight: NonNegativeFloat = 0.15
    background_threshold: float = Field(default=0.2, ge=0, le=1)  # below it a place is background
    margin: PositiveFloat = 0.5  # M: pairs further apart than this (squared) repulse no more


class PyramidClassifier(lightning.LightningModule):
    """Features, a 1x1 convolution with ReLU, and one to the class maps, which gated pyramid pooling scores; none has a
    bias.

    Args:
        backbone, weights: see `tagseg.networks.backbone.Backbone`.
        num_classes: C.
        settings: see `PyramidSettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.
    """

    Settings: type[PyramidSettings] = PyramidSettings
    settings: Any
    others = 0  # channels before those of the classes

    def __init__(self, backbone: str, weights: str, num_classes: int, settings: Any, steps: int) -> None:
        super().__init__()
        self.settings, self.num_classes, self.steps = settings, num_classes, steps
        self.backbone = Backbone(backbone, weights, settings.output_stride)
        self.backbone.freeze(early=self.backbone.pretrained, norms=self.backbone.pretrained)
        if settings.dropout is not None:
            for module in self.backbone.modules():
                if isinstance(module, nn.Dropout | nn.Dropout2d):
                    module.p = settings.dropout
        self.reduce = nn.Conv2d(self.backbone.channels, settings.width, kernel_size=1, bias=False)
        self.classifier = nn.Conv2d(settings.width, self.others + num_classes, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.reduce.weight)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.pyramid = GatedPyramidPooling(num_classes)

    def all_maps(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W) -> (B, others + C, h, w)`, signed, float32."""
        return self.classifier(self.reduce(self.backbone(images)).relu()).float()

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return self.all_maps(images)[:, self.others :]

    def tag_logits(self, class_maps: torch.Tensor) -> torch.Tensor:
        """Gated pyramid pooling. `(B, C, h, w) -> (B, C)`."""
        return agreement(class_maps, self.pyramid(class_maps))

    def grown(self, maps: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Maps at the size of the images they are of."""
        return resize_maps(maps, images.shape[-2:], self.backbone.corners)

    @property
    def warm(self) -> bool:
        """Whether the warm-up is over."""
        return self.current_epoch >= self.settings.warmup_epochs

    def training_views(self, samples: tuple[Sample, ...], seed: int) -> TrainingViews:
        s = self.settings
        side, _ = self.backbone.fit_size(s.side, s.side)
        return TrainingViews(samples, self.num_classes, self.backbone, side=side, scales=s.scales, seed=seed)

    def configure_optimizers(self) -> Any:
        s, head = self.settings, nn.ModuleList([self.reduce, self.classifier, self.pyramid])
        return poly_optimiser(
            self.backbone,
            head,
            kind=s.optimiser,
            learning_rate=s.learning_rate,
            head_factor=s.head_factor,
            weight_decay=s.weight_decay,
            steps=schedule_end(s, self.steps) if s.compat == "official" else self.steps,
        )


class AEFT(PyramidClassifier):
    """Arguments as for `PyramidClassifier`; see `AEFTSettings`."""

    Settings = AEFTSettings

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        s, images, tags = self.settings, batch["image"], batch["tags"]
        official = s.compat == "official"
        maps = self.class_maps(images)
        pyramid = self.pyramid(maps)
        learnt = (s.warmup_batch_size or s.batch_size) if official else len(tags)
        loss = F.multilabel_soft_margin_loss(agreement(maps, pyramid)[:learnt], tags[:learnt])
        if self.warm:
            seen = foreground(maps, tags, "official", images.shape[2:], self.backbone.corners)
            dimmed = self.class_maps(images * seen * (seen < s.erase_threshold))
            loss = loss + s.attract_weight * attract_loss(pyramid, self.pyramid(dimmed), tags)
            background = foreground(maps, tags, "official") < s.background_threshold
            repulse = repulse_loss(pyramid, background, tags, s.margin, fewest=5 if official else 1)
            loss = loss + s.repulse_weight * repulse
        self.log("loss", loss)
        return loss


def schedule_end(settings: PyramidSettings, steps: int) -> int:
    """The step at which the published schedule would end: as if batches were those of the warm-up all the time. There,
    the rate ends at 0.4 of its start."""
    first, later = settings.warmup_batch_size or settings.batch_size, settings.batch_size
    share = settings.warmup_epochs / settings.epochs
    return round(steps / first / (share / first + (1 - share) / later))


def normalised(maps: torch.Tensor, compat: Compat = "paper") -> torch.Tensor:
    """Rectified, and divided by the maximum of each class (KTSE's paper), or first less the minimum (both codes).

    `(B, C, h, w)` signed -> the same in [0, 1].
    """
    maps = maps.relu()
    highest = maps.amax(dim=(2, 3), keepdim=True)
    if compat == "paper":
        return maps / highest.clamp(min=1e-8)
    lowest = maps.amin(dim=(2, 3), keepdim=True)
    return (maps - lowest - 1e-5).relu() / (highest - lowest + 1e-5)


@torch.no_grad()
def foreground(
    maps: torch.Tensor,
    tags: torch.Tensor,
    compat: Compat = "paper",
    size: tuple[int, int] | torch.Size | None = None,
    corners: bool = True,
) -> torch.Tensor:
    """The strongest of the tags' normalised maps, 0 without tags; nothing is learnt through it.

    Tags are few, so that only theirs are touched.

    Args:
        maps: `(B, C, h, w)` signed.
        tags: `(B, C)` multi-hot.
        compat: see `normalised`.
        size: (H, W) to which maps are brought first, in the geometry `corners`; None: they stay as they are.

    Returns:
        `(B, 1, h, w)`, or of that size, in [0, 1].
    """
    images, classes = tags.nonzero(as_tuple=True)
    found = maps[images, classes, None]
    strongest = maps.new_zeros(len(maps), 1, *(maps.shape[2:] if size is None else size))
    if not len(found):
        return strongest
    found = normalised(found if size is None else resize_maps(found, size, corners), compat)
    return strongest.scatter_reduce_(0, images[:, None, None, None].expand_as(found), found, "amax")


def attract_loss(pyramid: torch.Tensor, dimmed: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Mean difference between how much the image and the dimmed image show of their tags.

    Two pyramids `(B, C, h, w)`, and `(B, C)` multi-hot.
    """
    difference = pyramid.relu().mean(dim=(2, 3)) - dimmed.relu().mean(dim=(2, 3))
    return (difference * tags).abs().mean()


def repulse_loss(
    pyramid: torch.Tensor, background: torch.Tensor, tags: torch.Tensor, margin: float, fewest: int = 1
) -> torch.Tensor:
    """How near the background of each image is to the images that share no class with it.

    Args:
        pyramid: `(B, C, h, w)`; each class is divided by its largest absolute value.
        background: `(B, 1, h, w)` bool, the places of an image that are averaged; of the other one all are.
        tags: `(B, C)` multi-hot.
        margin: M; only pairs whose squared distance is less count ("hard").
        fewest: if there are fewer hard pairs, the loss is 0.
    """
    scaled = pyramid / pyramid.abs().amax(dim=(2, 3), keepdim=True).clamp(min=1e-5)
    anchors = (scaled * background).sum(dim=(2, 3)) / background.sum(dim=(2, 3)).clamp(min=1)
    distances = (anchors[:, None] - scaled.mean(dim=(2, 3))[None]).square().sum(dim=2)
    hard = (tags @ tags.T == 0) & (distances < margin) & background.any(dim=(2, 3))
    number = hard.sum()
    near = ((margin - distances) * hard).sum() / number.clamp(min=1)
    return near * (number >= fewest)


METHOD: Any = AEFT
