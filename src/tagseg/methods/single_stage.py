"""What ToCo, SS-EPA and AFA share: a transformer that learns to segment while it learns the tags.

Its class maps over several scales and flips make pseudo-labels, and these teach a decoder on the same patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.grid import PIXELS, Grid
from tagseg.masks.rescaling import between_extremes
from tagseg.methods.base import Method
from tagseg.networks.averaging import MovingAverage
from tagseg.networks.optimisers import poly_optimiser
from tagseg.networks.vit import Tokens, Transformer
from tagseg.segmentation.deeplab import made_head, seen_by
from tagseg.segmentation.losses import halves_of_loss
from tagseg.segmentation.settings import HeadName


class SingleStage(Method):
    """A plain transformer, a classifier of its patches, and a decoder.

    Args:
        backbone: a plain vision transformer; see `tagseg.networks.vit.Transformer`.
        weights: see `tagseg.networks.backbone.Backbone`.
        classes: the C class names.
        settings: see `SingleStageSettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.
        early: the block whose patches an auxiliary classifier sees.

    Raises:
        BadInput: the backbone is no plain transformer.
    """

    backbone: Transformer
    segments = True
    decoder_name: HeadName = "tokens"
    rests = True  # at first the decoder learns nothing
    power = 0.9  # of the rate's fall

    def __init__(
        self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int, early: int = -1
    ) -> None:
        super().__init__(classes, settings, steps)
        self.backbone = self.transformer(backbone, weights, early)
        if hasattr(self.backbone.network, "pos_embed"):
            self.backbone.network.pos_embed.requires_grad_(False)
        self.backbone.expect(settings.statistics)
        self.backbone.keep_pretrained(settings.early_stride, "batch")
        self.side, _ = self.backbone.grid.fit(settings.side, settings.side)
        channels = self.backbone.channels
        self.classifier = nn.Conv2d(channels, self.num_classes, kernel_size=1, bias=False)
        self.decoder = made_head(self.decoder_name, self.backbone, self.num_classes + 1)

    def transformer(self, backbone: str, weights: str, early: int) -> Any:
        """Returns the transformer, when the method is created."""
        return Transformer(backbone, weights, early)

    def begin_average(self) -> MovingAverage | None:
        """Returns the average of the whole network, where it is to teach."""
        decay = self.settings.teacher_decay
        return MovingAverage([self.backbone, *self.heads()], decay) if decay else None

    @torch.no_grad()
    def taught_maps(self, images: torch.Tensor, tokens: Tokens, tags: torch.Tensor) -> Any:
        """Returns what `teaching_maps` makes of the images: of these tokens, or of what the average sees in them."""
        if self.average is None:
            return self.teaching_maps(images, tokens, tags)
        with self.average.standing_in():
            return self.teaching_maps(images, self.tokens(images), tags)

    def teaching_maps(self, images: torch.Tensor, tokens: Tokens, tags: torch.Tensor) -> Any:
        """Returns the class maps that teach the decoder, and what else the method needs of them."""
        raise NotImplementedError(f"{type(self).__name__} has no teaching_maps")

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the features of the patches. `(B, 3, H, W) -> (B, D, h, w)`."""
        return self.backbone(images)

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns class maps `(B, C, h, w)`, signed, and logits `(B, C)` of the features' maxima."""
        return self.classifier(score_maps).float(), pooled_logits(self.classifier, score_maps)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the class maps. `(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return self.maps_and_logits(self.score_maps(images))[0]

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the decoder's logits, background first. `(B, 3, H, W) -> (B, C + 1, h, w)`."""
        return self.decoder(seen_by(self.decoder_name, self.backbone, images))

    def tokens(self, images: torch.Tensor) -> Tokens:
        """Returns what the transformer says of images `(B, 3, H, W)`."""
        return self.backbone.tokens(images)

    def scores_at(self, features: Any, images: torch.Tensor) -> torch.Tensor:
        """Returns the decoder's logits of what it sees, at the size of the images, `(B, C + 1, H, W)` float32."""
        return self.backbone.grid.resize(self.decoder(features).float(), images.shape[-2:])

    def over_scales(
        self,
        images: torch.Tensor,
        maps_of: Callable[[Tokens], tuple[torch.Tensor, ...]],
        known: Tokens,
        tags: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Returns what `maps_of` makes of the tokens of several scales and their mirror images, as maps in [0, 1].

        Args:
            images: `(B, 3, H, W)`.
            maps_of: gives signed maps `(B, C, h, w)`, of one kind or more.
            known: tokens of the images as they are, which are not computed again.
            tags: `(B, C)` multi-hot.

        Returns:
            of each kind `(B, C, H, W)`: the larger one of an image and its mirror image, rectified, summed over scales
            and scaled; 0 for classes that none of the images has.
        """
        size = images.shape[-2:]
        classes = classes_of(tags)  # there may be many others, which need not be carried through the scales
        totals: list[torch.Tensor] = []
        for scale in self.settings.map_scales:
            at = self.backbone.grid.fit(size[0] * scale, size[1] * scale)
            same = at == tuple(size)
            shown = images if same else F.interpolate(images, at, mode="bilinear", align_corners=False)
            straight = maps_of(known if same else self.tokens(shown))
            large = [
                strongest_of_flips(a[:, classes], b[:, classes], size, self.backbone.grid)
                for a, b in zip(straight, maps_of(self.tokens(shown.flip(-1))), strict=True)
            ]
            # a sum will do for the mean, of each kind of maps: they are scaled in the end
            totals = [a + b for a, b in zip(totals, large, strict=True)] if totals else large
        full = images.new_zeros(len(images), self.num_classes, *size, dtype=torch.float32)
        return tuple(full.index_copy(1, classes, between_extremes(total)) for total in totals)

    def heads(self) -> list[nn.Module]:
        """Returns the networks that learn `head_factor` times faster than the transformer."""
        return [self.classifier, self.decoder]

    def bodies(self) -> nn.Module:
        """Returns what learns at the rate of the transformer: it alone."""
        return self.backbone

    def configure_optimizers(self) -> Any:
        """Returns AdamW whose rate rises first and then falls by a power."""
        s = self.settings
        return poly_optimiser(
            self.bodies(),
            nn.ModuleList(self.heads()),
            kind="adamw",
            learning_rate=s.learning_rate,
            head_factor=s.head_factor,
            weight_decay=s.weight_decay,
            steps=self.steps,
            warmup=round(s.rise * self.steps),
            power=self.power,
            decay_all=s.compat == "official",  # the published codes decay everything
        )


def classes_of(tags: torch.Tensor) -> torch.Tensor:
    """Returns the numbers of the classes that some image has; without any the first one, for maps cannot be empty.

    `(B, C)` multi-hot -> `(K,)`, K at least 1.
    """
    classes = tags.any(dim=0).nonzero()[:, 0]
    return classes if len(classes) else classes.new_zeros(1)


def pooled_logits(classifier: nn.Conv2d, features: torch.Tensor) -> torch.Tensor:
    """Returns class scores of the maximum of every feature over the patches. `(B, D, h, w) -> (B, C)`."""
    return classifier(F.adaptive_max_pool2d(features.float(), 1)).float()[:, :, 0, 0]


def strongest_of_flips(
    straight: torch.Tensor, mirrored: torch.Tensor, size: torch.Size, grid: Grid = PIXELS
) -> torch.Tensor:
    """Returns the larger of a map and that of the mirrored image, at `size` (H, W), rectified; cells lie as `grid` has
    them."""
    plain = (m.contiguous() for m in (straight, mirrored))  # in channels last, all that follows is slow
    straight, mirrored = (grid.resize(m, size) for m in plain)
    return torch.maximum(straight, mirrored.flip(-1)).relu()


def balanced_cross_entropy(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy, half of it from background pixels, half from the others, each a mean, 0 without any.

    `(B, C + 1, H, W)`, `(B, H, W)` with 255 for ignore.
    """
    return sum(halves_of_loss(scores, labels), scores.new_zeros(())) / 2
