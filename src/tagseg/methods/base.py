"""What a method is: one Lightning module in one file, with these few attributes. No base class, no registry.

A file `methods/NAME.py` names its class `METHOD`; `method: NAME` in a recipe, or `--method NAME`, finds it.
"""

from __future__ import annotations

import importlib
import pkgutil
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


class Method(Protocol):
    """The contract of a method class.

    `settings` has the paper's values as defaults; `training_views` gives the items its `training_step` eats;
    `class_maps(images (B, 3, H, W)) -> (B, C, h, w)` gives signed scores, and `tag_logits` the same images' tags.
    A method that also segments has `segment(images) -> (B, C + 1, H, W)`.
    """

    Settings: type[TrainSettings]
    backbone: Backbone

    def __init__(self, backbone: str, weights: str, num_classes: int, settings: Any, steps: int) -> None: ...
    def training_views(self, samples: tuple[Sample, ...], seed: int) -> TorchDataset[Any]: ...
    def class_maps(self, images: torch.Tensor) -> torch.Tensor: ...
    def tag_logits(self, class_maps: torch.Tensor) -> torch.Tensor: ...


def method_names() -> list[str]:
    """The methods that are there: the files of this folder (those of its folder `refinements` refine their maps)."""
    folder = str(Path(__file__).parent)
    return sorted(m.name for m in pkgutil.iter_modules([folder]) if m.name != "base" and not m.ispkg)


def load_method(name: str) -> type[Any]:
    """The method class called `name`.

    Raises:
        BadInput: there is no such method.
    """
    if name not in method_names():
        raise BadInput(
            f"method '{name}' does not exist{nearest(name, method_names()) or '.'} Known: {', '.join(method_names())}."
        )
    return importlib.import_module(f"tagseg.methods.{name}").METHOD
