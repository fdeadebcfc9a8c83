"""Watching a network at work: every call of every module, what it gives, and whether the class scores need it.

Three passes of one image or a few: as it is, with the probes of `tagseg.attribution.reading`, and with gradients.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from tagseg.attribution.calling import Caller
from tagseg.attribution.reading import CORNERS, NO_GRID, Reading, batch_axis, guessed, probes, read_response
from tagseg.errors import BadInput

Place = tuple[str, int]  # the name of a module, and which of its calls, from 1


@dataclass(slots=True)
class Call:
    """One call of one module while an image goes through.

    name, number: of the module, and of the call among the module's own, from 1.
    of: how often the module is called.
    grid_in, grid_out: (h, w) of what goes in and comes out; None where it is no grid.
    reading: how to read what comes out; None where the network could not be asked.
    tokens: how many there are, where it comes out as tokens.
    positive: whether no negative value came out.
    needed: whether the class scores depend on it, at positions of the image.
    through: which part of all paths from the image to the class scores leads through what comes out.
    images: whether one axis is the images'; None where the network could not be asked.
    shape: of what comes out for one image.
    matrix: whether it is an attention matrix, or of windows.
    classes: how many the network tells apart; None if that is not known.
    """

    name: str
    module: nn.Module
    number: int
    of: int = 1
    grid_in: tuple[int, int] | None = None
    grid_out: tuple[int, int] | None = None
    reading: Reading | None = None
    tokens: int | None = None
    positive: bool = False
    needed: bool = True
    through: Fraction = Fraction(1)
    images: bool | None = None
    shape: tuple[int, ...] | None = None
    matrix: bool = False
    classes: int | None = None

    @property
    def place(self) -> str:
        """Returns the name, with the number of the call where there are several: `relu#2`."""
        return self.name if self.of == 1 else f"{self.name}#{self.number}"

    @property
    def activates(self) -> bool:
        """Tells whether the module is an activation function without children, softmax aside."""
        if next(self.module.children(), None) is not None or isinstance(self.module, nn.Softmax):
            return False
        home = type(self.module).__module__
        return home == "torch.nn.modules.activation" or home.startswith("timm.layers.activations")

    @property
    def computes(self) -> bool:
        """Tells whether the module has parameters and no children."""
        return next(self.module.children(), None) is None and next(self.module.parameters(), None) is not None


@dataclass
class _Asked:
    """What the three passes found, by place."""

    shapes: dict[Place, tuple[tuple[int, ...] | None, tuple[int, ...] | None]] = field(default_factory=dict)
    readings: dict[Place, tuple[Reading | None, Reading | None]] = field(default_factory=dict)
    images: dict[Place, bool] = field(default_factory=dict)
    needed: dict[Place, bool] | None = None
    through: dict[Place, Fraction] = field(default_factory=dict)

    def same(self, shape: tuple[int, ...]) -> Reading | None:
        """The reading of the other outputs of a shape, of what cannot be told alone; None if they differ."""
        others = [out for place, (_, out) in self.readings.items() if self.shapes[place][1] == shape]
        found = {out for out in others if out is not None and out is not NO_GRID}
        if not found and others.count(NO_GRID) > others.count(None):
            return NO_GRID
        return found.pop() if len(found) == 1 else None


def watch(caller: Caller, image: torch.Tensor, rows: torch.Tensor | None = None) -> list[Call]:
    """Returns every call below the root, in the order in which they end.

    Args:
        caller: calls the network, which is in eval mode.
        image: `(1, 3, H, W)`, or as many as the network needs.
        rows: those of the images among all that were given; None: these are all.
    """
    size = (image.shape[2], image.shape[3])
    calls: list[Call] = []
    asked = _Asked()

    def first(call: Call, inputs: Any, output: Any) -> None:
        into, out = tensor_of(inputs), given(output)
        calls.append(call)
        asked.shapes[call.name, call.number] = _shape(into), _shape(out)
        call.positive = out is not None and out.is_floating_point() and bool((out >= 0).all())
        call.grid_in, call.grid_out = _guess(into, size, len(image)), _guess(out, size, len(image))
        call.tokens = out.shape[1] if out is not None and out.ndim == 3 else None

    with torch.no_grad(), _listening(caller.model, first):
        output = caller(image, rows)
    try:
        classes = caller.scores(output, len(image), rows).shape[1]
    except BadInput:
        classes = None  # what is wrong with the scores is told when they are asked for
    times = Counter(call.name for call in calls)
    _ask(caller, image, asked)
    _follow(caller, image, asked, rows)
    for call in calls:
        call.of, call.classes = times[call.name], classes
        place = call.name, call.number
        call.shape = asked.shapes[place][1]
        if place in asked.readings:
            call.images = asked.images[place] if call.shape is not None else None
            into, call.reading = asked.readings[place]
            if into is not None:
                call.grid_in = None if into is NO_GRID else into.cells
            if call.reading is None and call.images and call.shape is not None:
                call.reading = asked.same(call.shape)
            call.matrix, call.reading = call.reading is NO_GRID, None if call.reading is NO_GRID else call.reading
            if call.reading is not None or call.matrix or not call.images:
                call.grid_out = None if call.reading is None else call.reading.cells
                call.tokens = None
            if call.reading is not None and call.reading.tokens:
                call.tokens = call.reading.prefix + call.reading.suffix + call.reading.cells[0] * call.reading.cells[1]
        call.through = asked.through.get(place, call.through)
        call.needed = asked.needed is None or asked.needed.get(place, False)
    if not any(call.needed and call.grid_out is not None for call in calls):  # gradients end before, as in int8
        for call in calls:
            call.needed, call.through = True, Fraction(1)
    return calls


def _ask(caller: Caller, image: torch.Tensor, asked: _Asked) -> None:
    """Sends the probes through; a network that will not have several images is not asked."""
    size = (image.shape[2], image.shape[3])
    if len(image) != 1:
        return

    def remembered(values: torch.Tensor, axis: int) -> Reading | None:
        """What one module gives another takes, and is not looked at twice."""
        known = getattr(values, "_tagseg", None)
        if known is None or known[0] != (axis, values._version):
            known = (axis, values._version), read_response(values, axis, size)
            values._tagseg = known  # type: ignore[attr-defined]
        return known[1]

    def read(values: torch.Tensor | None, shape: tuple[int, ...] | None) -> tuple[bool, Reading | None]:
        """Whether one axis is the images', and how to read the others."""
        axis = None if values is None or shape is None else batch_axis(shape, values.shape, 1 + CORNERS)
        if values is None or shape is None or axis is None or shape[axis] != 1:
            return False, None
        return True, remembered(values, axis)

    def respond(call: Call, inputs: Any, output: Any) -> None:
        place = call.name, call.number
        into, out = asked.shapes.get(place, (None, None))
        asked.images[place], reading = read(given(output), out)
        asked.readings[place] = read(tensor_of(inputs), into)[1], reading

    try:
        with torch.no_grad(), _listening(caller.model, respond):
            caller(probes(image), torch.zeros(1 + CORNERS, dtype=torch.long))
    except Exception:
        asked.readings.clear()  # a network of a fixed number of images, or one that needs what the probes lack


def _follow(caller: Caller, image: torch.Tensor, asked: _Asked, rows: torch.Tensor | None) -> None:
    """Finds out which outputs the class scores depend on, at more than one position."""
    size = (image.shape[2], image.shape[3])
    places: list[Place] = []
    outputs: list[torch.Tensor] = []

    def keep(call: Call, _: Any, output: Any) -> Any:
        values = given(output)
        if values is None or not values.requires_grad or not values.is_floating_point():
            return None
        # what is handed on may be what was taken: only its use from here counts
        if type(output) in (torch.Tensor, tuple):
            values = values.view_as(values)
            output = values if isinstance(output, torch.Tensor) else (values, *output[1:])
        places.append((call.name, call.number))
        outputs.append(values)
        return output

    try:
        with torch.enable_grad(), _listening(caller.model, keep), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            leaf = image.detach().clone().requires_grad_()
            found = caller.scores(caller(leaf, rows), len(image), rows).float()
            weights = torch.randn(found.shape[1:], generator=torch.Generator().manual_seed(0)).to(found)
            gradients = torch.autograd.grad((found * weights).sum(), tuple(outputs), allow_unused=True)
    except Exception:
        return  # whatever forbids gradients is told when they are asked for
    asked.needed = {}
    for place, gradient in zip(places, gradients, strict=False):  # what is computed again comes after
        reading = asked.readings.get(place, (None, None))[1]
        needed = gradient is not None
        told = reading is not None and reading is not NO_GRID
        if told and gradient is not None and bool(gradient.any()):  # weights may begin at zero
            assert reading is not None
            needed = int(reading.grid(gradient, size).abs().amax(dim=(0, 1)).count_nonzero()) > 1
        asked.needed[place] = needed
    asked.through = dict(zip(places, _shares_of_paths(found, leaf, outputs), strict=False))


def _shares_of_paths(scores: torch.Tensor, image: torch.Tensor, outputs: Sequence[torch.Tensor]) -> list[Fraction]:
    """Which part of all paths from the scores back to the image leads through each output; 1 where all do."""
    start = scores.grad_fn
    order: list[Any] = []  # every function after all that follow from it
    seen: set[Any] = set()
    waiting: list[tuple[Any, bool]] = [(start, False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(behind, False) for behind, _ in node.next_functions if behind is not None]
    onwards = {node: int(getattr(node, "variable", None) is image) for node in order}
    for node in order:
        onwards[node] += sum(onwards[behind] for behind, _ in node.next_functions if behind is not None)
    towards = dict.fromkeys(order, 0)
    towards[start] = 1
    for node in reversed(order):
        for behind, _ in node.next_functions:
            if behind is not None:
                towards[behind] += towards[node]
    total = onwards[start] or 1
    return [Fraction(towards.get(o.grad_fn, 0) * onwards.get(o.grad_fn, 0), total) for o in outputs]


@contextmanager
def _listening(model: nn.Module, hear: Callable[[Call, Any, Any], Any]) -> Iterator[None]:
    """Calls `hear` with every call of every module but the root, its inputs and its output.

    What it returns, if anything, goes on instead of the output.
    """
    counts: Counter[str] = Counter()

    def note(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: tuple, options: dict, output: Any) -> Any:
            counts[name] += 1
            return hear(Call(name, module, counts[name]), inputs or tuple(options.values()), output)

        return hook

    handles = [m.register_forward_hook(note(n), with_kwargs=True) for n, m in model.named_modules() if n]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensor_of(values: Any) -> torch.Tensor | None:
    """Returns the first tensor in what a module takes."""
    while not isinstance(values, torch.Tensor) and isinstance(values, tuple | list | dict) and values:
        values = next(iter(values.values())) if isinstance(values, dict) else values[0]
    return values if isinstance(values, torch.Tensor) else None


def _may_be_tokens(count: int, size: tuple[int, int]) -> bool:
    """Whether so many tokens are a grid in the image's very proportions, with at most a class token before it."""
    for cells in (count, count - 1):
        rows = round((cells * size[0] / size[1]) ** 0.5)
        if rows > 1 and cells % rows == 0 and rows * size[1] == cells // rows * size[0]:
            return True
    return False


def given(output: Any) -> torch.Tensor | None:
    """Returns what a module gives on, a tensor or the first of a tuple of them; None if it is something else."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, torch.Tensor) else None


def _shape(values: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values.shape)


def _guess(values: torch.Tensor | None, size: tuple[int, int], images: int) -> tuple[int, int] | None:
    if values is None or values.ndim not in (3, 4) or values.shape[0] != images:
        return None
    if values.ndim == 3 and not _may_be_tokens(values.shape[1], size):
        return None
    try:
        height, width = guessed(values, size, "").shape[2:]
    except BadInput:
        return None
    return (height, width) if height * width > 1 and height <= size[0] and width <= size[1] else None
