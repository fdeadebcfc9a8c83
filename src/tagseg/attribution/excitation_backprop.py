"""Excitation Backprop: Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018 (ECCV 2016).

A class sends a winner down through the network: at every neuron it moves on to one of the inputs, with a probability in
proportion to what that input adds to the neuron's excitation, by positive weights only. The contrastive map (cMWP) is
how much likelier it passes a place than a winner that is sent down by the negated weights of the class.

Probabilities are computed as gradients are: wherever a layer is linear, the network is given the gradient of its
excitatory part, scaled so that gradient times activation is the probability. So one forward and one backward pass do.

Inputs of linear layers may be negative here, as behind the linear bottlenecks of MobileNets: an input adds what is
positive of its product with the weight. For inputs behind ReLUs, as in the paper, that is the paper's rule. A batch
normalisation behind a convolution is taken as part of it; what has one input and one output hands its probability on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tagseg.attribution.calling import Caller, Score
from tagseg.attribution.capture import check_classes, hooked
from tagseg.attribution.fusion import Fused, Scaling
from tagseg.attribution.gradient import prepare
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import Layer, Layers, find_layers, known, unwrap
from tagseg.errors import BadInput

_LINEAR = frozenset((F.linear, torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d))
_EACH = frozenset(  # one input, one output: the probability goes on as it is
    (
        F.gelu, F.silu, F.leaky_relu, F.elu, F.selu, F.celu, F.prelu, F.mish, F.hardswish, F.softplus, F.relu6,
        F.hardtanh, F.layer_norm, F.group_norm, F.instance_norm, torch.layer_norm, torch.group_norm,
    )
)  # fmt: skip
_NORMS = frozenset((F.batch_norm, torch.batch_norm))
_PRODUCTS = frozenset((torch.mul, torch.Tensor.mul, torch.Tensor.__mul__))
_ATTENTION = frozenset((F.scaled_dot_product_attention, F.multi_head_attention_forward))


class ContrastiveExcitation(Fused):
    """The method cMWP, contrastive excitation backpropagation (Zhang et al., IJCV 2018, section 3.3).

    It takes a forward pass that finds the last layer, and then twice a forward pass, and a backward pass a class. A
    convolution whose own output is asked for beside other layers takes passes of its own.

    Args:
        model: a convolutional classifier that ends in a linear layer or class convolution.
        layers, score, scaling, gamma: as for `tagseg.attribution.LayerCAM`.
        contrastive: False is the plain map (MWP), without what the negated weights find.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = "last",
        *,
        contrastive: bool = True,
        score: Score | None = None,
        scaling: Scaling = "tanh",
        gamma: float = 2.0,
    ) -> None:
        super().__init__(scaling, gamma)
        self.model, self.wanted, self.score, self.contrastive = unwrap(model), layers, score, contrastive
        self._layers: list[Layer] | None = None
        self._last = 0

    @property
    def layers(self) -> list[Layer]:
        """Returns the layers whose maps are made; they are known after the first call."""
        return known(self._layers)

    def layer_maps(self, images: torch.Tensor, classes: Any = None) -> list[torch.Tensor]:
        """Returns one `(B, K, h, w)` per layer, float32: differences of probabilities, rectified.

        Raises:
            BadInput: the network is a transformer, or has no linear layer.
        """
        return self.with_scores(images, classes)[1]

    def with_scores(self, images: torch.Tensor, classes: Any = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the scores `(B, C)` of the images, and the maps of every layer as `layer_maps` does."""
        caller = Caller(self.model, self.score)
        images = prepare(self.model, images)
        with undisturbed(self.model):
            if self._layers is None:
                self._layers = find_layers(self.model, self.wanted, images, caller)
                self._last = last_layer(caller, images)
            with torch.no_grad():
                scores = caller.scores(caller(images), len(images))
                chosen = check_classes(classes, scores)
            found = [torch.zeros(0)] * len(self._layers)
            for together in self._passes(caller, images):
                layers = [self._layers[number] for number in together]
                maps = self._winners(caller, images, chosen, layers, 1.0)
                if self.contrastive:
                    against = self._winners(caller, images, chosen, layers, -1.0)
                    maps = [a - b for a, b in zip(maps, against, strict=True)]
                for number, of_layer in zip(together, maps, strict=True):
                    found[number] = of_layer.relu()
        return scores, found

    def _passes(self, caller: Caller, images: torch.Tensor) -> list[list[int]]:
        """Which layers go together in a pass: all, but a convolution goes alone.

        A normalisation behind it is taken as part of it, but not where its own output is looked at.
        """
        assert self._layers is not None
        if len(self._layers) == 1:
            return [[0]]
        alone: set[int] = set()

        def look(number: int, output: torch.Tensor) -> torch.Tensor:
            if hasattr(output, "excited"):
                alone.add(number)
            return output

        with torch.no_grad(), Excitation(self._last), hooked(self._layers, look):
            caller(images[:1])
        others = [number for number in range(len(self._layers)) if number not in alone]
        return [*([others] if others else []), *([number] for number in sorted(alone))]

    def _winners(
        self,
        caller: Caller,
        images: torch.Tensor,
        chosen: torch.Tensor,
        layers: list[Layer],
        sign: float,
    ) -> list[torch.Tensor]:
        """Where the winners pass that the classes send down: `(B, K, h, w)` of every layer.

        Behind ReLUs they add up to 1, less what biases alone excite.
        """
        kept: list[torch.Tensor] = [images] * len(layers)

        def keep(number: int, output: torch.Tensor) -> torch.Tensor:
            # a copy, for the network may write over it; and the root of its gradient
            kept[number] = output.clone()
            return kept[number]

        size = (images.shape[2], images.shape[3])
        with torch.enable_grad(), Excitation(self._last, sign), hooked(layers, keep):
            scores = caller.scores(caller(images.clone().requires_grad_()), len(images))
        picked = scores.gather(1, chosen)
        maps: list[list[torch.Tensor]] = [[] for _ in layers]
        count = chosen.shape[1]
        for k in range(count):
            # every class sends one winner: its own excitation is divided by itself
            start = torch.where(picked[:, k] > 0, 1 / picked[:, k].clamp(min=1e-30), 0.0)
            gradients = torch.autograd.grad(
                picked[:, k], kept, start, retain_graph=k + 1 < count, allow_unused=True, materialize_grads=True
            )
            for level, (layer, gradient) in enumerate(zip(layers, gradients, strict=True)):
                passed = (gradient * kept[level]).detach().float()
                maps[level].append(layer.grid(passed, size).sum(dim=1))
        return [torch.stack(of_layer, dim=1) for of_layer in maps]


def last_layer(caller: Caller, images: torch.Tensor) -> int:
    """Returns which call of a linear layer, from 1, is the last on the way to the scores.

    A network may call others after it, as a second head whose scores are not asked for.

    Raises:
        BadInput: the network is a transformer, or has no linear layer.
    """
    with torch.enable_grad(), Excitation() as counted:
        scores = caller.scores(caller(images.clone().requires_grad_()), len(images))
    # what is called aside learns nothing of the scores, or is cut off them
    calls = {number: output for number, output in enumerate(counted.outputs, 1) if output.requires_grad}
    if counted.attends or not calls:
        raise BadInput("excitation backpropagation needs a convolutional network; use layercam for this one.")
    weights = torch.linspace(1, 2, scores.numel(), device=scores.device, dtype=scores.dtype).reshape(scores.shape)
    gradients = torch.autograd.grad((scores * weights).sum(), list(calls.values()), allow_unused=True)
    asked = [n for n, found in zip(calls, gradients, strict=True) if found is not None and bool(found.any())]
    return max(asked, default=max(calls))


class Excitation(TorchFunctionMode):
    """A context in which gradient times activation is the probability that a winner passes.

    Values of the network stay as they are, but for those of its last linear layer, which are their excitatory part.

    Args:
        last: the number of the call of that layer, from 1; None: there is none, outputs are only kept.
        sign: of its weights.

    Attributes:
        calls: how many linear layers were called.
        outputs: what they gave, if there is no last one.
        attends: whether something attended, as in a transformer.
    """

    def __init__(self, last: int | None = None, sign: float = 1.0) -> None:
        super().__init__()
        self.last, self.sign, self.calls, self.attends = last, sign, 0, False
        self.outputs: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _PRODUCTS and len(args) == 2 and all(isinstance(a, torch.Tensor) for a in args):
            # a gate is no path of its own: it scales what passes
            first, second = args if args[0].numel() >= args[1].numel() else args[::-1]
            return func(first, second.detach())
        each = self.last is not None and func in _EACH and isinstance(args[0], torch.Tensor)
        before: Any = args[0] if args else None
        if each:  # some write over their input
            args = (args[0].clone(), *args[1:])
        result = func(*args, **named)
        self.attends |= func in _ATTENTION
        if func in _LINEAR:
            self.calls += 1
            if self.last is not None:
                return self._linear(func, result, args, named)
            self.outputs.append(result)
        elif self.last is not None and func in _NORMS:
            return _normed(result, args, named)
        elif each:
            return _handed_on(result, before)
        return result

    def _linear(self, func: Callable[..., Any], result: torch.Tensor, args: tuple, named: dict[str, Any]) -> Any:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | named
        inputs, weight, rest = given["input"], given["weight"].detach(), args[3:]
        more = {key: value for key, value in named.items() if key not in ("input", "weight", "bias")}

        def call(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return func(x, w, None, *rest, **more)

        if self.calls == self.last:
            return _excited(call, inputs, self.sign * weight)
        out = _scaled(result, _excited(call, inputs, weight))
        out.excited = (call, inputs, weight)  # type: ignore[attr-defined]
        return out


def _excited(call: Callable[..., torch.Tensor], inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What of a linear layer's output is excitation: the sum of the positive products of inputs and weights."""
    total = call(inputs.relu(), weight.clamp(min=0))
    if bool((inputs.detach() < 0).any()):
        total = total + call(-(-inputs).relu(), weight.clamp(max=0))
    return total


def _scaled(value: torch.Tensor, excited: torch.Tensor) -> torch.Tensor:
    """`value`, with the gradient of `excited` times what it takes that gradient times activation stays the same."""
    still = excited.detach()
    ratio = torch.where(still > 0, value.detach() / still.clamp(min=1e-30), 0.0)
    return value.detach() + (excited - still) * ratio


def _handed_on(value: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """`value`, with such a gradient that gradient times activation is the same of the input."""
    still = inputs.detach()
    ratio = torch.where(still == 0, 0.0, value.detach() / torch.where(still == 0, 1.0, still))
    return value.detach() + (inputs - still) * ratio


def _normed(result: torch.Tensor, args: tuple, named: dict[str, Any]) -> torch.Tensor:
    """A batch normalisation as part of the convolution before it; elsewhere it hands on."""
    keys = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(keys, args, strict=False)) | named
    inputs = given["input"]
    before = getattr(inputs, "excited", None)
    if before is None or given.get("running_var") is None:
        return _handed_on(result, inputs)
    call, source, weight = before
    factor = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
    if given.get("weight") is not None:
        factor = factor * given["weight"].detach()
    folded = weight * factor.to(weight.dtype).view(-1, *([1] * (weight.ndim - 1)))
    return _scaled(result, _excited(call, source, folded))
