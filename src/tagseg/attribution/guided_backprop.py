"""Guided Backpropagation: Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR-W 2015."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tagseg.attribution.capture import Score, check_classes, read_scores, undisturbed
from tagseg.attribution.fusion import normalise
from tagseg.attribution.gradient import prepare
from tagseg.attribution.layers import unwrap
from tagseg.errors import BadInput

_RECTIFIERS = frozenset(
    (F.relu, F.relu_, F.relu6, F.hardtanh, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_)
)


class GuidedBackprop:
    """The gradient of a class score with respect to the pixels, where every ReLU lets positive gradients pass only.

    ReLUs are met as they are called, so functional ones count as well.

    Args:
        model, score: as for `tagseg.attribution.LayerCAM`.
    """

    def __init__(self, model: nn.Module, *, score: Score | None = None) -> None:
        self.model, self.score = unwrap(model), score

    def __call__(self, images: torch.Tensor, classes: Any = None) -> torch.Tensor:
        """Returns the largest magnitude of the three colours, by the map's maximum: `(B, K, H, W)` in [0, 1]."""
        return normalise(self.gradients(images, classes).abs().amax(dim=2))

    def gradients(self, images: torch.Tensor, classes: Any = None) -> torch.Tensor:
        """Returns the guided gradients of class scores at the pixels: signed `(B, K, 3, H, W)`, float32.

        Raises:
            BadInput: the network has no ReLU that could be guided.
        """
        images = prepare(self.model, images)
        with undisturbed(self.model):
            leaf = images.clone().requires_grad_()
            guide = Guide()
            with guide:
                scores = read_scores(self.model(leaf), self.score, len(images))
            if not guide.met:
                raise BadInput("guided backpropagation needs a network with ReLUs; this one has none.")
            chosen = check_classes(classes, scores)
            picked = scores.gather(1, chosen)
            last = chosen.shape[1] - 1
            gradients = [
                torch.autograd.grad(picked[:, k].sum(), leaf, retain_graph=k < last)[0].float() for k in range(last + 1)
            ]
        return torch.stack(gradients, dim=1)


class Guide(TorchFunctionMode):
    """A context in which every ReLU that is called lets positive gradients pass only; `met` counts these ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.met = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _RECTIFIERS and result.requires_grad and _lowest(func, args, kwargs or {}) == 0:
            self.met += 1
            result.register_hook(lambda gradient: gradient.clamp_min(0))
        return result


def _lowest(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> float:
    """What a rectifier never goes below; a hardtanh rectifies when that is zero, as in ReLU6."""
    if func is not F.hardtanh:
        return 0.0
    return float(args[1] if len(args) > 1 else kwargs.get("min_val", -1.0))
