"""What networks of refinements that learn are, and what PSA and IRN share: confident labels, pairs, and the walk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import lightning.pytorch as lightning
import numpy as np
import torch

from tagseg.data.dataset import Sample
from tagseg.data.loading import TrainingViews, normalise
from tagseg.data.views import ViewSpec, resize, whole
from tagseg.labels import IGNORE
from tagseg.masks.random_walk import directions, shifted, sources
from tagseg.masks.refinements.learnt import LearntSettings
from tagseg.networks.backbone import Backbone
from tagseg.networks.precision import inference_autocast
from tagseg.networks.ranks import part_of_mean, shared_sum


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of map values: below `low` surely background, above `high` surely the object; `middle` cuts masks."""

    low: float
    middle: float
    high: float


class AffinityNetwork(lightning.LightningModule):
    """The base of networks that learn from the confident parts of class maps, along which the maps then walk.

    Args:
        backbone, weights: see `tagseg.networks.backbone.Backbone`; the network as it comes, not the classifier.
        settings: an object of the class `Settings`.
        steps: how many optimiser steps the whole training takes, for the schedule.
    """

    Settings: type[LearntSettings]
    stride: ClassVar[int]
    """Of the grid on which maps walk, pixels."""
    decision: ClassVar[float | None] = None
    """The background score of maps that have walked; None if it must be chosen as for any maps."""

    def __init__(self, backbone: str, weights: str, settings: Any, steps: int) -> None:
        super().__init__()
        self.settings, self.steps = settings, steps
        self.backbone = Backbone(backbone, weights, settings.output_stride)

    def told(self, loss: torch.Tensor, **terms: torch.Tensor) -> torch.Tensor:
        """Returns the loss, and keeps its parts, before they are weighed, for the log."""
        self.log("loss", loss)
        self.terms = {name: value.detach() for name, value in terms.items()}
        return loss

    @staticmethod
    def label(
        photo: np.ndarray, maps: np.ndarray, classes: tuple[int, ...], thresholds: Thresholds, threads: int | None
    ) -> np.ndarray:
        """Returns the labels that the network learns from: `(H, W)` uint8, class c at c + 1, 255 where not sure.

        Args:
            photo: `(H, W, 3)` uint8.
            maps: `(K, H, W)` in [0, 1] of `classes`.
            thresholds: between which nothing is sure.
            threads: on the CPU, 1 or None for as many as torch uses.
        """
        raise NotImplementedError

    def walk(self, photo: np.ndarray, maps: np.ndarray, thresholds: Thresholds) -> np.ndarray:
        """Returns the maps after they have walked. `(H, W, 3)`, `(K, H, W)` -> `(K, h, w)` in [0, 1], at `stride`."""
        raise NotImplementedError

    def check_window(self) -> None:
        """Refuses training windows in which no cell has all its neighbours.

        Raises:
            BadInput: with the remedy.
        """
        side, _ = self.backbone.grid.fit(self.settings.side, self.settings.side)
        sources(*self.backbone.grid.with_stride(self.stride).cells(side, side), self.settings.radius)

    def label_views(self, samples: tuple[Sample, ...], seed: int, labels: Callable[[Sample], Any]) -> TrainingViews:
        """Returns random windows of the photographs and of their confident labels, which lie where `labels` says."""
        s = self.settings
        side, _ = self.backbone.grid.fit(s.side, s.side)
        count = 1 + max((tag for sample in samples for tag in sample.tags), default=0)
        spec = ViewSpec(side=side, scales=s.scales, seed=seed, masks=labels)
        return TrainingViews(samples, count, self.backbone, spec)


def confident(sure: np.ndarray, possible: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Turns the strongest channels `(H, W)` under two background scores into labels `(H, W)` uint8.

    Args:
        sure: from a high background score: what is an object here is one.
        possible: from a low background score: what is background here is background.

    Returns:
        the class (0-based class c at c + 1) where `sure` names one, 0 where both say background, else 255.
    """
    names = np.array([0, *(c + 1 for c in classes)], dtype=np.uint8)
    unknown = (sure == 0) & (possible > 0)
    return np.where(unknown, np.uint8(IGNORE), names[sure])


def pairs(labels: torch.Tensor, radius: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Says which neighbours should belong together.

    Args:
        labels: `(B, h, w)` int64, 0 background, 255 unknown.

    Returns:
        three boolean tensors `(B, D, S)` over the `directions(radius)` and `sources` of the grid: both background;
        the same class; different labels. A pair with an unknown label is in none.
    """
    rows, columns = sources(labels.shape[-2], labels.shape[-1], radius)
    here = labels[:, rows, columns].flatten(1)[:, None]
    there = torch.stack([shifted(labels, offset, radius).flatten(1) for offset in directions(radius)], dim=1)
    known = (here != IGNORE) & (there != IGNORE)
    same = known & (here == there)
    return same & (here == 0), same & (here > 0), known & (here != there)


def mean_over(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Returns the mean of the chosen values of all processes; 0, with zero gradient, when there are none.

    See `tagseg.networks.ranks.shared_mean`.
    """
    return part_of_mean() * torch.where(chosen, values, 0).sum() / (shared_sum(chosen.sum()) + 1e-5)


def affinity_losses(
    affinity: torch.Tensor, labelled: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the cross-entropy of affinities in [0, 1] over background pairs, object pairs, and pairs across a border.

    They are equations 3 to 5 of PSA, and equation 6 of IRN. All tensors are `(B, D, S)`.
    """
    background, objects, different = labelled
    together = -(affinity + 1e-5).log()
    apart = -(1 + 1e-5 - affinity).log()
    return mean_over(together, background), mean_over(together, objects), mean_over(apart, different)


def network_image(backbone: Backbone, photo: np.ndarray, long_side: int) -> torch.Tensor:
    """Returns the photograph `(1, 3, h, w)` as the network wants it, with its long side brought down to `long_side`."""
    height, width = photo.shape[:2]
    factor = min(1.0, long_side / max(height, width))
    size = backbone.grid.fit(height * factor, width * factor)
    return normalise(resize(whole(photo), size).image, backbone)[None]


def run_network(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Returns `network(images)` in this machine's number format, as float32."""
    with inference_autocast(images.device):
        return network(images.contiguous(memory_format=torch.channels_last)).float()


def shrink(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns maps `(K, H, W)` averaged to `(K, h, w)`, or enlarged bilinearly."""
    smaller = size[0] < maps.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.stack([cv2.resize(plane, size[::-1], interpolation=how) for plane in maps])


def alpha_at(threshold: float) -> float:
    """Returns the alpha of PSA's background score `(1 - map) ** alpha` with which a map wins from `threshold` on."""
    threshold = min(max(threshold, 1e-3), 1 - 1e-3)
    return math.log(threshold) / math.log(1 - threshold)
