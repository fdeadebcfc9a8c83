"""ToCo: Ru et al., "Token Contrast for Weakly-Supervised Semantic Segmentation", CVPR 2023: classifier and segmentation
network in one, on a plain vision transformer, trained at once.

Deep blocks of a transformer make all patches alike. The class maps of an earlier block tell patches apart that are of
different classes (patch token contrast), and choose small crops whose class token must, or must not, be that of the
whole image (class token contrast). The class maps of the last block, refined by PAR, teach the decoder.

Where the published code errs, this does not, unless `compat="official"`:

- The code mirrors the training image and the source of the crops once more, each by its own chance, and neither the
  photograph's box nor the map of regions with them.
- It applies that box, in pixels, to labels of the patch grid, so that a third of the views teach no patch contrast.
- Its class token contrast has one term too many, of a similarity of 1.
- It normalises photographs by ImageNet's statistics whatever the weights expect; here by those of the weights, always.

What the code computes more than once is computed once: the training image is its own first global view, and its own
class map at the first scale; the teacher shares the encoder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import lightning.pytorch as lightning
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn
from torch.nn import functional as F

from tagseg.data.contrast_views import ContrastViews
from tagseg.data.dataset import Sample
from tagseg.labels import IGNORE
from tagseg.errors import BadInput
from tagseg.masks.dense_energy import dense_energy
from tagseg.masks.two_thresholds import refined_labels
from tagseg.methods.base import TrainSettings
from tagseg.networks.optimisers import poly_optimiser
from tagseg.networks.vit import Tokens, Transformer
from tagseg.segmentation.deeplab import HeadName, TokenDecoder
from tagseg.segmentation.training import halves_of_loss
from tagseg.settings import ScaleRange, SidePixels

MOMENTUM = 0.9  # of the teacher's projection


class SingleStageSettings(TrainSettings):
    """Of a transformer that learns to segment while it learns from tags; a schedule for a few hundred to a few thousand
    photographs."""

    epochs: PositiveInt = 20
    batch_size: PositiveInt = 4
    side: SidePixels = 224
    scales: ScaleRange = (0.6, 1.6)  # long side of the photograph over `side`
    map_scales: tuple[PositiveFloat, ...] = Field(default=(1.0, 0.5, 1.5), min_length=1)  # of the maps that teach
    high: float = Field(default=0.7, ge=0, le=1)  # background scores: above the higher one a pixel is an object,
    low: float = Field(default=0.25, ge=0, le=1)  # below the lower one it is background
    segmentation_weight: NonNegativeFloat = 0.1
    classes_first: float = Field(default=0.1, ge=0, le=1)  # share of the steps in which nothing is segmented
    compat: Literal["paper", "official"] = "paper"
    learning_rate: PositiveFloat = 6e-5
    head_factor: PositiveFloat = 10.0
    weight_decay: NonNegativeFloat = 0.01
    rise: float = Field(default=0.075, ge=0, lt=1)  # share of the steps in which the rate rises


class ToCoSettings(SingleStageSettings):
    """Weights and thresholds as published for VOC. `voc/toco` and `coco/toco` hold the published schedules."""

    auxiliary_block: int = -3  # whose patches are contrasted; counted from 0, or from the end
    auxiliary_weight: NonNegativeFloat = 1.0
    patch_weight: NonNegativeFloat = 0.2  # of patch token contrast
    class_weight: NonNegativeFloat = 0.5  # of class token contrast
    energy_weight: NonNegativeFloat = 0.05  # of the dense energy
    crops: PositiveInt = 8
    crop_share: float = Field(default=3 / 14, gt=0, le=1)  # side of a crop over `side`: 96 of 448
    uncertain: float = Field(default=0.2, ge=0, le=2)  # a crop is positive if its mean region exceeds this
    # share of the steps in which nothing is contrasted, and the maps of the auxiliary classifier teach; 0.15 on COCO
    contrast_from: float = Field(default=0.0, ge=0, le=1)
    temperature: PositiveFloat = 0.5  # 1 on COCO


class Projection(nn.Module):
    """Class token to 1024 values: three layers, then one whose weights have unit length (as in self-distillation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = nn.Linear(256, 1024, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(B, D) -> (B, 1024)` in [-1, 1], float32."""
        inner = F.normalize(self.layers(tokens).float(), dim=-1)
        return F.linear(inner, F.normalize(self.last.weight.float(), dim=-1))


class SingleStage(lightning.LightningModule):
    """A plain transformer, a classifier of its patches, and a decoder.

    Args:
        backbone: a plain vision transformer; see `tagseg.networks.vit.Transformer`.
        weights: see `tagseg.networks.backbone.Backbone`.
        num_classes: C.
        settings: see `SingleStageSettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.
        early: the block whose patches an auxiliary classifier sees.

    Raises:
        BadInput: the backbone is no plain transformer.
    """

    settings: Any
    decoder_name: HeadName = "tokens"
    phases = True  # at first the decoder learns nothing
    power = 0.9  # of the rate's fall

    def __init__(
        self, backbone: str, weights: str, num_classes: int, settings: Any, steps: int, early: int = -1
    ) -> None:
        super().__init__()
        self.settings, self.num_classes, self.steps = settings, num_classes, steps
        self.backbone = Transformer(backbone, weights, early)
        if hasattr(self.backbone.network, "pos_embed"):
            self.backbone.network.pos_embed.requires_grad_(False)
        self.side, _ = self.backbone.fit_size(settings.side, settings.side)
        channels = self.backbone.channels
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1, bias=False)
        self.decoder = TokenDecoder(channels, num_classes + 1, self.backbone.stride)

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Features of the patches, `(B, D, h, w)`."""
        return self.backbone(images)

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class maps `(B, C, h, w)`, signed, and logits `(B, C)` of the features' maxima."""
        return self.classifier(score_maps).float(), pooled_logits(self.classifier, score_maps)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return self.maps_and_logits(self.score_maps(images))[0]

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W) -> (B, C + 1, h, w)` logits, background first."""
        return self.decoder(self.backbone(images))

    def tokens(self, images: torch.Tensor) -> Tokens:
        """`(B, 3, H, W)` -> what the transformer says of them."""
        return self.backbone.tokens(images)

    def scores_at(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The decoder's logits at the size of the images, `(B, C + 1, H, W)` float32."""
        return F.interpolate(
            self.decoder(features).float(), size=images.shape[-2:], mode="bilinear", align_corners=False
        )

    def over_scales(
        self,
        images: torch.Tensor,
        maps_of: Callable[[Tokens], tuple[torch.Tensor, ...]],
        known: Tokens,
        tags: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """What `maps_of` makes of the tokens of several scales and their mirror images, as maps in [0, 1].

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
        classes = tags.any(dim=0).nonzero()[:, 0]
        if not len(classes):
            classes = classes.new_zeros(1)
        totals: list[torch.Tensor] = []
        for scale in self.settings.map_scales:
            at = self.backbone.fit_size(size[0] * scale, size[1] * scale)
            same = at == tuple(size)
            shown = images if same else F.interpolate(images, at, mode="bilinear", align_corners=False)
            straight = maps_of(known if same else self.tokens(shown))
            large = [
                strongest_of_flips(a[:, classes], b[:, classes], size)
                for a, b in zip(straight, maps_of(self.tokens(shown.flip(-1))), strict=True)
            ]
            totals = [a + b for a, b in zip(totals, large, strict=True)] if totals else large
        full = images.new_zeros(len(images), self.num_classes, *size, dtype=torch.float32)
        return tuple(full.index_copy(1, classes, scaled(total)) for total in totals)

    def heads(self) -> list[nn.Module]:
        """What learns `head_factor` times faster."""
        return [self.classifier, self.decoder]

    def configure_optimizers(self) -> Any:
        s = self.settings
        return poly_optimiser(
            self.backbone,
            nn.ModuleList(self.heads()),
            kind="adamw",
            learning_rate=s.learning_rate,
            head_factor=s.head_factor,
            weight_decay=s.weight_decay,
            steps=self.steps,
            warmup=round(s.rise * self.steps),
            power=self.power,
        )


class ToCo(SingleStage):
    """Arguments as for `SingleStage`; see `ToCoSettings`.

    Raises:
        BadInput: as there, or crops are larger than the image.
    """

    Settings: type[ToCoSettings] = ToCoSettings

    def __init__(self, backbone: str, weights: str, num_classes: int, settings: Any, steps: int) -> None:
        super().__init__(backbone, weights, num_classes, settings, steps, settings.auxiliary_block)
        self.crop_side, _ = self.backbone.fit_size(*[settings.crop_share * self.side] * 2)
        if self.crop_side > self.side:
            raise BadInput(f"train.crop_share {settings.crop_share}: crops of {self.crop_side} pixels are too large.")
        self.auxiliary = nn.Conv2d(self.backbone.channels, num_classes, kernel_size=1, bias=False)
        self.projection = Projection(self.backbone.channels)
        self.teacher = copy.deepcopy(self.projection).requires_grad_(False)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        s, images, tags = self.settings, batch["image"], batch["tags"]
        tokens = self.tokens(images)
        loss = F.multilabel_soft_margin_loss(pooled_logits(self.classifier, tokens.patches), tags)
        early = F.multilabel_soft_margin_loss(pooled_logits(self.auxiliary, tokens.early), tags)
        loss = loss + s.auxiliary_weight * early

        loss = loss + self.refinement_loss(tokens, tags)

        contrasted = self.global_step >= s.contrast_from * self.steps
        segmented = self.global_step >= s.classes_first * self.steps
        if contrasted or segmented:
            maps, early_maps = self.teaching_maps(images, tokens, tags)
        if contrasted:
            loss = loss + s.patch_weight * self.patch_contrast(tokens.patches, early_maps, tags, batch["inside"])
            loss = loss + s.class_weight * self.class_contrast(batch, tokens.summary, early_maps)
        if segmented:
            teaching = maps if contrasted else early_maps
            loss = loss + self.segmentation(images, tokens.patches, teaching, tags, batch["inside"])
        self.log("loss", loss)
        return loss

    def main_maps(self, features: torch.Tensor) -> torch.Tensor:
        """Class maps that teach, of one scale. `(B, D, h, w) -> (B, C, h, w)`."""
        return self.classifier(features).float()

    def refined(self, maps: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """What becomes of these maps before they teach: nothing here."""
        del tokens
        return maps

    def refinement_loss(self, tokens: Tokens, tags: torch.Tensor) -> torch.Tensor | float:
        """What a refinement that learns adds to the loss."""
        del tokens, tags
        return 0.0

    @torch.no_grad()
    def teaching_maps(
        self, images: torch.Tensor, tokens: Tokens, tags: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps of both classifiers over scales and flips, `(B, C, H, W)` each, in [0, 1]; 0 for classes that none of
        the images has.

        Args:
            images: `(B, 3, H, W)`.
            tokens: of the images as they are.
            tags: `(B, C)` multi-hot.
        """

        def both(seen: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
            return self.refined(self.main_maps(seen.patches), seen), self.auxiliary(seen.early).float()

        main, early = self.over_scales(images, both, tokens, tags)
        return main, early

    def patch_contrast(
        self, features: torch.Tensor, maps: torch.Tensor, tags: torch.Tensor, inside: torch.Tensor
    ) -> torch.Tensor:
        """L_ptc; `maps` of the auxiliary classifier, `inside` in pixels."""
        s = self.settings
        small = F.interpolate(maps, size=features.shape[-2:], mode="bilinear", align_corners=False)
        boxes = inside if s.compat == "official" else cells_inside(inside, self.backbone.stride)
        labels = labels_of(small, tags, high=s.high, low=s.low, boxes=boxes)
        return patch_contrast_loss(features.float(), affinity_labels(labels))

    def class_contrast(self, batch: dict[str, torch.Tensor], summary: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """L_ctc; `summary` is the class token of the image, `maps` those of the auxiliary classifier."""
        s = self.settings
        found = regions(maps, batch["tags"], high=s.high, low=s.low)
        corners = draw_crops(found, self.crop_side, s.crops)
        crops, flags = cut_crops(batch["again"], found, corners, self.crop_side, s.uncertain)
        with torch.no_grad():
            for mean, own in zip(self.teacher.parameters(), self.projection.parameters(), strict=True):
                mean.lerp_(own.detach(), 1 - MOMENTUM)
        views = torch.cat([summary, self.tokens(batch["other"]).summary])
        parts = torch.cat([views, self.tokens(crops.flatten(0, 1)).summary])
        with torch.no_grad():
            target = self.teacher(views.detach())
        both = torch.cat([torch.ones_like(flags[:, :2]), flags], dim=1)
        return class_contrast_loss(self.projection(parts), target, both, s.temperature, extra=s.compat == "official")

    def segmentation(
        self,
        images: torch.Tensor,
        features: torch.Tensor,
        maps: torch.Tensor,
        tags: torch.Tensor,
        inside: torch.Tensor,
    ) -> torch.Tensor:
        """L_seg with labels that PAR refines, and L_reg."""
        s = self.settings
        labels = refined_labels(images, maps * tags[:, :, None, None], tags, high=s.high, low=s.low, boxes=inside)
        scores = self.scores_at(features, images)
        loss = s.segmentation_weight * balanced_cross_entropy(scores, labels)
        if s.energy_weight:
            colours = self.colours(images)
            energy = dense_energy(colours, scores.softmax(dim=1), box_masks(inside, images.shape[-2:]), labels)
            loss = loss + s.energy_weight * energy
        return loss

    def colours(self, images: torch.Tensor) -> torch.Tensor:
        """Images in 0..255."""
        mean, std = (
            torch.tensor(v, device=images.device)[:, None, None] for v in (self.backbone.mean, self.backbone.std)
        )
        return 255 * (images * std + mean)

    def training_views(self, samples: tuple[Sample, ...], seed: int) -> ContrastViews:
        s = self.settings
        return ContrastViews(
            samples,
            self.num_classes,
            self.backbone,
            side=self.side,
            scales=s.scales,
            seed=seed,
            mirror_apart=s.compat == "official",
        )

    def heads(self) -> list[nn.Module]:
        return [*super().heads(), self.auxiliary, self.projection]


def pooled_logits(classifier: nn.Conv2d, features: torch.Tensor) -> torch.Tensor:
    """Class scores of the maximum of every feature over the patches. `(B, D, h, w) -> (B, C)`."""
    return classifier(F.adaptive_max_pool2d(features.float(), 1)).float()[:, :, 0, 0]


def strongest_of_flips(straight: torch.Tensor, mirrored: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """The larger of a map and that of the mirrored image, at `size` (H, W), rectified."""
    plain = (m.contiguous() for m in (straight, mirrored))  # in channels last, all that follows is slow
    straight, mirrored = (F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in plain)
    return torch.maximum(straight, mirrored.flip(-1)).relu()


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """Every map less its minimum, divided by its maximum. `(B, C, H, W)` -> the same in [0, 1]."""
    maps = maps - maps.amin(dim=(2, 3), keepdim=True)
    return maps / (maps.amax(dim=(2, 3), keepdim=True) + 1e-5)


def labels_of(
    maps: torch.Tensor, tags: torch.Tensor, *, high: float, low: float, boxes: torch.Tensor | None = None
) -> torch.Tensor:
    """The strongest tag where it exceeds `high`, background where it is at most `low`, 255 between and off the box.

    Args:
        maps: `(B, C, h, w)` in [0, 1].
        tags: `(B, C)` multi-hot.
        high, low: background scores.
        boxes: `(B, 4)` rows y0, y1, x0, x1 of what counts, cells.

    Returns:
        `(B, h, w)` int64, class c at c + 1.
    """
    strength, strongest = (maps * tags[:, :, None, None]).max(dim=1)
    labels = torch.where(strength > high, strongest + 1, IGNORE)
    labels = torch.where(strength <= low, 0, labels)
    if boxes is None:
        return labels
    return torch.where(box_masks(boxes, maps.shape[-2:]).bool(), labels, IGNORE)


def box_masks(boxes: torch.Tensor, size: tuple[int, ...] | torch.Size) -> torch.Tensor:
    """`(B, 4)` rows y0, y1, x0, x1 -> `(B, h, w)`, 1 inside."""
    y, x = (torch.arange(n, device=boxes.device) for n in size)
    y0, y1, x0, x1 = boxes[:, :, None, None].unbind(1)
    return ((y[:, None] >= y0) & (y[:, None] < y1) & (x >= x0) & (x < x1)).float()


def cells_inside(boxes: torch.Tensor, stride: int) -> torch.Tensor:
    """Boxes in pixels as boxes of the cells that lie in them whole."""
    y0, y1, x0, x1 = boxes.unbind(1)
    return torch.stack([-(-y0 // stride), y1 // stride, -(-x0 // stride), x1 // stride], dim=1)


def regions(maps: torch.Tensor, tags: torch.Tensor, *, high: float, low: float) -> torch.Tensor:
    """0 where surely background, 2 where surely an object, 1 between. `(B, C, H, W)`, `(B, C)` -> `(B, H, W)`."""
    strength = (maps * tags[:, :, None, None]).amax(dim=1)
    return (strength > low).long() + (strength >= high).long()


def affinity_labels(labels: torch.Tensor) -> torch.Tensor:
    """Pairs of patches: 1 alike, 0 not, 255 unknown or the same patch. `(B, h, w) -> (B, n, n)`."""
    flat = labels.flatten(1)
    pairs = (flat[:, :, None] == flat[:, None, :]).long()
    unknown = (flat == IGNORE)[:, :, None] | (flat == IGNORE)[:, None, :]
    unknown = unknown | torch.eye(flat.shape[1], dtype=torch.bool, device=labels.device)
    return pairs.masked_fill(unknown, IGNORE)


def patch_contrast_loss(features: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """L_ptc: patches alike are to point the same way, or the opposite one, others at right angles.

    Args:
        features: `(B, D, h, w)`.
        pairs: `(B, n, n)` of `affinity_labels`.
    """
    unit = F.normalize(features.flatten(2), dim=1)
    alike = (unit.transpose(1, 2) @ unit).abs()
    same, other = pairs == 1, pairs == 0
    attracted = 1 - (alike * same).sum() / (same.sum() + 1)
    return (attracted + (alike * other).sum() / (other.sum() + 1)) / 2


def class_contrast_loss(
    student: torch.Tensor, teacher: torch.Tensor, flags: torch.Tensor, temperature: float, *, extra: bool = False
) -> torch.Tensor:
    """L_ctc.

    Args:
        student: `(V B, D)` of all views, the view varying slowest.
        teacher: `(2 B, D)` of the global views.
        flags: `(B, V)`, 1 for views that are to be like the global ones, 0 for those that are not.
        temperature: tau.
        extra: whether every global view has one positive more, of similarity 1 (published code).
    """
    batch, views = flags.shape
    others, globals_ = student.view(views, batch, -1), teacher.view(-1, batch, teacher.shape[1])
    similar = (torch.einsum("gbd,vbd->bgv", globals_, others) / temperature).exp()
    positive = flags.to(similar.dtype)[:, None]
    negatives = (similar * (1 - positive)).sum(dim=2, keepdim=True)
    terms = -(similar / (similar + negatives + 1e-4)).log() * positive
    total = terms.sum(dim=2)
    if extra:
        total = total - (1 / (1 + negatives[:, :, 0] + 1e-4)).log()
    return (total.sum(dim=1) / len(globals_) / (positive[:, 0].sum(dim=1) + 1e-4)).mean()


def balanced_cross_entropy(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Half of it from background pixels, half from the others, each a mean, 0 without any.

    `(B, C + 1, H, W)`, `(B, H, W)` with 255 for ignore.
    """
    return sum(halves_of_loss(scores, labels), scores.new_zeros(())) / 2


def draw_crops(found: torch.Tensor, side: int, count: int) -> torch.Tensor:
    """Where crops are cut: centred on random pixels that are not surely an object, none twice; if there are too few of
    these, on any. `(B, H, W)` regions -> `(B, count, 2)`, y and x of the upper left corners, pixels."""
    height, width = found.shape[-2:]
    rooms = (height - side + 1, width - side + 1)
    half = side // 2
    corners = []
    for one in found.cpu():
        free = (one[half : half + rooms[0], half : half + rooms[1]] <= 1).flatten().nonzero()[:, 0]
        if len(free) < count:
            free = torch.arange(rooms[0] * rooms[1])
        chosen = (
            free[torch.randperm(len(free))[:count]] if len(free) >= count else free[torch.randint(len(free), (count,))]
        )
        corners.append(torch.stack([chosen // rooms[1], chosen % rooms[1]], dim=1))
    return torch.stack(corners)


def cut_crops(
    images: torch.Tensor, found: torch.Tensor, corners: torch.Tensor, side: int, uncertain: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops, `(count, B, 3, side, side)`, and flags, `(B, count)`: 1 where the mean region exceeds `uncertain`."""
    crops, flags = [], []
    for image, regions_of_one, places in zip(images, found, corners.tolist(), strict=True):
        crops.append(torch.stack([image[:, y : y + side, x : x + side] for y, x in places]))
        shares = [regions_of_one[y : y + side, x : x + side].float().mean() for y, x in places]
        flags.append(torch.stack(shares) > uncertain)
    return torch.stack(crops, dim=1), torch.stack(flags).long()


METHOD: Any = ToCo
