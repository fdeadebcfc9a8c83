"""What a trained refinement is, and what PSA and IRN share: confident labels, pairs of cells, and the walk."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import cv2
import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt

from tagseg.data.dataset import Sample
from tagseg.labels import IGNORE
from tagseg.data.loading import TrainingViews, normalise
from tagseg.data.views import resize, whole
from tagseg.masks.random_walk import directions, shifted, sources
from tagseg.networks.backbone import Backbone
from tagseg.networks.precision import inference_autocast
from tagseg.settings import ScaleRange, Settings, SidePixels


class RefinementSettings(Settings):
    """What PSA and IRN have in common. Thresholds are map values; "auto" lays them around the score that cuts the
    maps (see `tagseg.pipeline.affinity.choose_thresholds`), because maps of different networks do not compare."""

    epochs: PositiveInt
    batch_size: PositiveInt
    side: SidePixels = 257  # of the square training window, pixels
    scales: ScaleRange = (0.8, 1.6)  # long side of the photograph over `side`
    optimiser: Literal["adamw", "sgd"]
    learning_rate: PositiveFloat
    head_factor: PositiveFloat = 10.0
    weight_decay: float = Field(ge=0)
    walk_side: SidePixels = (
        385  # long side at which photographs are looked at for the walk; larger ones are brought down
    )
    beta: PositiveFloat
    low: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = "auto"  # what is below is background
    high: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = "auto"  # what is above is the object
    log_steps: int = Field(default=8, ge=0, le=16)  # the walk has 2 ** log_steps steps


class Thresholds(Protocol):
    """Map values: below `low` surely background, above `high` surely the object; `middle` cuts masks."""

    low: float
    middle: float
    high: float


class Refinement(Protocol):
    """The contract: labels to learn from, a Lightning module that learns, and the walk.

    `stride` is that of the grid it walks on; `decision` is the background score of maps that have walked, or None if it
    must be chosen as for any maps.
    """

    Settings: type[RefinementSettings]
    backbone: Backbone
    stride: int
    decision: float | None

    def __init__(self, backbone: str, weights: str, settings: Any, steps: int) -> None: ...
    def walk(self, photo: np.ndarray, maps: np.ndarray, thresholds: Thresholds) -> np.ndarray: ...


def load_refinement(name: str) -> Any:
    """The class in `methods/refinements/NAME.py`."""
    return importlib.import_module(f"tagseg.methods.refinements.{name}").REFINEMENT


def check_window(backbone: Backbone, settings: Any, stride: int) -> None:
    """Refuse windows in which no cell has all its neighbours.

    Raises:
        BadInput: with the remedy.
    """
    side, _ = backbone.fit_size(settings.side, settings.side)
    sources(-(-side // stride), -(-side // stride), settings.radius)


def label_views(
    samples: tuple[Sample, ...], backbone: Backbone, settings: RefinementSettings, seed: int, labels: Any
) -> TrainingViews:
    """Random windows of the photographs and of their confident labels."""
    side, _ = backbone.fit_size(settings.side, settings.side)
    count = 1 + max((tag for sample in samples for tag in sample.tags), default=0)
    return TrainingViews(samples, count, backbone, side=side, scales=settings.scales, seed=seed, masks=labels)


def confident(sure: np.ndarray, possible: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Channel numbers `(H, W)` of two refined score sets -> labels `(H, W)` uint8.

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
    """Which neighbours should belong together.

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
    """Mean of the chosen values; 0, with zero gradient, when there are none."""
    return torch.where(chosen, values, 0).sum() / (chosen.sum() + 1e-5)


def affinity_losses(
    affinity: torch.Tensor, labelled: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy of affinities in [0, 1] over background pairs, object pairs, and pairs across a border (PSA,
    equations 3 to 5; IRN, equation 6). All tensors `(B, D, S)`."""
    background, objects, different = labelled
    together = -(affinity + 1e-5).log()
    apart = -(1 + 1e-5 - affinity).log()
    return mean_over(together, background), mean_over(together, objects), mean_over(apart, different)


def look(backbone: Backbone, photo: np.ndarray, long_side: int) -> torch.Tensor:
    """`(1, 3, h, w)`: the photograph as the network wants it, with its long side brought down to `long_side`."""
    height, width = photo.shape[:2]
    factor = min(1.0, long_side / max(height, width))
    size = backbone.fit_size(height * factor, width * factor)
    return normalise(resize(whole(photo), size).image, backbone)[None]


def run_network(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """`network(images)` in this machine's number format, as float32."""
    with inference_autocast(images.device):
        return network(images.contiguous(memory_format=torch.channels_last)).float()


def shrink(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`(K, H, W)` averaged to `(K, h, w)`, or enlarged bilinearly."""
    smaller = size[0] < maps.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.stack([cv2.resize(plane, size[::-1], interpolation=how) for plane in maps])


def alpha_at(threshold: float) -> float:
    """The alpha of PSA's background score `(1 - map) ** alpha` with which a map wins from `threshold` on."""
    threshold = min(max(threshold, 1e-3), 1 - 1e-3)
    return math.log(threshold) / math.log(1 - threshold)
