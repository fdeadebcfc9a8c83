"""Finding layers in a stranger's network, and reading what they give as grids.

`"stages"` is found by watching one image go through: a stage is what is computed at one resolution, and its layer is
the last one before the resolution falls. For the networks of the papers that is the activation after the last
convolution of every VGG stage and `layer1` to `layer4` of a ResNet; a stem of one strided convolution is no stage.
Where a stage ends linearly, as in MobileNets and EfficientNets, its layer is the activation that follows at the same
resolution, in the first block of the next stage: evidence of both signs cancels out when channels are summed. In a
transformer the layers are the first normalisations of its last blocks: behind the last block only the class token
is read, so nothing there depends on the patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tagseg.errors import BadInput, nearest

Layers = str | nn.Module | Sequence[str | nn.Module]

_TRANSFORMER_BLOCKS = 4  # how many of a transformer's last blocks count as stages


@dataclass(frozen=True, slots=True)
class Layer:
    """A module and the name it has in its network."""

    name: str
    module: nn.Module


def unwrap(model: Any) -> nn.Module:
    """Returns the network inside `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def find_layers(model: nn.Module, layers: Layers, image: torch.Tensor) -> list[Layer]:
    """Returns the layers meant by `layers`, shallow to deep for `"stages"`, else in the order given.

    Args:
        model: the network, unwrapped and in eval mode.
        layers: `"stages"`, `"last"`, a name as in `model.named_modules()`, a module, or several of these.
        image: `(1, 3, H, W)`, sent through the network once for `"stages"` and `"last"`.

    Raises:
        BadInput: a name that is not there (with near ones), a module of another network, or a network without grids.
    """
    if isinstance(layers, str | nn.Module):
        if layers == "stages":
            return _stages(model, image)
        if layers == "last":
            return _stages(model, image)[-1:]
        layers = [layers]
    if not layers:
        raise BadInput("layers: name at least one layer, or give 'stages' or 'last'.")
    found = [layer for wanted in layers for layer in _find(model, wanted, image)]
    names = [layer.name for layer in found]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"layer '{name}' is given twice; name every layer once.")
    return found


def _find(model: nn.Module, wanted: str | nn.Module, image: torch.Tensor) -> list[Layer]:
    modules = dict(model.named_modules())
    if isinstance(wanted, nn.Module):
        inner = unwrap(wanted)
        for name, module in modules.items():
            if module is inner and name:
                return [Layer(name, module)]
        raise BadInput(f"layer {type(wanted).__name__}: this module is not part of the model; take one of its own.")
    if wanted in ("stages", "last"):
        return find_layers(model, wanted, image)
    name = wanted
    for wrapper in ("module.", "_orig_mod."):
        name = name.removeprefix(wrapper) if name not in modules else name
    if not name or name not in modules:
        near = near_names(wanted, [n for n in modules if n])
        raise BadInput(f"layer '{wanted}' is not in the model{near} ('stages' and 'last' find layers by themselves).")
    return [Layer(name, modules[name])]


def near_names(name: str, known: list[str]) -> str:
    """Returns `"; near names: a, b, c"` from `known`, or the first two and the last when nothing is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=3, cutoff=0.5)
    if not near:
        hint = nearest(name, known)
        return hint or f"; it has {', '.join(known[:2])} ... {known[-1]}" if known else "; it has no named layers"
    return f"; near names: {', '.join(near)}"


def as_grid(values: torch.Tensor, image_size: tuple[int, int], name: str) -> torch.Tensor:
    """Returns a layer's output `(B, D, h, w)`, `(B, h, w, D)` or tokens `(B, n, D)` as a view `(B, D, h, w)`.

    Leading tokens that are no patches (class, distillation, registers) are left out. `image_size` is (H, W), whose
    proportions tell channels from rows and columns.

    Raises:
        BadInput: it is none of these.
    """
    if values.ndim == 4:
        first, last = _misfit(values.shape[2:], image_size), _misfit(values.shape[1:3], image_size)
        return values if first <= last else values.permute(0, 3, 1, 2)
    if values.ndim == 3:
        grid = _token_grid(values.shape[1], image_size)
        if grid is not None:
            prefix = values.shape[1] - grid[0] * grid[1]
            return values[:, prefix:].transpose(1, 2).unflatten(2, grid)
    raise BadInput(
        f"layer '{name}' gives {tuple(values.shape)}, neither a grid (B, D, h, w) nor tokens of one (B, n, D); "
        "choose a layer before pooling."
    )


def _misfit(grid: Iterable[int], image_size: tuple[int, int]) -> float:
    """How far the strides along both sides differ, as a ratio; 1 is none."""
    down, across = (side / cells for side, cells in zip(image_size, grid, strict=True))
    return max(down / across, across / down)


def _token_grid(tokens: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    height, width = image_size
    for prefix in range(min(17, tokens)):  # class and distillation tokens, up to 16 registers
        cells = tokens - prefix
        rows = max(1, round((cells * height / width) ** 0.5))
        for h in (rows, rows - 1, rows + 1):
            if h < 1 or cells % h:
                continue
            w = cells // h
            stride = (height * width / cells) ** 0.5
            if abs(h - height / stride) < 0.5 and abs(w - width / stride) < 0.5 and min(h, w) > 1:
                return h, w
    return None


@dataclass(slots=True)
class _Call:
    """One call of one module while an image goes through."""

    name: str
    module: nn.Module
    grid_in: tuple[int, int] | None
    grid_out: tuple[int, int] | None
    tokens: int | None
    positive: bool  # no negative value came out

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


def _stages(model: nn.Module, image: torch.Tensor) -> list[Layer]:
    calls = _before_class_maps(_watch(model, image))
    levels = _levels(calls)
    # one resolution throughout: it may be a transformer
    blocks = _transformer_blocks(model, calls) if len(levels) <= 1 else []
    if blocks:
        return blocks
    stages = []
    for number, level in enumerate(levels):
        # parts of the blocks that lead on to the next resolution are not where this stage ends
        inside = tuple(f"{block}." for block in _downsampling(calls, levels, number))
        own = [c for c in calls if c.grid_out == level and not c.name.startswith(inside)]
        # nor are modules that hold several stages; of the others the last to end comes last
        ends = [c for c in own if _reach(c, levels) <= 1]
        # a stem of one strided convolution is no stage
        stem = number == 0 and len(levels) > 1 and _is_stem([c.module for c in own if c.computes])
        if ends and not stem:
            end = _activated(calls, ends[-1])
            stages.append(Layer(end.name, end.module))
    if not stages:
        raise BadInput(
            "the model has no convolution and no tokens whose grid could be mapped; "
            "these methods need a layer that keeps positions."
        )
    return stages


def _before_class_maps(calls: list[_Call]) -> list[_Call]:
    """Without a class convolution at the end: its channels are classes, whose gradients are one or nothing."""
    computing = [number for number, call in enumerate(calls) if call.computes]
    if not computing:
        return calls
    last = calls[computing[-1]]
    if not isinstance(last.module, nn.Conv2d) or last.grid_out is None or len(computing) < 2:
        return calls
    return calls[: computing[-1]]


def _watch(model: nn.Module, image: torch.Tensor) -> list[_Call]:
    """Every call below the root, in the order in which they end."""
    size = (image.shape[2], image.shape[3])
    calls: list[_Call] = []

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            grid_in, grid_out = _grid(inputs, size, len(image)), _grid(output, size, len(image))
            calls.append(_Call(name, module, grid_in, grid_out, _tokens(output), _positive(output)))

        return hook

    handles = [m.register_forward_hook(note(n)) for n, m in model.named_modules() if n]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _first(values: object) -> torch.Tensor | None:
    while isinstance(values, tuple | list) and values:
        values = values[0]
    return values if isinstance(values, torch.Tensor) else None


def _grid(values: object, size: tuple[int, int], images: int) -> tuple[int, int] | None:
    tensor = _first(values)
    if tensor is None or tensor.ndim != 4 or tensor.shape[0] != images:
        return None
    height, width = as_grid(tensor, size, "").shape[2:]
    return (height, width) if height * width > 1 and height <= size[0] and width <= size[1] else None


def _tokens(values: object) -> int | None:
    tensor = _first(values)
    return tensor.shape[1] if tensor is not None and tensor.ndim == 3 else None


def _positive(values: object) -> bool:
    tensor = _first(values)
    return tensor is not None and tensor.is_floating_point() and bool((tensor >= 0).all())


def _levels(calls: list[_Call]) -> list[tuple[int, int]]:
    """The resolutions at which something with weights is computed, fine to coarse."""
    levels = {c.grid_out for c in calls if c.grid_out is not None and c.computes}
    return sorted(levels, key=lambda grid: -grid[0] * grid[1])


def _activated(calls: list[_Call], end: _Call) -> _Call:
    """The end of a stage itself if it is an activation's output, else the activation that follows at its resolution."""
    place = next(number for number, call in enumerate(calls) if call is end)
    leaves = [c for c in calls[: place + 1] if next(c.module.children(), None) is None]
    if end.positive or leaves[-1].activates:
        return end
    following = [c for c in calls[place + 1 :] if c.activates and c.grid_out == end.grid_out]
    return following[-1] if following else end


def _is_stem(computing: list[nn.Module]) -> bool:
    """One strided convolution and at most its normalisation."""
    return len(computing) <= 2 and isinstance(computing[0], nn.Conv2d) and max(computing[0].stride) > 1


def _downsampling(calls: list[_Call], levels: list[tuple[int, int]], number: int) -> list[str]:
    """Names of the blocks that lead from this resolution to the next; what they hold inside is no stage's end.

    A chain of layers counts as such a block only when it convolves nothing before the resolution falls.
    """
    if number + 1 == len(levels):
        return []
    blocks = []
    for call in calls:
        if call.grid_in == levels[number] and call.grid_out == levels[number + 1]:
            inside = [c for c in calls if c.name.startswith(f"{call.name}.") and c.grid_out == levels[number]]
            convolves = any(isinstance(c.module, nn.Conv2d | nn.Linear) for c in inside)
            if not isinstance(call.module, nn.Sequential | nn.ModuleList) or not convolves:
                blocks.append(call.name)
    return blocks


def _reach(call: _Call, levels: list[tuple[int, int]]) -> int:
    """How many resolutions a module passes through; a chain of several stages is not the end of one."""
    start = levels.index(call.grid_in) if call.grid_in in levels else -1
    return levels.index(call.grid_out) - start if call.grid_out in levels else 0


def _transformer_blocks(model: nn.Module, calls: list[_Call]) -> list[Layer]:
    """The first normalisation of each of the last blocks that hand on the same number of tokens."""
    families: dict[tuple[str, type, int], list[str]] = {}
    for call in calls:
        if call.tokens is not None and call.tokens > 1 and "." in call.name:
            key = (call.name.rpartition(".")[0], type(call.module), call.tokens)
            families.setdefault(key, []).append(call.name)
    blocks = [names for names in families.values() if len(names) > 1 and _has_norm(model, names[0])]
    if not blocks:
        return []
    layers = []
    for block in max(blocks, key=len)[-_TRANSFORMER_BLOCKS:]:
        norm = next(c for c in calls if c.name.startswith(f"{block}.") and isinstance(c.module, nn.LayerNorm))
        layers.append(Layer(norm.name, norm.module))
    return layers


def _has_norm(model: nn.Module, name: str) -> bool:
    return any(isinstance(m, nn.LayerNorm) for m in model.get_submodule(name).modules() if m is not model)
