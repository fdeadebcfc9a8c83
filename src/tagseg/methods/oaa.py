"""OAA: Jiang et al., "Integral Object Mining via Online Attention Accumulation", ICCV 2019, and "Online Attention
Accumulation for Weakly Supervised Semantic Segmentation", TPAMI 2021; here after chapter 4 of the thesis.

While a classifier learns, its attention wanders over an object. OAA keeps a cumulative map of every tag of every
photograph and joins each new class map with it. OAA++ hides what the classifier found in the round before, so that the
attention goes elsewhere. OAA+ teaches a second network to see the cumulative maps at once; OAA+++ does so with those of
OAA++.

The published code shows whole photographs only, unmirrored, for it pastes maps back without geometry. Here views are
cut, scaled and mirrored as in any training, and every map goes back to its place (`tagseg.data.geometry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset as TorchDataset

from tagseg.data.accumulated_views import AccumulatedFeatureViews, AccumulatedViews, Drop, Seen
from tagseg.data.accumulator import Accumulator, synchronised
from tagseg.data.dataset import Sample
from tagseg.data.feature_views import Features
from tagseg.data.geometry import Window
from tagseg.methods.base import Method
from tagseg.methods.oaa_losses import cross_entropy, enhancement_loss, hybrid_loss, trusted, winning
from tagseg.methods.settings.oaa import (
    AccumulationSettings,
    IntegralSettings,
    OAALocalisationSettings,
    OAAPlusPlusPlusSettings,
    OAAPlusPlusSettings,
    OAAPlusSettings,
    OAASettings,
)
from tagseg.networks.backbone import Backbone
from tagseg.networks.heads import class_branch


class AttentionNetwork(Method):
    """A backbone and a branch of convolutions that ends in the classes.

    Args:
        backbone, weights: see `tagseg.networks.backbone.Backbone`.
        classes: the C class names.
        settings: see `NetworkSettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.
    """

    on_features = True
    features_as = "cam"
    accumulated: Accumulator

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(classes, settings, steps)
        self.backbone = Backbone(backbone, weights, settings.output_stride)
        self.backbone.keep_pretrained(settings.early_stride, settings.norms)
        if settings.frozen:
            self.backbone.hold()
        self.branch = class_branch(self.backbone.channels, self.num_classes, settings.convolutions)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the class maps. `(B, 3, H, W) -> (B, C, h, w)`, signed."""
        return self.branch(self.backbone(images))

    def shown(self) -> dict[str, Any]:
        """Returns what views show of the rounds before, as `Seen` takes it: here the maps after the last round."""
        return {"drop": None, "targets": self.accumulated.rounds()[-1]}

    def feature_views(self, samples: tuple[Sample, ...], seed: int, store: Features) -> AccumulatedFeatureViews:
        """Returns stored features that know where they lie, and what they show of the rounds before."""
        side = self.settings.side
        cells = max(self.backbone.grid.cells(*self.backbone.grid.fit(side, side)))
        seen = Seen(self.accumulated, [s.tags for s in samples], self.num_classes, (cells, cells), **self.shown())
        return AccumulatedFeatureViews(seen, self.backbone.grid, samples, self.num_classes, store, cells, seed)

    def training_views(self, samples: tuple[Sample, ...], seed: int) -> TorchDataset[Any]:
        """Returns views as the settings want them, or features."""
        if self.settings.frozen:
            return super().training_views(samples, seed)
        spec = self.view_spec(seed)
        cells = self.backbone.grid.cells(spec.side, spec.side)
        how = self.shown()
        return AccumulatedViews(samples, self.num_classes, self.backbone, spec, self.accumulated, cells=cells, **how)


class IntegralAttention(AttentionNetwork):
    """Integral attention learning: the network without pooling, taught by cumulative maps.

    Its outputs are log-odds, and its class maps their probabilities q, which learn the cumulative maps p.
    `accumulated` must be set before it is trained.
    """

    Settings = IntegralSettings

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the probabilities q. `(B, 3, H, W) -> (B, C, h, w)` in [0, 1]."""
        return super().class_maps(images).float().sigmoid()

    def tag_logits(self, class_maps: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        """Returns class scores: a class is there if it is anywhere. `(B, C, h, w) -> (B, C)`."""
        del inside
        return class_maps.amax(dim=(2, 3)).logit(eps=1e-6)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the loss between the cumulative maps and what the network says (equations 4.6 to 4.8)."""
        scores, s = super().class_maps(batch["image"]).float(), self.settings
        if s.loss == "cross-entropy":
            loss = cross_entropy(scores, batch["accumulated"])
        elif s.loss == "enhancement":
            loss = enhancement_loss(scores, batch["accumulated"], s.threshold).sum(dim=1).mean()
        else:
            loss = hybrid_loss(scores, batch["accumulated"], s.threshold, s.compat)
        return self.told(loss)


class OAA(AttentionNetwork):
    """The classifier whose class maps accumulate; its arguments are those of `AttentionNetwork`.

    `accumulated` must be set (see `accumulator`) before it is trained.
    """

    Settings: type[AccumulationSettings] = OAASettings
    accumulates = True
    enlarges = True
    successor = IntegralAttention

    def accumulator(self, folder: Path, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]]) -> Accumulator:
        """Returns the cumulative maps of `samples`, photographs of `sizes` (H, W), in `folder`.

        Their grid is that of the largest view, so that no detail is lost.
        """
        longest = self.settings.side * self.settings.scales[1]
        cells = []
        for height, width in sizes:
            factor = longest / max(height, width)
            cells.append(self.backbone.grid.cells(*self.backbone.grid.fit(height * factor, width * factor)))
        tags, hides = [s.tags for s in samples], self.settings.drop != "none"
        return Accumulator(folder, tags, cells, self.backbone.grid, self.settings.fusion, own=hides)

    @property
    def drop(self) -> Drop | None:
        """Returns what the attention drop layer hides, None for nothing."""
        s = self.settings
        # where features are computed once, pixels cannot be hidden before
        what: Literal["image", "features"] = "features" if s.frozen else "image"
        return None if s.drop == "none" else Drop(what if s.drop == "image" else s.drop, s.drop_rate, s.drop_threshold)

    def starting_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the class maps that accumulate, at the end of the training, and tag logits."""
        maps = self.branch(self.backbone(images))
        return maps, self.tag_logits(maps)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the classification loss, and adds the batch's class maps to the cumulative ones."""
        loss, sure = self.classification_loss(self.backbone(batch["image"]), batch)
        return self.told(loss, trusted=sure)

    def classification_loss(
        self, features: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs algorithm 1 from the backbone's features on, and returns its loss and the share of the tags it trusts.

        What is dropped of the image is dropped of the batch.
        """
        for layer in self.branch[:-1]:
            features = layer(features)
        if "keep" in batch:
            features = features * batch["keep"][:, None].to(features.dtype)
        maps = self.branch[-1](features)
        logits = self.tag_logits(maps, self.inside(batch)).float()
        last = self.trainer.max_epochs == self.current_epoch + 1
        self.accumulate(maps, logits, batch, epoch=self.current_epoch, last=last)
        sure = trusted(logits, batch["tags"]).sum() / batch["tags"].sum().clamp(min=1)
        return F.multilabel_soft_margin_loss(logits, batch["tags"]), sure

    @torch.no_grad()
    def accumulate(
        self, maps: torch.Tensor, logits: torch.Tensor, batch: dict[str, torch.Tensor], *, epoch: int, last: bool
    ) -> None:
        """Adds the maps `(B, C, h, w)` of the tags that the classifier itself finds to the cumulative ones.

        `trusted` says which these are. In the `last` epoch a tag that has no map yet takes what there is.
        """
        # early maps are not kept, but the last epoch adds anyhow, so that no tag need end without a map
        if epoch < self.settings.accumulate_from and not last:
            return
        sure = trusted(logits, batch["tags"]).cpu()
        images, classes = batch["tags"].nonzero(as_tuple=True)
        if self.settings.compete:
            maps = winning(maps, batch["tags"])
        # only the maps of tags leave the device, in one go
        raw = maps[images, classes].float().cpu().numpy()
        indices, windows = batch["index"].tolist(), batch["window"].tolist()
        for image, tag, values in zip(images.tolist(), classes.tolist(), raw, strict=True):
            index = indices[image]
            # a photograph's maps lie in the order of its tags
            position = self.accumulated.classes[index].index(tag)
            # `epoch` counts from 0, so it is also how many rounds are done
            if sure[image, tag] or (last and not self.accumulated.has_map(index, position, epoch)):
                self.accumulated.add(index, position, values, Window.from_row(windows[image]))

    def on_train_epoch_start(self) -> None:
        """Begins a round of accumulation."""
        self.accumulated.begin(self.global_rank, rounds=self.current_epoch)

    def on_train_epoch_end(self) -> None:
        """Ends a round of accumulation, in all processes together."""
        ranks = self.trainer.world_size
        synchronised(self.trainer.strategy.barrier, self.accumulated, self.current_epoch + 1, self.global_rank, ranks)

    def shown(self) -> dict[str, Any]:
        """Returns what views show of the rounds before: the attention drop layer hides what was found."""
        return {"drop": self.drop, "targets": None}


class OAALocalisation(OAA):
    """A network with two branches, for photographs that were never seen.

    The second branch learns the cumulative maps while the first makes them, and its maps are used. Both branches have
    the same form and stand on the same features of the backbone. The arguments are those of `AttentionNetwork`.
    """

    Settings = OAALocalisationSettings
    rests = True  # until there are cumulative maps the second branch learns nothing

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        self.second = class_branch(self.backbone.channels, self.num_classes, settings.convolutions)

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the maps of both branches. `(B, 3, H, W) -> (B, 2 C, h, w)`."""
        features = self.backbone(images)
        second = self.second(features)
        return torch.cat([self.branch(features), second], dim=1)

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns class maps `(B, C, h, w)` and logits `(B, C)`.

        The second branch says where, as probabilities, and the first one says what.
        """
        first, second = score_maps.chunk(2, dim=1)
        return second.float().sigmoid(), self.tag_logits(first)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the second branch's probabilities. `(B, 3, H, W) -> (B, C, h, w)` in [0, 1]."""
        return self.maps_and_logits(self.score_maps(images))[0]

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the first branch's classification loss, and the second's hybrid loss once there are maps to learn."""
        features = self.backbone(batch["image"])
        classification, sure = self.classification_loss(features, batch)
        terms = {"classification": classification}
        if self.current_epoch > self.settings.accumulate_from:
            scores, s = self.second(features).float(), self.settings
            terms["integral"] = hybrid_loss(scores, batch["accumulated"], s.threshold, s.compat)
        return self.told(sum(terms.values(), features.new_zeros(())), **terms, trusted=sure)

    def shown(self) -> dict[str, Any]:
        """Returns what views show of the rounds before: the cumulative maps, and what is hidden."""
        return {"drop": self.drop, "targets": "growing"}


class OAAPlusPlus(OAA):
    """OAA with the attention drop layer."""

    Settings = OAAPlusPlusSettings
    trained_as = "oaa"


class OAAPlus(OAA):
    """OAA, then integral attention learning."""

    Settings = OAAPlusSettings
    trained_as = "oaa"


class OAAPlusPlusPlus(OAA):
    """OAA with the attention drop layer, then integral attention learning."""

    Settings = OAAPlusPlusPlusSettings
    trained_as = "oaa"
