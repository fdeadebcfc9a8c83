"""CAM: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, for any network that fits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tagseg.attribution.calling import Caller, Inputs, Score
from tagseg.attribution.capture import check_classes, hooked
from tagseg.attribution.fusion import fuse
from tagseg.attribution.gradient import prepare
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import Layer, find_layers, unwrap
from tagseg.errors import BadInput

TOLERANCE = 1e-3  # of the largest score; a network of another form is off by far more


class CAM:
    """Class maps of a network that ends in features, global average pooling and a linear layer.

    A network that ends in a class convolution and global average pooling will do as well. No gradients are needed:
    channel k counts with the weight that the class gives it (equation 2). That the network has this form is not assumed
    but checked: the means of the maps must be the network's own scores.

    Args:
        model: the classifier, `(B, 3, H, W) -> (B, C)`.
        score: from what it returns to `(B, C)`.

    Raises:
        BadInput: on the call, when the network does not have this form.
    """

    def __init__(self, model: nn.Module, *, score: Score | None = None) -> None:
        self.model, self.score = unwrap(model), score
        self._layer: Layer | None = None

    def layer_maps(
        self, images: torch.Tensor, classes: Any = None, *, inputs: Inputs | None = None
    ) -> list[torch.Tensor]:
        """Returns the class maps in a list of one: `[(B, K, h, w)]`, signed, unnormalised, float32.

        `inputs` is all that the model is called with, the images among them; None for the images alone.
        """
        return [self.with_scores(images, classes, inputs=inputs)[1]]

    def __call__(self, images: torch.Tensor, classes: Any = None, *, inputs: Inputs | None = None) -> torch.Tensor:
        """Returns class maps `(B, K, H, W)` in [0, 1]; `inputs` is as for `layer_maps`."""
        return fuse(self.layer_maps(images, classes, inputs=inputs), (images.shape[2], images.shape[3]))

    def with_scores(
        self, images: torch.Tensor, classes: Any = None, *, inputs: Inputs | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the scores `(B, C)` and the maps that `layer_maps` holds, from one forward pass."""
        caller = Caller(self.model, self.score, inputs, images if inputs is not None else None)
        images = prepare(self.model, images)
        linear: dict[str, Any] = {}
        last: list[torch.Tensor] = []

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            linear.update(module=module, input=inputs[0], output=output)

        def keep(_: int, output: torch.Tensor) -> torch.Tensor:
            last[:] = [output]
            return output

        with undisturbed(self.model), torch.no_grad():
            if self._layer is None:
                self._layer = find_layers(self.model, "last", images, caller)[0]
            handles = [
                m.register_forward_hook(note) for m in self.model.modules() if isinstance(m, nn.Linear | nn.Conv2d)
            ]
            try:
                with hooked([self._layer], keep):
                    output = caller(images)
            finally:
                for handle in handles:
                    handle.remove()
            scores = caller.scores(output, len(images))
            chosen = check_classes(classes, scores)
            features = self._layer.grid(last[0], (images.shape[2], images.shape[3]))
            return scores, self._class_maps(linear, features, scores, chosen)

    def _class_maps(
        self, linear: dict[str, Any], features: torch.Tensor, scores: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        if isinstance(linear.get("module"), nn.Conv2d):
            maps = linear["output"]
            if maps.shape[1] == scores.shape[1] and _same(maps.mean(dim=(2, 3)), scores):
                return torch.stack([m[c] for m, c in zip(maps, chosen, strict=True)]).float()
        elif "module" in linear and linear["output"].shape == scores.shape and _same(linear["output"], scores):
            for candidate in (features, features.relu()):  # some networks rectify as a function, not a module
                pooled = candidate.mean(dim=(2, 3))
                if pooled.shape == linear["input"].shape and _same(pooled, linear["input"]):
                    weight = linear["module"].weight[chosen]  # (B, K, D)
                    return torch.einsum("bkd,bdhw->bkhw", weight.float(), candidate.float())
        raise BadInput(
            "CAM needs a network that ends in convolution, global average pooling and one linear layer (or a class "
            "convolution and pooling); this one does not: use gradcam or layercam."
        )


def _same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    tolerance = TOLERANCE if expected.dtype == torch.float32 else 0.03
    return bool((actual - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-6))
