"""Several attributions of one classifier at once, over the photographs of a command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tagseg.attribution import (
    CAM,
    AblationCAM,
    AttentionRollout,
    ContrastiveExcitation,
    GradientMaps,
    GuidedBackprop,
    ScoreCAM,
    fuse,
)
from tagseg.attribution.formulas import FORMULAS
from tagseg.cores import prefetch
from tagseg.data.images import read_image
from tagseg.errors import BadInput
from tagseg.explaining.classifiers import Classifier
from tagseg.explaining.table import check_attributions
from tagseg.masks.proxy import spread_scores
from tagseg.masks.rescaling import on_cells
from tagseg.methods.tag_classifier import TagClassifier
from tagseg.networks.settings import EncoderSettings
from tagseg.segmentation.encoder import deepest, load_encoder


@dataclass(frozen=True)
class MethodMaps:
    """The maps of one photograph by one method: layer names, and `(K, h, w)` unnormalised per layer."""

    layers: tuple[str, ...]
    maps: list[torch.Tensor]

    def fused(self, size: tuple[int, int]) -> np.ndarray:
        """Returns the maps of all layers fused, `(K, H, W)` in [0, 1]."""
        return fuse([m[None] for m in self.maps], size)[0].cpu().numpy()

    def single(self, number: int, size: tuple[int, int]) -> np.ndarray:
        """Returns the maps of one layer, `(K, H, W)` in [0, 1]."""
        return fuse([self.maps[number][None]], size)[0].cpu().numpy()


class Explainer:
    """An attribution by several methods over one classifier.

    Those that use gradients share one forward and backward pass.

    Args:
        classifier: see `load_classifier`.
        methods: names of `tagseg.explaining.table.ATTRIBUTIONS`.
        layers: see `tagseg.attribution.layers.find_layers`.
    """

    def __init__(self, classifier: Classifier, methods: Sequence[str], layers: Any) -> None:
        check_attributions(methods)
        self.classifier, self.methods = classifier, tuple(dict.fromkeys(methods))
        model = classifier.model
        gradient = {name: FORMULAS[name] for name in self.methods if name in FORMULAS}
        self.gradient = GradientMaps(model, layers, gradient or {"layercam": FORMULAS["layercam"]})
        self.needs_gradient = bool(gradient)
        self.others: dict[str, Any] = {}
        if "cam" in self.methods:
            self.others["cam"] = CAM(model)
        if "own" in self.methods:
            self.others["own"] = OwnMaps(model)
        if "scorecam" in self.methods:
            self.others["scorecam"] = ScoreCAM(model, layers)
        if "ablationcam" in self.methods:
            self.others["ablationcam"] = AblationCAM(model, layers)
        if "cmwp" in self.methods:
            self.others["cmwp"] = ContrastiveExcitation(model, layers)
        if "rollout" in self.methods:
            self.others["rollout"] = AttentionRollout(model)
        if "guided-backprop" in self.methods:
            self.others["guided-backprop"] = GuidedBackprop(model)

    def __call__(
        self, images: torch.Tensor, classes: Any
    ) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, MethodMaps]]]:
        """Returns scores `(B, C)`, class numbers `(B, K)`, and for every image the maps by method.

        Args:
            images: `(B, 3, H, W)`.
            classes: `(B, K)`, or a function from the scores to them.
        """
        if self.needs_gradient:
            scores, found = self.gradient.with_scores(images, classes)
            layers = tuple(layer.name for layer in self.gradient.layers)
        else:
            with torch.no_grad():
                scores = self.classifier.model(images)
            found, layers = {}, ()
        chosen = classes(scores) if callable(classes) else torch.as_tensor(classes, device=scores.device)
        names = dict.fromkeys(found, layers)
        for method, attribution in self.others.items():
            if method == "guided-backprop":
                found[method], names[method] = [attribution(images, chosen)], ("pixels",)
            else:
                found[method] = attribution.layer_maps(images, chosen)
                named = {"rollout": ("all layers",), "cam": ("class maps",), "own": ("class maps",)}
                names[method] = named.get(method) or tuple(layer.name for layer in attribution.layers)
        per_image = [
            {m: MethodMaps(names[m], [maps[i] for maps in found[m]]) for m in self.methods} for i in range(len(images))
        ]
        return scores.detach(), chosen, per_image


class OwnMaps:
    """The class maps that the method of a run gives, as the run itself uses them.

    Raises:
        BadInput: the classifier is not that of a run.
    """

    def __init__(self, model: Any) -> None:
        if not isinstance(model, TagClassifier):
            raise BadInput("method 'own' needs the folder of a run; of other networks use cam or layercam.")
        self.model = model

    @torch.no_grad()
    def layer_maps(self, images: torch.Tensor, classes: torch.Tensor) -> list[torch.Tensor]:
        """Returns the class maps in a list of one: `[(B, K, h, w)]`, signed, unnormalised."""
        maps = self.model.class_maps(images).float()
        if (self.model.where or self.model.method).from_minimum:
            maps = maps.relu()
            maps = maps - maps.amin(dim=(2, 3), keepdim=True)
        return [torch.stack([m[c] for m, c in zip(maps, classes, strict=True)])]


@dataclass(frozen=True)
class Shown:
    """One photograph with the classes looked at, their probabilities, and the maps by method."""

    name: str
    photo: np.ndarray
    classes: list[int]
    probabilities: list[float]
    maps: dict[str, MethodMaps]


def spread_maps(photo: np.ndarray, maps: MethodMaps, encoder: EncoderSettings) -> MethodMaps:
    """Returns maps that have been spread between the parts of a photograph that look alike to a frozen transformer.

    What is negative is evidence against a class, and left out. The maps lie on the transformer's cells then.
    """
    features = deepest(load_encoder(encoder)(photo))
    spread = [spread_scores(features, on_cells(m.relu().float().cpu().numpy(), features.shape[1:])) for m in maps.maps]
    return MethodMaps(maps.layers, [torch.from_numpy(m) for m in spread])


def explained(
    explainer: Explainer,
    found: dict[str, Path],
    classes: Sequence[str] | None,
    top: int,
    encoder: EncoderSettings | None = None,
) -> Iterator[Shown]:
    """Yields the photographs in order, with the maps of the named classes or of the `top` highest scores.

    With an `encoder`, maps are spread along its features (see `tagseg.masks.proxy`).
    """
    classifier = explainer.classifier
    if top < 1:
        raise BadInput(f"top {top}: give at least 1.")
    numbers = classifier.numbers(classes) if classes else None
    count = min(top, len(classifier.classes))

    def pick(scores: torch.Tensor) -> torch.Tensor:
        if numbers is not None:
            return torch.tensor([numbers] * len(scores), device=scores.device)
        return scores.topk(count, dim=1).indices

    for name, photo in prefetch(lambda item: (item[0], read_image(item[1])), found.items()):
        scores, chosen, maps = explainer(classifier.images([photo]), pick)
        probabilities = classifier.probabilities(scores)[0, chosen[0]].tolist()
        shown = maps[0]
        if encoder is not None:
            shown = {method: spread_maps(photo, of_method, encoder) for method, of_method in shown.items()}
        yield Shown(name, photo, chosen[0].tolist(), probabilities, shown)
