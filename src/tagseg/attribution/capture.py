"""One forward pass, and backward passes that stop at the activations, for any network.

The network is left as it was found: modes, hooks, gradients and flags, also after an exception.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tagseg.attribution.calling import Caller
from tagseg.attribution.formulas import Formula
from tagseg.attribution.layers import Layer
from tagseg.attribution.winograd import FastConvolutions
from tagseg.errors import BadInput


@dataclass(slots=True)
class Pass:
    """The results of a forward pass, ready for backward.

    They are the scores `(B, C)` and one activation `(B, D, h, w)` per layer.
    """

    scores: torch.Tensor
    activations: list[torch.Tensor]


@contextmanager
def hooked(layers: Sequence[Layer], hook: Callable[[int, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Calls `hook(number, output)` on the layers' outputs in one pass; what it returns goes on through the network."""
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            seen = [0]  # calls of the module so far

            def replace(
                _: nn.Module, __: Any, output: Any, number: int = number, layer: Layer = layer, seen: list[int] = seen
            ) -> Any:
                seen[0] += 1
                if seen[0] != layer.number:
                    return output
                if isinstance(output, tuple) and output and isinstance(output[0], torch.Tensor):
                    return (hook(number, output[0]), *output[1:])  # attention blocks that also return weights
                if not isinstance(output, torch.Tensor):
                    raise BadInput(
                        f"layer '{layer.name}' gives a {type(output).__name__}, no tensor; choose another layer."
                    )
                return hook(number, output)

            stack.callback(layer.module.register_forward_hook(replace).remove)
        yield


class Tape:
    """A recorder of forward passes that keeps the layers' outputs.

    The first outputs become the roots of the graph: what comes before them is not recorded, and backward passes end
    there. Layers whose output a later in-place operation overwrites are copied; that is found out by the first pass.
    On a CPU images go in with channels last, in which convolutions are faster, unless the network forbids it, or gives
    other scores for them; that is found out by the first pass too.

    Args:
        caller: calls the network.
        layers: whose outputs to keep.
    """

    def __init__(self, caller: Caller, layers: Sequence[Layer]) -> None:
        self.caller, self.layers = caller, layers
        self.copies = False
        self.channels_last: bool | None = None  # None: not found out yet

    def forward(self, images: torch.Tensor, rows: torch.Tensor | None = None) -> Pass:
        """Records one pass of `images (B, 3, H, W)`; the model must be `undisturbed`.

        `rows` are those of the images among all that were given; None: these are all.
        """
        while True:
            if self.channels_last is None:
                self.channels_last = images.device.type == "cpu" and self._may_be_last(images, rows)
            try:
                if self.channels_last:
                    return self._forward(images.contiguous(memory_format=torch.channels_last), rows)
                return self._forward(images.contiguous(), rows)
            except _Overwritten:
                self.copies = True
            except RuntimeError as error:
                if not self.channels_last or "view size is not compatible" not in str(error):
                    raise
                self.channels_last = False

    def _may_be_last(self, images: torch.Tensor, rows: torch.Tensor | None) -> bool:
        """Whether the network gives the same scores in either memory layout."""
        with torch.no_grad():
            expected = self.caller.scores(self.caller(images.contiguous(), rows), len(images), rows).float()
            try:
                output = self.caller(images.contiguous(memory_format=torch.channels_last), rows)
                found = self.caller.scores(output, len(images), rows).float()
            except Exception:
                return False
        scale = expected.abs().amax().clamp_min(1e-6)
        return bool((found - expected).abs().amax() <= 0.02 * scale) or not bool(expected.isfinite().all())

    def _forward(self, images: torch.Tensor, rows: torch.Tensor | None) -> Pass:
        kept: list[torch.Tensor | None] = [None] * len(self.layers)
        versions = [0] * len(self.layers)

        def keep(number: int, output: torch.Tensor) -> torch.Tensor:
            if not output.is_floating_point():
                raise BadInput(f"layer '{self.layers[number].name}' gives whole numbers, which have no gradient.")
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            kept[number], versions[number] = output, output._version
            return output.clone() if self.copies else output

        try:
            with hooked(self.layers, keep), FastConvolutions():
                output = self.caller(images, rows)
        except RuntimeError as error:
            if not self.copies and "in-place" in str(error):
                raise _Overwritten from error
            raise
        activations = []
        for layer, activation, version in zip(self.layers, kept, versions, strict=True):
            if activation is None:
                raise BadInput(f"layer '{layer.name}' is not used when the model is called; choose another layer.")
            if activation._version != version:
                raise _Overwritten
            activations.append(activation)
        scores = self.caller.scores(output, len(images), rows)
        if not bool(scores.detach().isfinite().all()):
            raise BadInput(self._not_a_number(activations))
        return Pass(scores, activations)

    def _not_a_number(self, activations: Sequence[torch.Tensor]) -> str:
        """Where the class scores stop being numbers, as far as the layers tell."""
        pairs = zip(self.layers, activations, strict=True)
        name = next((layer.name for layer, a in pairs if not bool(a.detach().isfinite().all())), None)
        where = "behind all layers that are asked for" if name is None else f"at layer '{name}' or before it"
        half = any(a.dtype == torch.float16 for a in activations)
        mend = "run the network in float32 or bfloat16" if half else "look at its weights"
        return f"the class scores are not numbers (NaN or infinity): the first are {where}; {mend}."

    def backward(
        self, recorded: Pass, classes: torch.Tensor, formulas: Sequence[Formula], size: tuple[int, int]
    ) -> list[list[torch.Tensor]]:
        """Returns the maps `(B, K, h, w)`, float32, per layer and formula, of the class numbers `classes (B, K)`.

        On a GPU all K classes go back in one batched pass. On a CPU they go one after the other, which computes the
        same and is faster there, and each gradient becomes a map as soon as it is there, so none is ever kept.
        """
        picked = recorded.scores.gather(1, classes)
        if not picked.requires_grad:
            raise self._independent(0)
        go = self._all_at_once if classes.device.type == "cuda" else self._one_by_one
        name = ""
        for factor in factors_of(recorded.scores, *recorded.activations):
            try:
                maps = go(recorded, picked, formulas, size, factor)
                return [[torch.stack(of_classes, dim=1) for of_classes in of_layer] for of_layer in maps]
            except _Overflow as error:
                name = str(error)
        raise overflowed(name)

    def _one_by_one(
        self,
        recorded: Pass,
        picked: torch.Tensor,
        formulas: Sequence[Formula],
        size: tuple[int, int],
        factor: float,
    ) -> list[list[list[torch.Tensor]]]:
        maps: list[list[list[torch.Tensor]]] = [[[] for _ in formulas] for _ in self.layers]

        def consume(number: int, gradient: torch.Tensor | None) -> None:
            if gradient is None:  # what comes behind has none, as in a quantised layer
                raise self._independent(number)
            self._apply(number, recorded.activations[number], gradient, formulas, size, factor, maps[number])

        handles = [
            activation.register_hook(lambda gradient, number=number: consume(number, gradient))
            for number, activation in enumerate(recorded.activations)
        ]
        roots = [a for a in recorded.activations if a.is_leaf]
        last = picked.shape[1] - 1
        try:
            for k in range(last + 1):
                keep = k < last or factor != 1  # for another factor
                torch.autograd.grad(picked[:, k].sum() * factor, roots, retain_graph=keep, allow_unused=True)
                for number, of_layer in enumerate(maps):
                    if any(len(of_classes) != k + 1 for of_classes in of_layer):
                        raise self._independent(number)
        finally:
            for handle in handles:
                handle.remove()
        return maps

    def _all_at_once(
        self,
        recorded: Pass,
        picked: torch.Tensor,
        formulas: Sequence[Formula],
        size: tuple[int, int],
        factor: float,
    ) -> list[list[list[torch.Tensor]]]:
        images, count = picked.shape
        each = torch.eye(count, dtype=picked.dtype, device=picked.device) * factor
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # operations without a batched backward are looped over, with a warning
            gradients = torch.autograd.grad(
                picked,
                recorded.activations,
                each[:, None].expand(count, images, count),
                is_grads_batched=True,
                allow_unused=True,
                retain_graph=factor != 1,
            )
        maps: list[list[list[torch.Tensor]]] = [[[] for _ in formulas] for _ in self.layers]
        for number, (activation, gradient) in enumerate(zip(recorded.activations, gradients, strict=True)):
            if gradient is None:
                raise self._independent(number)
            for of_class in gradient:
                self._apply(number, activation, of_class, formulas, size, factor, maps[number])
        return maps

    def _apply(
        self,
        number: int,
        activation: torch.Tensor,
        gradient: torch.Tensor,
        formulas: Sequence[Formula],
        size: tuple[int, int],
        factor: float,
        into: list[list[torch.Tensor]],
    ) -> None:
        layer = self.layers[number]
        with torch.no_grad():
            values = layer.grid(activation.detach(), size)
            slopes = layer.grid(gradient, size)
            if slopes.dtype == torch.float16 and not bool(slopes.isfinite().all()):
                raise _Overflow(layer.name)  # before it is clamped away
            if factor != 1:
                slopes = slopes.float() / factor
            for formula, of_classes in zip(formulas, into, strict=True):
                found = formula(values, slopes)
                if not bool(found.isfinite().all()):
                    raise _Overflow(layer.name)
                of_classes.append(found)

    def _independent(self, number: int) -> BadInput:
        return BadInput(
            f"layer '{self.layers[number].name}': the class score does not depend on it (it lies beside the path to "
            "the score, or the model detaches or is quantised); choose another layer, or use scorecam."
        )


_HALF_FACTORS = (1024.0, 32.0, 1 / 32)  # gradients of deep networks vanish in 16 bits, those of steep ones overflow


def factors_of(*tensors: torch.Tensor) -> tuple[float, ...]:
    """Returns what scores are multiplied by before they go back, one after the other until gradients are numbers."""
    return _HALF_FACTORS if any(t.dtype == torch.float16 for t in tensors) else (1.0,)


def overflowed(name: str) -> BadInput:
    """Returns the sentence for a layer whose gradients are not numbers."""
    return BadInput(
        f"layer '{name}': the gradients there are not numbers (NaN or infinity); look at the network's weights, or run "
        "it in float32."
    )


class _Overflow(Exception):
    """What a layer's gradients make is not a number; by the layer's name."""


class _Overwritten(Exception):
    """An in-place operation changed what a layer gave; the pass is done again with copies."""


def check_classes(classes: Any, scores: torch.Tensor) -> torch.Tensor:
    """Returns class numbers `(B, K)` on the scores' device.

    None asks for the highest score of every image; a function gets the scores `(B, C)` and picks.

    Raises:
        BadInput: a number out of range, or a shape that fits neither `(B, K)` nor `(K,)`.
    """
    images, count = scores.shape
    if classes is None:
        return scores.argmax(dim=1, keepdim=True)
    if callable(classes):
        classes = classes(scores.detach())
    chosen = torch.as_tensor(classes, device=scores.device)
    if chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise BadInput(f"classes must be whole numbers, not {str(chosen.dtype).removeprefix('torch.')}.")
    chosen = chosen.long()
    if chosen.ndim < 2:
        chosen = chosen.reshape(1, -1).expand(images, -1)
    if chosen.ndim != 2 or chosen.shape[0] != images or chosen.shape[1] == 0:
        raise BadInput(
            f"classes of shape {tuple(chosen.shape)} do not fit {images} images; give (B, K), or K numbers for all."
        )
    wrong = chosen[(chosen < 0) | (chosen >= count)]
    if len(wrong):
        raise BadInput(f"class {int(wrong[0])} is out of range; the model has classes 0 to {count - 1}.")
    return chosen


@contextmanager
def count_saved(model: nn.Module) -> Iterator[list[int]]:
    """Yields a list whose one number becomes the bytes that the graph recorded inside keeps alive, parameters aside."""
    seen = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    total = [0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
