"""L2G: Jiang et al., "L2G: A Simple Local-to-Global Knowledge Transfer Framework for Weakly Supervised Semantic
Segmentation", CVPR 2022.

A classifier that sees a small part of a photograph has to look at more of the object. So a local network learns the
tags from small views, and a global network learns, from the whole view, what the local one sees in each of them; with
saliency it learns the object's shape too. Only the global network is used afterwards.

Where paper and published code differ, the paper is followed, and the code with `compat="official"`:

- Both networks of the code have a background channel if there is saliency, and none if not. The paper's local network
  has none and its global network always one. Here the global network has one if there is saliency; without, what it
  would learn (`background`: what no class claims) is most of every view, and among many classes it swallows them all
  before they are learnt.
- In both, a view that misses an object still has its tag, and its strongest bit of background, divided by itself, is
  taught as a 1. Here a view teaches the tags that the local network itself finds in it, and nothing if it finds none;
  so the global network waits until there is something to learn (`compat="official"` teaches all of them, always).
- The code matches views with regions by RoI align, which samples half a cell aside; here cells are matched exactly.
- Without anything salient in a view the code teaches background everywhere, the paper falls back to attention.
- The code's background channel learns what is not salient only where the local network's own background channel wins;
  here it learns all of it.
- The code adds PCM's maps to every map; the paper's text does not speak of it (`pixel_correlation`).
- The code mines the global network's raw maps. But what learns is their softmax over channels (equation 5), to which it
  is all one if every channel rises together. So class maps are here the softmax itself, if there is a background to win
  against, and else the raw maps less the mean of all channels.

The squared norm of equation 6 is the mean over channels and places in both, for the published weight goes with that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.data.dataset import Sample
from tagseg.data.local_views import LocalViews, is_square
from tagseg.errors import BadInput
from tagseg.methods.base import Method
from tagseg.methods.l2g_targets import (
    classification_loss,
    crops,
    local_targets,
    official_regions,
    official_targets,
    probabilities,
    regions,
    transfer_loss,
    with_images,
)
from tagseg.methods.settings.l2g import L2GSettings, LocalSettings
from tagseg.networks.backbone import Backbone
from tagseg.networks.optimisers import poly_optimiser, poly_step_optimiser, step_optimiser
from tagseg.networks.pcm import PCM


class MapHead(nn.Module):
    """A head from features to maps: a 1x1 class convolution without bias.

    Where there is a PCM, those maps are added once more, through it (published code).

    Args:
        backbone: whose features come in.
        channels: K of the maps.
        correlation: whether there is a PCM.
    """

    def __init__(self, backbone: Backbone, channels: int, correlation: bool) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(backbone.channels, channels, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.correlation: PCM | None = None
        if correlation:
            self.correlation = PCM(backbone.inner_widths(), backbone.grid)

    def forward(self, backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
        """Returns the maps of images. `(B, 3, H, W) -> (B, K, h, w)` signed, float32."""
        if self.correlation is None:
            return self.classifier(backbone(images)).float()
        features, stages = backbone.with_stages(images)
        maps = self.classifier(features).float()
        return maps + self.correlation(maps, images, stages[-3:-1])


class LocalNetwork(Method):
    """The local network alone: a classifier of local views. With saliency it teaches shape to itself.

    Args:
        backbone, weights: see `tagseg.networks.backbone.Backbone`.
        classes: the C class names.
        settings: see `LocalSettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.

    Raises:
        BadInput: local views are larger than the global one, or cannot be laid uniformly.
    """

    Settings = LocalSettings

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(classes, settings, steps)
        self.backbone = self._backbone(backbone, weights)
        self.head = self._head(self.backbone, background=settings.saliency)
        self.local_maps = not settings.pixel_correlation  # which compares cells with all others
        grid, wanted = self.backbone.grid, settings.view_side or settings.side * 5 / 7
        self.side, self.view_side = grid.fit(settings.side, settings.side)[0], grid.fit(wanted, wanted)[0]
        self.shown_side, _ = grid.fit(*[self.view_side * settings.enlarge] * 2)
        self.view_cells = grid.cells(self.shown_side, self.shown_side)
        # how many times larger the local network sees a view
        self.enlarged = (self.shown_side - grid.corners) / (self.view_side - grid.corners)
        if self.view_side > self.side:
            raise BadInput(f"train.view_side {settings.view_side}: a local view lies within `side` {settings.side}.")
        if settings.placement == "uniform" and not is_square(settings.views):
            raise BadInput(f"train.views {settings.views}: uniform views form a square; give 1, 4, 9 or 16.")

    def _backbone(self, name: str, weights: str) -> Backbone:
        backbone = Backbone(name, weights, self.settings.output_stride)
        backbone.keep_pretrained(self.settings.early_stride, self.settings.norms)
        backbone.expect(self.settings.statistics)
        return backbone

    def _head(self, backbone: Backbone, background: bool) -> MapHead:
        return MapHead(backbone, self.num_classes + background, self.settings.pixel_correlation)

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the raw maps; the background's channel, if there is one, comes last.

        `(B, 3, H, W) -> (B, K, h, w)` signed.
        """
        return self.head(self.backbone, images)

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns class maps `(B, C, h, w)`, and the raw ones' means as logits `(B, C)`."""
        raw = score_maps[:, : self.num_classes]
        maps = probabilities(score_maps, self.num_classes) if self.settings.saliency else raw
        return raw if self.settings.compat == "official" else maps, raw.mean(dim=(2, 3))

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns class maps. `(B, 3, H, W) -> (B, C, h, w)`, signed, or in [0, 1] if they are the softmax."""
        return self.maps_and_logits(self.score_maps(images))[0]

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification loss of the local views, and with saliency the transfer loss to themselves."""
        boxes, tags = with_images(batch["boxes"]), batch["tags"].repeat_interleave(self.settings.views, dim=0)
        maps = self.score_maps(self.shown(crops(batch["image"], boxes)))
        loss = classification_loss(maps, tags)
        if self.settings.saliency:
            targets, counted = self.targets(maps.detach(), tags, batch["saliency"], boxes)
            transfer = self.settings.transfer_weight * transfer_loss(maps, targets, counted)
            return self.told(loss + transfer, classification=loss, transfer=transfer)
        return self.told(loss)

    def shown(self, views: torch.Tensor) -> torch.Tensor:
        """Returns local views at the size at which they are seen. `(M, 3, s, s) -> (M, 3, s', s')`."""
        return self.backbone.grid.resize(views, (self.shown_side, self.shown_side))

    def targets(
        self, maps: torch.Tensor, tags: torch.Tensor, saliency: torch.Tensor | None, boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what is to be learnt from the local network's maps of the views `boxes` `(M, 5)`.

        See `local_targets` for what that is. `saliency` is that of the global views, `(B, S, S)`. Beside it comes
        which views count, `(M,)` bool.
        """
        s, cells = self.settings, maps.shape[-2:]
        if s.compat == "official":
            if saliency is not None:
                whole = saliency / (saliency.amax(dim=(1, 2), keepdim=True) + 1e-10)
                saliency = F.interpolate(crops(whole[:, None], boxes), size=cells, mode="nearest")[:, 0]
            targets = official_targets(maps, tags, saliency, s.attention_threshold)
            return targets, torch.ones_like(tags[:, 0], dtype=torch.bool)
        if saliency is not None:
            saliency = self.backbone.grid.resize(crops(saliency[:, None], boxes), cells)[:, 0]
        maps, channels = maps[:, : self.num_classes], self.head.classifier.out_channels
        found = tags * (maps.mean(dim=(2, 3)) > 0)
        # a photograph without tags teaches background, if that has a channel
        counted = (found.sum(dim=1) > 0) | ((tags.sum(dim=1) == 0) & (channels > self.num_classes))
        return local_targets(maps, found, saliency, s.attention_threshold)[:, :channels], counted

    def training_views(self, samples: tuple[Sample, ...], seed: int) -> LocalViews:
        """Returns global views with the places of their local views."""
        s = self.settings
        spec = self.view_spec(seed, saliency=s.saliency, short=True, mirror=s.mirror)
        return LocalViews(
            samples,
            self.num_classes,
            self.backbone,
            spec,
            count=s.views,
            view_side=self.view_side,
            placement=s.placement,
        )

    def networks(self) -> list[tuple[nn.Module, nn.Module, float]]:
        """Returns what is trained: backbones, heads, and how many times faster than others AdamW teaches the heads."""
        return [(self.backbone, self.head, 1.0)]

    def configure_optimizers(self) -> Any:
        """Returns AdamW with poly decay, or the published SGD by steps or with poly decay, over all `networks`."""
        s, networks = self.settings, self.networks()
        every: dict[str, Any] = {"learning_rate": s.learning_rate, "weight_decay": s.weight_decay, "steps": self.steps}
        if s.optimiser == "adamw":
            every["hold"] = s.hold
            (backbone, head, _), *others = networks
            more = [(m, f) for b, h, times in others for m, f in ((b, 1.0), (h, times * s.head_factor))]
            return poly_optimiser(backbone, head, kind="adamw", head_factor=s.head_factor, more=more, **every)
        backbones, heads = nn.ModuleList([b for b, _, _ in networks]), nn.ModuleList([h for _, h, _ in networks])
        if s.optimiser == "sgd-steps":
            return step_optimiser(backbones, heads, drops=(s.drop_at,), **every)
        return poly_step_optimiser(backbones, heads, slow=s.slow_steps, **every)


class L2G(LocalNetwork):
    """A local and a global network, of which `backbone` and `head` are those of the global one.

    The arguments are those of `LocalNetwork`, with `settings` as in `L2GSettings`.

    Raises:
        BadInput: what `LocalNetwork` refuses, or there is one class and no background, or the published code is asked
            for a background channel that it does not have.
    """

    Settings = L2GSettings
    enlarges = True
    rests = True  # until it has something to learn, the global network learns nothing

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        if self.num_classes == 1 and not (settings.saliency or settings.background):
            raise BadInput("one class alone has nothing to be told from: set train.background=true, or use saliency.")
        official = settings.compat == "official"
        if settings.background and official:
            raise BadInput("train.background: the published code has no such channel; set train.compat=paper.")
        self.head = self._head(self.backbone, background=settings.saliency or settings.background)
        self.local_backbone = None if settings.shared_backbone else self._backbone(backbone, weights)
        self.local_head = self._head(self.backbone, background=settings.saliency and official)

    def on_train_epoch_start(self) -> None:
        """Gives the global network what the local one knows, when the warm-up is over."""
        if 0 < self.settings.warmup_epochs == self.current_epoch:
            if self.local_backbone is not None:
                self.backbone.load_state_dict(self.local_backbone.state_dict())
            own = self.head.state_dict()
            for key, value in self.local_head.state_dict().items():
                own[key][: self.num_classes] = value[: self.num_classes] if key == "classifier.weight" else value
            self.head.load_state_dict(own)

    def starting_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the class maps of the local network, from which the global one learns, and its tag logits."""
        maps = self.local_head(self.local_backbone or self.backbone, images)[:, : self.num_classes]
        return maps, maps.mean(dim=(2, 3))

    def networks(self) -> list[tuple[nn.Module, nn.Module, float]]:
        """Returns the local and the global network, the latter with its own factor."""
        times = self.settings.global_factor
        if self.local_backbone is None:
            return [(nn.ModuleList(), self.local_head, 1.0), (self.backbone, self.head, times)]
        return [(self.local_backbone, self.local_head, 1.0), (self.backbone, self.head, times)]

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns class maps `(B, C, h, w)`, and how likely each class is where it is likeliest.

        The latter are logits `(B, C)`.
        """
        likely = probabilities(score_maps, self.num_classes)
        if self.settings.compat == "official":
            maps = score_maps[:, : self.num_classes]
        elif score_maps.shape[1] > self.num_classes:
            maps = likely
        else:
            maps = score_maps - score_maps.mean(dim=1, keepdim=True)
        return maps, likely.amax(dim=(2, 3)).logit(eps=1e-6)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the local network's classification loss and the global network's transfer loss (equations 4 to 7)."""
        s, boxes = self.settings, with_images(batch["boxes"])
        tags = batch["tags"].repeat_interleave(s.views, dim=0)
        local_maps = self.local_head(self.local_backbone or self.backbone, self.shown(crops(batch["image"], boxes)))
        classification = classification_loss(local_maps, tags)
        if self.current_epoch < s.warmup_epochs:
            return self.told(classification, local=classification)

        global_maps = self.score_maps(batch["image"])
        targets, counted = self.targets(local_maps.detach(), tags, batch.get("saliency"), boxes)
        if s.compat == "official":
            seen = official_regions(global_maps, boxes, self.view_cells, self.backbone.stride)
        else:
            seen = regions(global_maps, boxes, self.view_cells, self.backbone.grid, self.enlarged)
        terms = {"local": classification, "transfer": s.transfer_weight * transfer_loss(seen, targets, counted)}
        if s.global_classification:
            terms["global"] = classification_loss(global_maps, batch["tags"])
        loss = sum(terms.values(), classification.new_zeros(()))
        return self.told(loss, **terms, teaching_views=counted.float().mean())
