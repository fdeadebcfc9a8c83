"""What a method is: one Lightning module in one file, which learns from tags and gives class maps.

A file of this folder, or a file of anybody's own (see `tagseg.methods.table` and docs/adding-a-method.md), defines a
class that derives from `Method`. What a class does not define it has from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.utils.data import Dataset as TorchDataset

from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Sample
from tagseg.data.feature_views import Features, FeatureViews
from tagseg.data.loading import TrainingViews
from tagseg.data.views import ViewSpec
from tagseg.grid import PIXELS
from tagseg.networks.averaging import MovingAverage
from tagseg.networks.backbone import Backbone
from tagseg.networks.optimisers import poly_optimiser, step_optimiser
from tagseg.networks.pooling import inside_cells, pooled
from tagseg.segmentation.encoder import Encoder, LiveFeatures
from tagseg.segmentation.settings import HeadName
from tagseg.settings import TrainSettings

PIXELS_A_CELL = 4  # of the photographs that come beside features, along a side


class Method(lightning.LightningModule):
    """The base of all methods.

    A method defines its `Settings`, whose defaults are the paper's values; makes `self.backbone` and its other networks
    when it is created; and has a `training_step` and `class_maps`. Everything else has a default.

    Args:
        classes: the C class names, in the order of the tags.
        settings: an object of the class `Settings`.
        steps: how many optimiser steps the whole training takes, for the schedule.

    A subclass is created with `(backbone, weights, classes, settings, steps)`, where `backbone` and `weights` are as
    `tagseg.networks.backbone.Backbone` takes them.
    """

    Settings: type[TrainSettings]
    backbone: Backbone

    trained_as: ClassVar[str | None] = None
    """The method whose first network this one shares, settings being equal; None for its own."""
    features_as: ClassVar[str | None] = None
    """The method whose frozen features are the same, the backbone being so; None for its own."""
    segments: ClassVar[bool] = False
    """Whether it has `segment`, and with it `decoder` on `backbone`, `decoder_name` and `side`."""
    rests: ClassVar[bool] = False
    """Whether some parameters learn nothing in some steps, which several processes must know of."""
    whole_batches: ClassVar[bool] = False
    """Whether photographs of a batch meet, or some of them have another part than others, so that a batch cannot be
    worked on in parts."""
    on_features: ClassVar[bool] = False
    """Whether it learns from tags, saliency and the backbone's features of whole photographs alone, so that features
    may be computed once (`train.frozen`)."""
    on_pixels: ClassVar[bool] = False
    """Whether it wants small photographs beside the features."""
    local_maps: bool = True
    """Whether what it says of a place depends on what lies around it alone, if the backbone's features do."""
    accumulates: ClassVar[bool] = False
    """Whether its class maps grow while it learns (see `tagseg.methods.oaa.OAA`): it then has `accumulator`."""
    successor: ClassVar[type[Method] | None] = None
    """The class of the second network, which learns the cumulative maps if the settings have a `successor`."""

    exclusive: bool = False
    """Whether it tells which one of the classes is there, and not of each whether it is."""
    from_minimum: ClassVar[bool] = False
    """Whether the lowest value of its maps says nothing, so that it is subtracted when all views are fused, as its
    published code does."""
    maps_version: ClassVar[int] = 1
    """A number that grows when its maps of the same weights become others, so that they are mined again."""
    enlarges: ClassVar[bool] = False
    """Whether it makes class maps larger, and so wants maps that are too small (see `tagseg.pipeline.premise`)."""

    begins_after_warmup: ClassVar[bool] = False
    """Whether it is a plain classifier until its warm-up is over, so that it starts from what it is then."""

    must_fall: ClassVar[str | None] = None
    """The part of the loss between its maps and labels that are made of them, by whose rise a training that runs away
    is known and ended (unless the settings have a `stop_runaway` that is false); None where there is none."""

    accumulated: Accumulator | None = None  # the cumulative maps, which training sets where there are some
    decoder: nn.Module
    decoder_name: HeadName
    side: int  # of the square training window of a method that segments, pixels

    def __init__(self, classes: Sequence[str], settings: Any, steps: int) -> None:
        super().__init__()
        self.classes, self.num_classes = tuple(classes), len(classes)
        self.settings, self.steps = settings, steps

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns signed class maps. `(B, 3, H, W) -> (B, C, h, w)`."""
        raise NotImplementedError(f"{type(self).__name__} has no class_maps")

    def tag_logits(self, class_maps: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        """Returns class scores by global average pooling. `(B, C, h, w) -> (B, C)`.

        `inside` `(B, h, w)` in [0, 1] says how much of each cell is photograph and not padding; None: all of it is.
        """
        return pooled(class_maps, "mean", inside)

    def inside(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns how much of each cell of a batch of training views is photograph: `(B, h, w)` in [0, 1]."""
        grid = PIXELS if self.settings.frozen else self.backbone.grid
        height, width = batch["image"].shape[-2:]
        return inside_cells(batch["inside"], grid, (height, width))

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Returns what the network says at every place, for `maps_and_logits`: by default the class maps.

        `(B, 3, H, W) -> (B, M, h, w)`.
        """
        return self.class_maps(images)

    def maps_and_logits(self, score_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns class maps `(B, C, h, w)` and tag logits `(B, C)` of score maps `(B, M, h, w)`."""
        return score_maps, self.tag_logits(score_maps)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns how probable each class is by tag logits: of each by itself, or if only one can be there, of all.

        `(..., C) -> (..., C)` in [0, 1].
        """
        return logits.softmax(dim=-1) if self.exclusive else logits.sigmoid()

    def background(self, images: torch.Tensor, tags: torch.Tensor) -> torch.Tensor | None:  # noqa: ARG002
        """Returns where the method teaches a network that no class is, `(B, 1, h, w)` bool; None if it does not.

        The premise check asks methods that build on other maps than they give (`starting_maps`).

        Args:
            images: `(B, 3, H, W)`.
            tags: `(B, C)` multi-hot.
        """
        return None

    def starting_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the class maps that the method starts from and makes others of, and tag logits: by default its own.

        `(B, 3, H, W) -> (B, C, h, w), (B, C)`, signed.
        """
        return self.maps_and_logits(self.score_maps(images))

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits of a segmentation, background first. `(B, 3, H, W) -> (B, C + 1, h, w)`."""
        raise NotImplementedError(f"{type(self).__name__} does not segment")

    def accumulator(self, folder: Path, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]]) -> Accumulator:
        """Returns the cumulative maps of photographs of `sizes` (H, W) that lie, or are to lie, in `folder`."""
        raise NotImplementedError(f"{type(self).__name__} has no cumulative maps")

    def view_spec(self, seed: int, **changes: Any) -> ViewSpec:
        """Returns how training views are cut, as the settings say, but for `changes`."""
        s = self.settings
        side, _ = self.backbone.grid.fit(s.side, s.side)
        jitter = getattr(s, "colour_jitter", False)
        return ViewSpec(**{"side": side, "scales": s.scales, "seed": seed, "jitter": jitter, **changes})

    def training_views(self, samples: tuple[Sample, ...], seed: int) -> TorchDataset[Any]:
        """Returns the items that `training_step` gets in batches: by default `image`, `tags`, and `saliency` if the
        settings learn it."""
        if self.settings.frozen:
            return self.feature_views(samples, seed, LiveFeatures(Encoder(self.backbone, self.settings.side), samples))
        spec = self.view_spec(seed, saliency=self.settings.learns_saliency)
        return TrainingViews(samples, self.num_classes, self.backbone, spec)

    def feature_views(self, samples: tuple[Sample, ...], seed: int, store: Features) -> FeatureViews:
        """Returns what `training_step` gets in batches where the backbone is frozen: features in the place of images.

        Args:
            samples: the photographs.
            seed: of what is random.
            store: gives their features.
        """
        grid, side = self.backbone.grid, self.settings.side
        cells = max(grid.cells(*grid.fit(side, side)))
        return FeatureViews(
            samples,
            self.num_classes,
            store,
            cells,
            seed,
            fine=PIXELS_A_CELL,
            pixels=self.on_pixels,
            saliency=self.settings.learns_saliency,
            grid=grid,
        )

    terms: Mapping[str, torch.Tensor] = MappingProxyType({})  # what the last step told beside its loss

    def told(self, loss: torch.Tensor, **terms: torch.Tensor | float) -> torch.Tensor:
        """Returns the loss, and keeps what else a step tells of itself: the parts of its loss, and shares.

        Their mean over every epoch lies beside the loss in the run's record, and every few steps in `log.csv`. There
        they are as published logs have them, before the setting `NAME_weight`, or the one of `weight_of`, weighs them.
        """
        self.log("loss", loss)
        weights = {name: getattr(self.settings, self.weight_of.get(name, f"{name}_weight"), 1.0) for name in terms}
        self.terms = {name: torch.as_tensor(value).detach() / (weights[name] or 1.0) for name, value in terms.items()}
        return loss

    weight_of: ClassVar[Mapping[str, str]] = {}
    """The settings by which parts of the loss are weighed, where they are not called `NAME_weight`."""

    average: MovingAverage | None = None  # of the network while it learns, where it teaches
    _averaged = 0  # the last step that moved it; a step may have several batches

    def begin_average(self) -> MovingAverage | None:
        """Returns a moving average that teaches the network, when training begins; by default there is none."""
        return None

    def setup(self, stage: str) -> None:
        """Begins the average."""
        del stage
        self.average = self.begin_average()

    def on_train_batch_end(self, *_: Any) -> None:
        """Moves the average a little towards the network, once a step."""
        if self.average is not None and self.global_step > self._averaged:
            self.average.update(self.global_step)
            self._averaged = self.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the average in the checkpoint."""
        if self.average is not None:
            checkpoint["average"] = self.average.averages

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the average from a checkpoint."""
        if self.average is not None:
            self.average.averages = checkpoint["average"]
            self._averaged = checkpoint["global_step"]

    def heads(self) -> list[nn.Module]:
        """Returns the networks that learn `head_factor` times faster than the backbone: by default all others."""
        return [module for name, module in self.named_children() if name != "backbone"]

    @property
    def schedule_steps(self) -> int:
        """Returns the step at which the learning rate's schedule ends: by default the last one."""
        return self.steps

    def configure_optimizers(self) -> Any:
        """Returns the optimiser and its schedule as Lightning takes them: by default the one that the settings name."""
        s, parts = self.settings, (self.backbone, nn.ModuleList(self.heads()))
        rates = {name: getattr(s, name) for name in ("learning_rate", "head_factor", "weight_decay")}
        if s.optimiser == "sgd-steps":
            return step_optimiser(*parts, **rates, steps=self.steps, drops=(2 / 3,) if s.drops is None else s.drops)
        return poly_optimiser(*parts, **rates, kind=s.optimiser, steps=self.schedule_steps, hold=s.hold)
