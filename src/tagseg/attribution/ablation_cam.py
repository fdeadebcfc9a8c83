"""Ablation-CAM: Desai and Ramaswamy, "Visual Explanations for Deep Convolutional Network via Gradient-free
Localization", WACV 2020."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tagseg.attribution.ablation import drops
from tagseg.attribution.calling import Score
from tagseg.attribution.capture import check_classes
from tagseg.attribution.fusion import Scaling, fuse
from tagseg.attribution.gap import Recorder
from tagseg.attribution.layers import Layer, Layers
from tagseg.errors import BadInput


class AblationCAM:
    """The method Ablation-CAM (Desai and Ramaswamy, WACV 2020).

    A channel's weight is the part of the class score that is lost when the channel is set to zero (equation 3). The
    method takes one pass through the rest of the network for each channel, which serves all classes.

    Args:
        model, layers, score, scaling, gamma: as for `tagseg.attribution.LayerCAM`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = "last",
        *,
        score: Score | None = None,
        scaling: Scaling = "tanh",
        gamma: float = 2.0,
    ) -> None:
        self.recorder, self.score = Recorder(model, layers, score=score), score
        self.scaling, self.gamma = scaling, gamma
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
        chosen = check_classes(classes, self.recorder(images).scores.detach())
        rows = [self._of_image(images[n : n + 1], numbers) for n, numbers in enumerate(chosen.tolist())]
        return [torch.stack(of_layer) for of_layer in zip(*rows, strict=True)]

    def _of_image(self, image: torch.Tensor, numbers: list[int]) -> list[torch.Tensor]:
        """`(K, h, w)` of every layer."""
        recording = self.recorder(image)
        self._layers = recording.layers
        decisions = [recording.score(0, number) for number in numbers]
        whole = recording.scores[0, numbers].detach().float().abs().clamp_min(1e-12)
        maps = []
        for level in range(len(recording.layers)):
            values = recording.features(level)[0].float()
            nothing = values.new_zeros(len(values))
            leaf = image.to(recording.scores)
            lost = drops(self.recorder.model, recording, leaf, decisions, level, means=nothing, score=self.score)
            maps.append(torch.einsum("kd,dhw->khw", lost / whole[:, None], values).relu())
        return maps
