"""Ablation-CAM: Desai and Ramaswamy, "Visual Explanations for Deep Convolutional Network via Gradient-free
Localization", WACV 2020."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tagseg.attribution.ablation import drops
from tagseg.attribution.calling import Score
from tagseg.attribution.capture import check_classes
from tagseg.attribution.fusion import Fused, Scaling
from tagseg.attribution.gap import Recorder
from tagseg.attribution.gradient import part_of, prepare
from tagseg.attribution.layers import Layer, Layers


class AblationCAM(Fused):
    """The method Ablation-CAM (Desai and Ramaswamy, WACV 2020).

    A channel's weight is the part of the class score that is lost when the channel is set to zero: `(y - y_k) / |y|`.
    The method takes one pass through the rest of the network for each channel, which serves all classes.

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
        super().__init__(scaling, gamma)
        self.recorder, self.score = Recorder(model, layers, score=score), score

    @property
    def layers(self) -> list[Layer]:
        """Returns the layers whose maps are made; they are known after the first call."""
        return self.recorder.layers

    def layer_maps(self, images: torch.Tensor, classes: Any = None) -> list[torch.Tensor]:
        """Returns one `(B, K, h, w)` per layer, unnormalised, float32."""
        images = prepare(self.recorder.model, images)
        rows = [self._of_image(images[n : n + 1], part_of(classes, n, 1, len(images))) for n in range(len(images))]
        return [torch.stack(of_layer) for of_layer in zip(*rows, strict=True)]

    def _of_image(self, image: torch.Tensor, classes: Any) -> list[torch.Tensor]:
        """`(K, h, w)` of every layer."""
        recording = self.recorder(image)
        numbers = check_classes(classes, recording.scores)[0].tolist()
        decisions = [recording.score(0, number) for number in numbers]
        whole = recording.scores[0, numbers].detach().float().abs().clamp_min(1e-12)
        maps = []
        for level in range(len(recording.layers)):
            values = recording.features(level)[0].float()
            nothing = values.new_zeros(len(values))
            lost = drops(self.recorder.model, recording, image, decisions, level, means=nothing, score=self.score)
            maps.append(torch.einsum("kd,dhw->khw", lost / whole[:, None], values).relu())
        return maps
