"""What a method is: one Lightning module in one file, with these few attributes. No base class, no registry.

A file `methods/NAME.py` names its class `METHOD`, or its classes by name `METHODS`; `method: NAME` in a recipe, or
`--method NAME`, finds it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import PositiveInt
from torch.utils.data import Dataset as TorchDataset

from tagseg.data.dataset import Sample
from tagseg.errors import BadInput, nearest
from tagseg.networks.backbone import Backbone
from tagseg.settings import Settings


class TrainSettings(Settings):
    """What the training stage needs of every method's settings."""

    epochs: PositiveInt
    batch_size: PositiveInt

    def batch_size_at(self, epoch: int) -> int:
        """Photographs a step in an epoch, counted from 0."""
        del epoch
        return self.batch_size


class Method(Protocol):
    """The contract of a method class.

    `settings` has the paper's values as defaults; `training_views` gives the items its `training_step` eats;
    `class_maps(images (B, 3, H, W)) -> (B, C, h, w)` gives signed scores, and `tag_logits` the same images' tags.
    A method that also segments has `segment(images) -> (B, C + 1, h, w)`, with `decoder` on `backbone`, `decoder_name`
    as DeepLab calls it, and the `side` of its training window, pixels. One whose tags do not follow from its class
    maps has `score_maps(images) -> (B, M, h, w)` and `maps_and_logits(score_maps) -> (class maps, tag logits)`. One
    whose class maps grow while it learns has `accumulates = True` (see `tagseg.methods.oaa.OAA`). One that learns from
    saliency maps has `uses_saliency = True`, or a setting `saliency`; its views then have them. One of whose parameters
    some learn nothing in some steps has `phases = True`.
    """

    Settings: type[TrainSettings]
    backbone: Backbone

    def __init__(self, backbone: str, weights: str, num_classes: int, settings: Any, steps: int) -> None: ...
    def training_views(self, samples: tuple[Sample, ...], seed: int) -> TorchDataset[Any]: ...
    def class_maps(self, images: torch.Tensor) -> torch.Tensor: ...
    def tag_logits(self, class_maps: torch.Tensor) -> torch.Tensor: ...


def score_maps(method: Any, images: torch.Tensor) -> torch.Tensor:
    """What the method's network says at every place, for `maps_and_logits`. `(B, 3, H, W) -> (B, M, h, w)`."""
    return method.score_maps(images) if hasattr(method, "score_maps") else method.class_maps(images)


def maps_and_logits(method: Any, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class maps `(B, C, h, w)` and tag logits `(B, C)` of the method's score maps."""
    if hasattr(method, "maps_and_logits"):
        return method.maps_and_logits(scores)
    return scores, method.tag_logits(scores)


def uses_saliency(method: type[Any], settings: TrainSettings) -> bool:
    """Whether the method learns from saliency: always (`uses_saliency = True`), or by its setting `saliency`."""
    return getattr(method, "uses_saliency", False) or getattr(settings, "saliency", False)


def method_names() -> list[str]:
    """The methods that are there: those of the files of this folder (its folder `refinements` refines their maps)."""
    return sorted(_methods())


@cache
def _methods() -> dict[str, type[Any]]:
    found: dict[str, type[Any]] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name != "base" and not module.ispkg:
            file = importlib.import_module(f"tagseg.methods.{module.name}")
            found |= getattr(file, "METHODS", None) or {module.name: file.METHOD}
    return found


def load_method(name: str) -> type[Any]:
    """The method class called `name`.

    Raises:
        BadInput: there is no such method.
    """
    if name not in method_names():
        raise BadInput(
            f"method '{name}' does not exist{nearest(name, method_names()) or '.'} Known: {', '.join(method_names())}."
        )
    return _methods()[name]
