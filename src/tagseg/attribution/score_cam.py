"""Score-CAM: Wang et al., "Score-CAM: Score-Weighted Visual Explanations for CNNs", CVPR Workshops 2020."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.attribution.calling import Caller, Inputs, Score
from tagseg.attribution.capture import check_classes, hooked
from tagseg.attribution.fusion import Fused, Scaling
from tagseg.attribution.gradient import prepare
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import Layer, Layers, find_layers, known, unwrap
from tagseg.errors import BadInput


class ScoreCAM(Fused):
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
        super().__init__(scaling, gamma)
        self.model, self.wanted, self.score = unwrap(model), layers, score
        self.batch, self.align_corners = batch, compat == "official"
        self._layers: list[Layer] | None = None

    @property
    def layers(self) -> list[Layer]:
        """Returns the layers whose maps are made; they are known after the first call."""
        return known(self._layers)

    def layer_maps(
        self, images: torch.Tensor, classes: Any = None, *, inputs: Inputs | None = None
    ) -> list[torch.Tensor]:
        """Returns one `(B, K, h, w)` per layer, unnormalised, float32."""
        caller = Caller(self.model, self.score, inputs, images)
        images = prepare(self.model, images)
        size = (images.shape[2], images.shape[3])
        with undisturbed(self.model), torch.no_grad():
            if self._layers is None:
                self._layers = find_layers(self.model, self.wanted, images, caller)
            kept: list[torch.Tensor] = [images] * len(self._layers)

            def keep(number: int, output: torch.Tensor) -> torch.Tensor:
                kept[number] = output.clone()
                return output

            with hooked(self._layers, keep):
                scores = caller.scores(caller(images), len(images))
            chosen = check_classes(classes, scores)
            maps = []
            for layer, activation in zip(self._layers, kept, strict=True):
                grids = layer.grid(activation, size)
                rows = enumerate(zip(images, grids, chosen, strict=True))
                maps.append(torch.stack([self._of_image(caller, row, *each) for row, each in rows]))
        return maps

    def _of_image(
        self, caller: Caller, row: int, image: torch.Tensor, channels: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        """`(3, H, W)`, `(D, h, w)`, `(K,)` -> `(K, h, w)`."""
        scores = []
        for some in channels.split(self.batch):
            masks = F.interpolate(
                some[:, None].float(), size=image.shape[1:], mode="bilinear", align_corners=self.align_corners
            )
            masks = masks - masks.amin(dim=(2, 3), keepdim=True)
            masks = masks / masks.amax(dim=(2, 3), keepdim=True).clamp_min(1e-8)
            rows = torch.full((len(some),), row)
            output = caller((image * masks).to(image.dtype), rows)
            scores.append(caller.scores(output, len(some), rows)[:, classes].float())
        every = torch.cat(scores)
        if not bool(every.isfinite().all()):
            raise BadInput("scores of masked images are not numbers (NaN or infinity); look at the network's weights.")
        weights = every.softmax(dim=0)  # (D, K)
        return torch.einsum("dk,dhw->khw", weights, channels.float()).relu()
