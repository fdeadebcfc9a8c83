"""Guided Backpropagation: Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR-W 2015."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tagseg.attribution.calling import Caller, Score
from tagseg.attribution.capture import check_classes
from tagseg.attribution.fusion import normalise
from tagseg.attribution.gradient import prepare
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import unwrap
from tagseg.errors import BadInput

_T = torch.Tensor
_RELUS = frozenset((F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, _T.relu, _T.relu_))
_CLAMPS = frozenset((torch.clamp, torch.clamp_, torch.clip, torch.clip_, _T.clamp, _T.clamp_, _T.clip, _T.clip_))
_CLAMPS_BELOW = frozenset((torch.clamp_min, torch.clamp_min_, _T.clamp_min, _T.clamp_min_))
_MAXIMA = frozenset((torch.maximum, _T.maximum, torch.max, _T.max, torch.fmax, _T.fmax))
_THRESHOLDS = frozenset((F.threshold, torch.threshold, torch.threshold_))
_OTHERS = {  # activations that are no rectifiers: what lets some of a negative value through has its plain gradient
    function: function.__name__
    for function in (
        F.gelu, F.silu, F.leaky_relu, F.leaky_relu_, F.elu, F.elu_, F.selu, F.celu, F.prelu, F.rrelu, F.mish,
        F.hardswish, F.softplus, F.logsigmoid,
    )
}  # fmt: skip


class GuidedBackprop:
    """The gradient of a class score with respect to the pixels, where every ReLU lets positive gradients pass only.

    ReLUs are met as they are called, so functional ones count as well, and a clamp, threshold or maximum at zero. What
    else was met and left alone (GELU and the like) is in `left_alone` after a call.

    Args:
        model, score: as for `tagseg.attribution.LayerCAM`.
    """

    def __init__(self, model: nn.Module, *, score: Score | None = None) -> None:
        self.model, self.score = unwrap(model), score
        self.left_alone: tuple[str, ...] = ()

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
                caller = Caller(self.model, self.score)
                scores = caller.scores(caller(leaf), len(images))
            self.left_alone = tuple(sorted(guide.others))
            if not guide.met:
                has = f"none, but {', '.join(self.left_alone)}" if self.left_alone else "none"
                raise BadInput(f"guided backpropagation needs a network with ReLUs; this one has {has}.")
            if not scores.requires_grad:
                raise BadInput("the class scores have no gradient (a quantised network?); use scorecam.")
            chosen = check_classes(classes, scores)
            picked = scores.gather(1, chosen)
            last = chosen.shape[1] - 1
            found = [
                torch.autograd.grad(picked[:, k].sum(), leaf, retain_graph=k < last, allow_unused=True)[0]
                for k in range(last + 1)
            ]
            if any(gradient is None for gradient in found):
                raise BadInput("the class scores have no gradient at the pixels (a quantised network?); use scorecam.")
            gradients = [gradient.float() for gradient in found]
        return torch.stack(gradients, dim=1)


class Guide(TorchFunctionMode):
    """A context in which every ReLU that is called lets positive gradients pass only.

    `met` counts these ReLUs, `others` names what was met and left alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = 0
        self.others: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _OTHERS:
            self.others.add(_OTHERS[func])
        if isinstance(result, torch.Tensor) and result.requires_grad and _rectifies(func, args, kwargs or {}):
            self.met += 1
            result.register_hook(lambda gradient: None if gradient is None else gradient.clamp_min(0))
        return result


def _rectifies(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a call lets nothing below zero through, and what is a little above zero as it is."""

    def given(place: int, name: str, default: Any = None) -> Any:
        return args[place] if len(args) > place else kwargs.get(name, default)

    if func in _RELUS:
        return True
    if func is F.hardtanh:
        return _is_zero(given(1, "min_val", -1.0)) and not _is_zero(given(2, "max_val", 1.0))
    if func in _CLAMPS:
        return _is_zero(given(1, "min")) and not _is_zero(given(2, "max"))
    if func in _CLAMPS_BELOW:
        return _is_zero(given(1, "min"))
    if func in _THRESHOLDS:
        return _is_zero(given(1, "threshold")) and _is_zero(given(2, "value"))
    if func in _MAXIMA:
        return _is_zero(given(1, "other")) and isinstance(given(1, "other"), torch.Tensor)
    return False


def _is_zero(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.requires_grad and not bool(value.any())
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0
