"""gAP: which channels of an earlier layer made a decision (hierarchical attention decomposition, section 5.1).

A decision is one number inside a network: a class score before the softmax, or one channel of a layer at one
position. Its parts are the channels of an earlier layer, gradient times activation: `A_k = dF / dF_k * F_k`. The mean
of `A_k` is the channel's contribution (equation 5.4), its highest place the peak (equation 5.5), where the channel is
decomposed in turn.

    recording = Recorder(model, "stages")(images)
    parts = recording.parts([recording.score(0, 281)])[0]      # of the deepest layer, contributions (D,)

Two things the thesis leaves open, for networks other than its own:
- a feature below zero (no ReLU) is decomposed with its sign taken out: what made it as low as it is.
- a feature that is clipped from above (ReLU6) does not change with anything, its gradient is zero. The decision is then
  what goes into the clip, which is the same number and has the same gradient wherever it does not clip.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tagseg.attribution.calling import Caller, Score
from tagseg.attribution.capture import Tape, check_classes, factors_of, overflowed
from tagseg.attribution.gradient import prepare
from tagseg.attribution.guided_backprop import Guide
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import Layer, Layers, find_layers, known, unwrap
from tagseg.errors import BadInput


@dataclass(frozen=True, slots=True)
class Decision:
    """One number inside a network.

    `level` counts layers from the shallowest; the number of layers stands for the class scores, of which `channel` is
    the class and the position means nothing. `image` is the row of the batch.
    """

    level: int
    channel: int
    y: int = 0
    x: int = 0
    image: int = 0


@dataclass(slots=True)
class Parts:
    """A decision decomposed over the channels of an earlier layer.

    Attributes:
        decision: what was decomposed.
        level: the layer that it was decomposed to.
        value: the decision itself, its sign taken out.
        maps: `A (D, h, w)`, float32, signed; their sum is the decision where only linear layers lie in between, but for
            their biases.
        gradients: `(D, h, w)`, float32.
        means: `(D,)`, what each channel is on average.
    """

    decision: Decision
    level: int
    value: float
    maps: torch.Tensor
    gradients: torch.Tensor
    means: torch.Tensor

    @property
    def contributions(self) -> torch.Tensor:
        """Returns the contribution of every channel, `(D,)`: the mean of its map (equation 5.4)."""
        return self.maps.mean(dim=(1, 2))

    @property
    def shares(self) -> torch.Tensor:
        """Returns the sum of every map, as a part of the decision: `(D,)`.

        The shares add up to 1 where layers between are linear.
        """
        return self.maps.sum(dim=(1, 2)) / (abs(self.value) or 1.0)

    @property
    def peaks(self) -> torch.Tensor:
        """Returns row and column of the highest value of every map, `(D, 2)` (equation 5.5)."""
        place = self.maps.flatten(1).argmax(dim=1)
        width = self.maps.shape[2]
        return torch.stack([torch.div(place, width, rounding_mode="floor"), place % width], dim=1)


class Recorder:
    """A recorder of forward passes of a network, any number of whose decisions can then be decomposed.

    Args:
        model, score: as for `tagseg.attribution.LayerCAM`.
        layers: see `tagseg.attribution.layers.find_layers`; shallow to deep.
    """

    def __init__(self, model: nn.Module, layers: Layers = "stages", *, score: Score | None = None) -> None:
        self.model, self.wanted, self.score = unwrap(model), layers, score
        self._tape: Tape | None = None

    def __call__(self, images: torch.Tensor, *, pixels: bool = False, guided: bool = False) -> Recording:
        """Records one forward pass.

        Args:
            images: `(B, 3, H, W)`, normalised as the network wants.
            pixels: record down to the pixels.
            guided: the same with ReLUs that let positive gradients pass only (Guided Backpropagation); a network
                without any has its plain gradient.
        """
        images = prepare(self.model, images)
        size = (images.shape[2], images.shape[3])
        with undisturbed(self.model):
            tape = self._open(images)
            leaf = images.clone().requires_grad_() if pixels or guided else None
            with _before_clips(self.model, tape.layers) as before, Guide() if guided else nullcontext():
                recorded = tape.forward(images if leaf is None else leaf)
        ends = [before(number, activation) for number, activation in enumerate(recorded.activations)]
        clips = {number: clip for number, (_, clip) in enumerate(ends) if clip is not None}
        sources = [source for source, _ in ends]
        return Recording(list(tape.layers), size, recorded.scores, recorded.activations, sources, clips, leaf)

    @property
    def layers(self) -> list[Layer]:
        """Returns the layers that are recorded; they are known after the first call."""
        return known(None if self._tape is None else self._tape.layers)

    def _open(self, images: torch.Tensor) -> Tape:
        if self._tape is None:
            caller = Caller(self.model, self.score)
            self._tape = Tape(caller, find_layers(self.model, self.wanted, images, caller))
        return self._tape


@dataclass
class Recording:
    """A forward pass that remembers enough to decompose any of its decisions; made by `Recorder`.

    Attributes:
        layers: shallow to deep.
        size: (H, W) of the images.
        scores: `(B, C)` before the softmax.
        activations: what each layer gave.
        sources: the same, or what went into the layer's clip.
        clips: the clips that end a layer, by the layer's number.
        pixels: the images, where the pass was recorded down to them.
    """

    layers: list[Layer]
    size: tuple[int, int]
    scores: torch.Tensor
    activations: list[torch.Tensor]
    sources: list[torch.Tensor]
    clips: dict[int, nn.Hardtanh]
    pixels: torch.Tensor | None

    def score(self, image: int, number: int) -> Decision:
        """Returns the score of class `number` of an image as a decision.

        Raises:
            BadInput: there is no such class.
        """
        check_classes([number], self.scores)
        return Decision(len(self.layers), number, image=image)

    @torch.no_grad()
    def features(self, level: int) -> torch.Tensor:
        """Returns what a layer gave, `(B, D, h, w)`."""
        return self.layers[level].grid(self.activations[level].detach(), self.size)

    def parts(self, decisions: Sequence[Decision], level: int | None = None) -> list[Parts]:
        """Decomposes decisions, all of one level, over the channels of an earlier layer (by default the one before).

        On a GPU they go back in one batched pass. On a CPU they go back one after the other, which computes the same
        and is faster there; of several images, one decision of each goes back at a time.
        """
        return list(self.each(decisions, lambda parts: parts, level))

    def each(
        self, decisions: Sequence[Decision], use: Callable[[Parts], Any], level: int | None = None
    ) -> Iterator[Any]:
        """Yields `use(parts)` of every decision in turn; parts that `use` does not keep are never all in memory."""
        if not decisions:
            return
        level = decisions[0].level - 1 if level is None else level
        if not 0 <= level < decisions[0].level:
            raise BadInput(
                f"a decision of level {decisions[0].level} can be decomposed to 0 to {decisions[0].level - 1}."
            )
        name = self.layers[level].name
        values = self.features(level).float()
        means = values.mean(dim=(2, 3))
        picked = self._picked(decisions)
        found: dict[int, Any] = {}
        # turns take the decisions in another order, which is put right in the end
        for turn, gradient in self._gradients(decisions, picked, self.activations[level], name):
            grid = self.layers[level].grid(gradient, self.size).float()
            for number in turn:
                d = decisions[number]
                value = float(picked[number].detach())
                # A_k = dF/dF_k * F_k, of the decision without its sign
                slopes = grid[d.image] * (-1.0 if value < 0 else 1.0)
                found[number] = use(Parts(d, level, abs(value), slopes * values[d.image], slopes, means[d.image]))
        yield from (found[number] for number in range(len(decisions)))

    def pixel_gradients(self, decisions: Sequence[Decision]) -> torch.Tensor:
        """Returns the signed gradients of decisions, all of one level, with respect to the pixels.

        They are `(len(decisions), 3, H, W)`, float32.
        """
        if self.pixels is None:
            raise BadInput("this pass was not recorded down to the pixels; record it with pixels=True or guided=True.")
        picked = self._picked(decisions)
        found: dict[int, torch.Tensor] = {}
        for turn, gradient in self._gradients(decisions, picked, self.pixels, "pixels"):
            found |= {n: gradient[decisions[n].image].float() * picked[n].detach().sign() for n in turn}
        return torch.stack([found[number] for number in range(len(decisions))])

    def _picked(self, decisions: Sequence[Decision]) -> list[torch.Tensor]:
        level = decisions[0].level
        if any(d.level != level for d in decisions):
            raise BadInput("decisions that are decomposed together must be of one level.")
        if level == len(self.layers):
            return [self.scores[d.image, d.channel] for d in decisions]
        grid = self.layers[level].grid(self.sources[level], self.size)
        return [grid[d.image, d.channel, d.y, d.x] for d in decisions]

    def _gradients(
        self, decisions: Sequence[Decision], picked: Sequence[torch.Tensor], root: torch.Tensor, name: str
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Turns of decisions, at most one of every image, with the gradient of their sum."""
        turns: list[list[int]] = []
        seen: dict[int, int] = {}
        for number, decision in enumerate(decisions):
            # the n-th decision of every image goes into the n-th turn
            place = seen[decision.image] = seen.get(decision.image, -1) + 1
            if place == len(turns):
                turns.append([])
            turns[place].append(number)
        # images do not touch one another: the gradient of a turn's sum holds each decision's in its image's row
        sums = [torch.stack([picked[n] for n in turn]).sum() for turn in turns]
        if not sums[0].requires_grad:
            raise _independent(name)
        together = _TOGETHER if root.device.type == "cuda" else 1
        for start in range(0, len(sums), together):
            gradients = self._of_sums(sums[start : start + together], root, name)
            yield from zip(turns[start : start + together], gradients, strict=True)

    @staticmethod
    def _of_sums(sums: Sequence[torch.Tensor], root: torch.Tensor, name: str) -> torch.Tensor:
        """The gradients `(len(sums), *root)` at a root, several of them in one batched pass."""
        some = torch.stack(list(sums))
        each = torch.eye(len(some), dtype=some.dtype, device=some.device)
        for factor in factors_of(root):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # operations without a batched backward are looped over, with a warning
                if len(some) > 1:
                    (gradient,) = torch.autograd.grad(
                        some, root, each * factor, retain_graph=True, is_grads_batched=True, allow_unused=True
                    )
                else:
                    (gradient,) = torch.autograd.grad(some[0] * factor, root, retain_graph=True, allow_unused=True)
            if gradient is None:
                raise _independent(name)
            if factor == 1 and root.dtype != torch.float16:
                return gradient if len(some) > 1 else gradient[None]
            if bool(gradient.isfinite().all()):
                return (gradient if len(some) > 1 else gradient[None]).float() / factor
        raise overflowed(name)


Ended = tuple[torch.Tensor, nn.Hardtanh | None]

_TOGETHER = 32  # decisions of one batched backward pass; bounds its memory


@contextmanager
def _before_clips(model: nn.Module, layers: Sequence[Layer]) -> Iterator[Callable[[int, torch.Tensor], Ended]]:
    """A function from a layer's number and output to what went into the clip that ends it, and the clip if one does."""
    clips: dict[int, tuple[torch.Tensor, nn.Hardtanh]] = {}

    def before(number: int, output: torch.Tensor) -> Ended:
        if number not in clips:
            return output, None
        inputs, clip = clips[number]
        with torch.no_grad():  # a clip inside a block need not be what the block gives
            ends = inputs.shape == output.shape and torch.equal(inputs.clamp(clip.min_val, clip.max_val), output)
        return (inputs, clip) if ends else (output, None)

    calls: Counter[int] = Counter()  # of each clip in this pass; finding out a memory layout takes passes of its own
    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(lambda *_: calls.clear()).remove)
        for number, layer in enumerate(layers):
            # the last module need not be the last one called: `before` asks whether it ends the layer
            clip = list(layer.module.modules())[-1]
            if not isinstance(clip, nn.Hardtanh):  # ReLU6 is one
                continue

            def keep(
                module: nn.Module,
                inputs: tuple[torch.Tensor, ...],
                number: int = number,
                layer: Layer = layer,
            ) -> tuple[torch.Tensor] | None:
                assert isinstance(module, nn.Hardtanh)
                calls[number] += 1
                if calls[number] != clip_call(layer, module):
                    if module is not layer.module:  # one clip for several blocks: which of them it ends is not known
                        clips.pop(number, None)
                    return None
                # where nothing before it is recorded, what goes into the clip is where the recording begins
                entering = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
                clips[number] = entering, module
                return (entering.clone(),)  # the clip may write over what it gets

            stack.callback(clip.register_forward_pre_hook(keep).remove)
        yield before


def clip_call(layer: Layer, clip: nn.Module) -> int:
    """Returns which call of a clip ends a layer: the layer's own, if it is the clip, else its only one."""
    return layer.number if clip is layer.module else 1


def _independent(name: str) -> BadInput:
    return BadInput(f"layer '{name}': the decision does not depend on it; name layers shallow to deep along one path.")
