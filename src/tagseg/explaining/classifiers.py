"""Classifiers to be explained: timm's, torchvision's, or the one that a run trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from tagseg.data.loading import normalise
from tagseg.errors import BadInput, nearest
from tagseg.explaining.source import LIBRARIES, check_source
from tagseg.methods.saved import load_networks
from tagseg.methods.tag_classifier import TagClassifier
from tagseg.networks.backbone import read_weights
from tagseg.networks.precision import default_device

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Classifier:
    """A network that gives class scores, and what it takes to show it a photograph.

    `side`: photographs are resized to a square of this many pixels, as classifiers are tested; maps are resized back.
    `exclusive`: one class per photograph (softmax), or several (sigmoid).
    """

    model: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: int
    classes: tuple[str, ...]
    exclusive: bool

    def images(self, photos: Sequence[np.ndarray]) -> torch.Tensor:
        """Returns photographs as the model takes them, on its device.

        `(H, W, 3)` uint8 RGB photographs -> `(B, 3, side, side)`.
        """
        return torch.stack([normalise(square(photo, self.side), self) for photo in photos]).to(self.device)

    @property
    def device(self) -> torch.device:
        """Returns the device of the model."""
        return next(self.model.parameters()).device

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Turns scores `(B, C)` into probabilities, which is what a person reads."""
        return scores.float().softmax(dim=1) if self.exclusive else scores.float().sigmoid()

    def numbers(self, names: Sequence[str]) -> list[int]:
        """Returns the class numbers of names (or of numbers written out).

        Raises:
            BadInput: a name that the classifier does not know, with the nearest one.
        """
        found = []
        for name in names:
            if name in self.classes:
                found.append(self.classes.index(name))
            elif name.isdigit() and int(name) < len(self.classes):
                found.append(int(name))
            else:
                hint = nearest(name, list(self.classes)) or f"; it has {', '.join(self.classes[:3])} ..."
                raise BadInput(f"class '{name}': the model has no such class (0 to {len(self.classes) - 1}){hint}")
        return found


def square(photo: np.ndarray, side: int) -> np.ndarray:
    """Resizes `(H, W, 3)` to `(side, side, 3)`: area averaging when shrinking, bilinear when enlarging."""
    shrinking = side < min(photo.shape[:2])
    return cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def load_classifier(source: str | os.PathLike[str], weights: str = "pretrained", side: int | None = None) -> Classifier:
    """Opens a classifier.

    Args:
        source: `timm:NAME`, `torchvision:NAME`, or the folder of a run (its classifier).
        weights: of a timm or torchvision network: `"pretrained"`, `"random"`, or a file whose head tells the classes.
        side: pixels; None for what the network was trained with.

    Raises:
        BadInput: there is no such network, run, or file, or the weights do not fit.
    """
    check_source(source, weights, side)
    library, _, name = str(source).partition(":")
    if library in LIBRARIES:
        classifier = (_timm if library == "timm" else _torchvision)(name, weights, side)
    else:
        classifier = _run(Path(source), side)
    classifier.model.eval().to(default_device())
    return classifier


def _run(folder: Path, side: int | None) -> Classifier:
    method, where = load_networks(folder)
    backbone, wanted = method.backbone, side or method.settings.side
    side = backbone.grid.fit(wanted, wanted)[0]
    model = TagClassifier(method, where)
    return Classifier(model, backbone.mean, backbone.std, side, method.classes, method.exclusive)


def _timm(name: str, weights: str, side: int | None) -> Classifier:
    import timm

    if not timm.is_model(name):
        raise BadInput(f"model 'timm:{name}': timm has no such network{nearest(name, timm.list_models()) or '.'}")
    state = _state(weights)
    known = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"num_classes": _head_size(state, known.classifier if known else None)}
    model: Any  # timm has no common type
    try:
        model = timm.create_model(name, pretrained=weights == "pretrained", dynamic_img_size=True, **options)
    except TypeError:  # networks that take any size do not know the option
        model = _fetched(name, lambda: timm.create_model(name, pretrained=weights == "pretrained", **options))
    except Exception as error:
        raise _not_fetched(name, error) from error
    _load_state(model, state, weights)
    config = model.pretrained_cfg
    return Classifier(
        model=model,
        mean=tuple(config.get("mean", _IMAGENET_MEAN)),
        std=tuple(config.get("std", _IMAGENET_STD)),
        side=side or config.get("input_size", (3, 224, 224))[1],
        classes=_names(model.num_classes),
        exclusive=True,
    )


def _torchvision(name: str, weights: str, side: int | None) -> Classifier:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise BadInput(f"model 'torchvision:{name}': torchvision has no such network{nearest(name, known) or '.'}")
    state = _state(weights)
    best = models.get_model_weights(name).DEFAULT
    size = _head_size(state, None)
    pretrained = best if weights == "pretrained" else None
    model = _fetched(
        name, lambda: models.get_model(name, weights=pretrained, **({"num_classes": size} if state else {}))
    )
    _load_state(model, state, weights)
    preset = best.transforms()
    classes = _names(size if state else len(best.meta["categories"]))
    return Classifier(model, tuple(preset.mean), tuple(preset.std), side or preset.crop_size[0], classes, True)


def _fetched(name: str, create: Any) -> Any:
    try:
        return create()
    except Exception as error:
        raise _not_fetched(name, error) from error


def _not_fetched(name: str, error: Exception) -> BadInput:
    return BadInput(
        f"model '{name}' could not be made with its pretrained weights ({type(error).__name__}); "
        "give a local file with --weights FILE, or --weights random."
    )


def _state(weights: str) -> dict[str, torch.Tensor] | None:
    return None if weights in ("pretrained", "random") else read_weights(Path(weights))


def _head_size(state: dict[str, torch.Tensor] | None, head: Any) -> int:
    """Classes of the weights: the rows of the classifier's matrix, else of the last matrix; ImageNet's without any."""
    if state is None:
        return 1000
    first = head[0] if isinstance(head, tuple | list) else head
    if first and f"{first}.weight" in state:
        return state[f"{first}.weight"].shape[0]
    matrices = [value for value in state.values() if value.ndim in (2, 4)]
    return matrices[-1].shape[0] if matrices else 1000


def _load_state(model: nn.Module, state: dict[str, torch.Tensor] | None, where: str) -> None:
    if state is None:
        return
    wanted = model.state_dict()
    missing = sorted(k for k in wanted.keys() - state.keys() if not k.endswith("num_batches_tracked"))
    other = sorted(k for k in state if k not in wanted or state[k].shape != wanted[k].shape)
    if missing or other:
        first, what = (missing[0], "is missing") if missing else (other[0], "does not belong or has another shape")
        raise BadInput(f"{where}: the weights do not fit the model ('{first}' {what}); give those of this network.")
    model.load_state_dict(state, strict=False)


def _names(count: int) -> tuple[str, ...]:
    if count == 1000:
        from torchvision.models import ResNet50_Weights

        return tuple(ResNet50_Weights.DEFAULT.meta["categories"])
    return tuple(f"class {number}" for number in range(count))
