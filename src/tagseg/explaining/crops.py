"""Maps of ten crops: those of the four corners and the centre, and of their mirror images, added where they came from.

So the published localisation script of LayerCAM sees a photograph: crops of 224 pixels from 256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tagseg.attribution.crops import paste_crops
from tagseg.attribution.fusion import resize
from tagseg.explaining.explainer import Explainer, MethodMaps

SHARE = 224 / 256  # side of a crop over that of the photograph


class TenCrops:
    """What makes maps of photographs by ten crops of each, a crop being as large as the classifier wants its images.

    Args:
        explainer: makes the maps of a crop.
    """

    def __init__(self, explainer: Explainer) -> None:
        self.explainer, self.side = explainer, explainer.classifier.side
        self.classifier = replace(explainer.classifier, side=round(self.side / SHARE))

    def __call__(
        self, images: torch.Tensor, classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, MethodMaps]]]:
        """Returns the mean scores of the crops, the classes, and for every image by method the sums of their maps.

        Args:
            images: `(B, 3, S, S)`, of the side that `classifier` wants.
            classes: `(B, K)`.

        Returns:
            `(B, C)`, `(B, K)`, and maps `(K, S, S)`, unnormalised, by method and layer.
        """
        scores: list[torch.Tensor] = []
        layers: dict[str, tuple[str, ...]] = {}

        def maps(crops: torch.Tensor, _: Any) -> torch.Tensor:
            """The maps of all methods and layers, one behind the other: `(B, N K, side, side)`."""
            found = self.explainer(crops, classes)
            scores.append(found[0])
            layers.update({method: each.layers for method, each in found[2][0].items()})
            size = (self.side, self.side)
            return torch.stack([torch.cat([_grown(m, size) for m in _all(own)]) for own in found[2]])

        total = paste_crops(maps, images, classes, self.side)
        count, names = classes.shape[1], [(method, n) for method in layers for n in range(len(layers[method]))]
        found = []
        for of_image in total:
            parts = dict(zip(names, of_image.split(count), strict=True))
            own = {m: MethodMaps(layers[m], [parts[m, n] for n in range(len(layers[m]))]) for m in layers}
            found.append(own)
        return torch.stack(scores).mean(dim=0), classes, found

    def fused(self, photo: np.ndarray, classes: Sequence[int], method: str) -> np.ndarray:
        """Returns the maps of one photograph `(H, W, 3)` by one method, all layers fused: `(K, H, W)` in [0, 1]."""
        images = self.classifier.images([photo])
        _, _, found = self(images, torch.tensor([list(classes)], device=images.device))
        return found[0][method].fused(photo.shape[:2])


def _all(maps: dict[str, MethodMaps]) -> list[torch.Tensor]:
    return [layer for of_method in maps.values() for layer in of_method.maps]


def _grown(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return resize(maps[None].float(), size)[0]
