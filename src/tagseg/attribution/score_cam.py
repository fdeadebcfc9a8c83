"""Score-CAM: Wang et al., "Score-CAM: Score-Weighted Visual Explanations for CNNs", CVPR Workshops 2020."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.attribution.capture import Score, check_classes, hooked, read_scores, scores_of, undisturbed
from tagseg.attribution.fusion import Scaling, fuse
from tagseg.attribution.gradient import prepare
from tagseg.attribution.layers import Layer, Layers, find_layers, unwrap
from tagseg.errors import BadInput


class ScoreCAM:
    """The method Score-CAM (Wang et al., CVPR Workshops 2020).

    A channel's weight is the score of the class when the image shows through that channel alone (section 3). The method
    takes one forward pass per channel, which serves all classes, and no gradient. The weights are the softmax over the
    channels of a layer (algorithm 1).

    Args:
        model, layers, score, scaling, gamma: as for `tagseg.attribution.LayerCAM`.
        batch: masked images per forward pass.
        compat: `"paper"` resizes channels with corners not aligned, as all maps here; `"official"`, the public
            package, aligns them.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = "last",
        *,
        compat: Literal["paper", "official"] = "paper",
        score: Score | None = None,
        scaling: Scaling = "tanh",
        gamma: float = 2.0,
        batch: int = 32,
    ) -> None:
        self.model, self.wanted, self.score = unwrap(model), layers, score
        self.scaling, self.gamma = scaling, gamma
        self.batch, self.align_corners = batch, compat == "official"
        self._layers: list[Layer] | None = None

    @property
    def layers(self) -> list[Layer]:
        """Returns the layers whose maps are made; they are known after the first call."""
        if self._layers is None:
            raise BadInput("the layers are known once the maps of a first image have been asked for.")
        return list(self._layers)

    def __call__(self, images: torch.Tensor, classes: Any = None) -> torch.Tensor:
        """Returns class maps `(B, K, H, W)` in [0, 1]."""
        size = (images.shape[2], images.shape[3])
        return fuse(self.layer_maps(images, classes), size, scaling=self.scaling, gamma=self.gamma)

    def layer_maps(self, images: torch.Tensor, classes: Any = None) -> list[torch.Tensor]:
        """Returns one `(B, K, h, w)` per layer, unnormalised, float32."""
        images = prepare(self.model, images)
        size = (images.shape[2], images.shape[3])
        with undisturbed(self.model), torch.no_grad():
            if self._layers is None:
                self._layers = find_layers(self.model, self.wanted, images[:1], scores_of(self.score))
            kept: list[torch.Tensor] = [images] * len(self._layers)

            def keep(number: int, output: torch.Tensor) -> torch.Tensor:
                kept[number] = output.clone()
                return output

            with hooked(self._layers, keep):
                scores = read_scores(self.model(images), self.score, len(images))
            chosen = check_classes(classes, scores)
            maps = []
            for layer, activation in zip(self._layers, kept, strict=True):
                grids = layer.grid(activation, size)
                maps.append(torch.stack([self._of_image(*each) for each in zip(images, grids, chosen, strict=True)]))
        return maps

    def _of_image(self, image: torch.Tensor, channels: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """`(3, H, W)`, `(D, h, w)`, `(K,)` -> `(K, h, w)`."""
        scores = []
        for some in channels.split(self.batch):
            masks = F.interpolate(
                some[:, None], size=image.shape[1:], mode="bilinear", align_corners=self.align_corners
            )
            masks = masks - masks.amin(dim=(2, 3), keepdim=True)
            masks = masks / masks.amax(dim=(2, 3), keepdim=True).clamp_min(1e-8)
            scores.append(read_scores(self.model(image * masks), self.score, len(some))[:, classes])
        weights = torch.cat(scores).float().softmax(dim=0)  # (D, K)
        return torch.einsum("dk,dhw->khw", weights, channels.float()).relu()
