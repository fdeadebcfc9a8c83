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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tagseg.attribution.calling import Caller
from tagseg.attribution.reading import Reading, guessed
from tagseg.attribution.watching import Call, watch
from tagseg.errors import BadInput, nearest

Layers = str | nn.Module | Sequence[str | nn.Module]

_CLOSED = "the layers cannot be watched"
KEYWORDS = ("stages", "last", "sharp")
_SHARP = 12  # cells along the shorter side: VGG-16, for which the papers' thresholds were chosen, has 14
_TRANSFORMER_BLOCKS = 4  # how many of a transformer's last blocks count as stages


@dataclass(frozen=True, slots=True)
class Layer:
    """A place in a network: one call of one module.

    name: of the module in its network, with the number of the call where there are several: `relu#2`.
    module: itself.
    number: which of its calls, from 1.
    reading: how to read what it gives as a grid; None where the network could not be asked.
    """

    name: str
    module: nn.Module
    number: int = 1
    reading: Reading | None = None

    def grid(self, values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Returns `(B, D, h, w)` of what the layer gave, or of its gradient, for images of `size` (H, W)."""
        return guessed(values, size, self.name) if self.reading is None else self.reading.grid(values, size)


def unwrap(model: Any) -> nn.Module:
    """Returns the network inside `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def find_layers(model: nn.Module, layers: Layers, images: torch.Tensor, caller: Caller | None = None) -> list[Layer]:
    """Returns the layers meant by `layers`, shallow to deep for `"stages"`, else in the order given.

    Args:
        model: the network, unwrapped and in eval mode.
        layers: `"stages"`, `"last"`, `"sharp"` (the deepest stage of at least 12 cells along the shorter side, which
            makes better boxes), a name as in `model.named_modules()`, a module, or several of these. Of a module
            that is called several times `NAME#2` is the second call, and the name alone the last one.
        images: `(B, 3, H, W)`; the first is sent through the network a few times, or all, if it will not have one.
        caller: calls the network; None: it takes images and returns scores.

    Raises:
        BadInput: a name that is not there (with near ones), a module of another network, or a network without grids.
    """
    wanted = [layers] if isinstance(layers, str | nn.Module) else list(layers)
    if not wanted:
        raise BadInput("layers: name at least one layer, or give 'stages' or 'last'.")
    named = [name if name in KEYWORDS else _named(model, name) for name in wanted]
    caller = caller or Caller(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise BadInput(f"{_CLOSED} of a TorchScript program; give the network that it was made of.")
    try:
        calls = watch(caller, images[:1], torch.zeros(1, dtype=torch.long))
    except Exception:
        if len(images) == 1:
            raise
        calls = watch(caller, images)
    if not any(call.computes for call in calls) and any(p.ndim > 2 for p in model.parameters()):
        raise BadInput(f"{_CLOSED} of a network that calls no modules, such as an exported program; give the original.")
    found: list[Layer] = []
    for name in named:
        if isinstance(name, tuple):
            found.append(_called(*name, calls))
        else:
            stages = _stages(model, calls)
            found += {"stages": stages, "last": stages[-1:], "sharp": _sharp(stages, calls)}[str(name)]
    names = [layer.name for layer in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"layer '{twice}' is given twice; name every layer once.")
    return found


def _sharp(stages: list[Layer], calls: Sequence[Call]) -> list[Layer]:
    """The deepest stage that is not too coarse for boxes; the shallowest if all are."""
    cells = {call.place: call.grid_out for call in calls}
    fine = [layer for layer in stages if min(cells[layer.name] or (0, 0)) >= _SHARP]
    return fine[-1:] or stages[:1]


def _layer(call: Call) -> Layer:
    return Layer(call.place, call.module, call.number, call.reading)


def _named(model: nn.Module, wanted: str | nn.Module) -> tuple[str, int | None]:
    """The name of a module that is given or named, and the number of the call where one is named."""
    modules = dict(model.named_modules())
    if isinstance(wanted, nn.Module):
        inner = unwrap(wanted)
        name = next((name for name, module in modules.items() if module is inner and name), None)
        if name is None:
            raise BadInput(f"layer {type(wanted).__name__}: this module is not part of the model; take one of its own.")
        return name, None
    name, mark, number = wanted.rpartition("#") if wanted not in modules and "#" in wanted else (wanted, "", "")
    for wrapper in ("module.", "_orig_mod."):
        name = name.removeprefix(wrapper) if name not in modules else name
    if not name or name not in modules or (mark and not number.isdigit()):
        near = near_names(wanted, [n for n in modules if n])
        raise BadInput(f"layer '{wanted}' is not in the model{near} ({', '.join(KEYWORDS)} find layers by themselves).")
    return name, int(number) if mark else None


def _called(name: str, number: int | None, calls: Sequence[Call]) -> Layer:
    """The call that a name means: the last one, if it does not say which."""
    own = [call for call in calls if call.name == name]
    if not own:
        raise BadInput(f"layer '{name}' is not used when the model is called; choose another layer.")
    if number is not None and not 0 < number <= len(own):
        raise BadInput(
            f"layer '{name}#{number}': the module is called {len(own)} times; name {name}#1 to {name}#{len(own)}."
        )
    call = own[-1 if number is None else number - 1]
    if call.images is False or call.matrix:
        what = "an attention matrix, or windows" if call.matrix else "windows, inner tokens, or a table for all images"
        raise BadInput(
            f"layer '{call.place}' gives {call.shape} for one image, which is no grid of it ({what}); choose the block "
            "around it."
        )
    return _layer(call)


def known(layers: Sequence[Layer] | None) -> list[Layer]:
    """Returns layers that have been found.

    Raises:
        BadInput: no image has been seen yet.
    """
    if layers is None:
        raise BadInput("the layers are known once the maps of a first image have been asked for.")
    return list(layers)


def near_names(name: str, known: list[str]) -> str:
    """Returns `"; near names: a, b, c"` from `known`, or the first two and the last when nothing is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=3, cutoff=0.5)
    if not near:
        hint = nearest(name, known)
        return hint or f"; it has {', '.join(known[:2])} ... {known[-1]}" if known else "; it has no named layers"
    return f"; near names: {', '.join(near)}"


def _stages(model: nn.Module, everything: Sequence[Call]) -> list[Layer]:
    before = _before_class_maps(list(everything))
    calls = [call for call in before if call.needed]
    levels = _on_the_way(calls, _levels(calls))
    # one resolution throughout: it may be a transformer
    blocks = _transformer_blocks(model, before) if len(levels) <= 1 else []
    if blocks:
        return blocks
    norms = [c for c in calls if c.tokens is not None and c.grid_out is not None and isinstance(c.module, nn.LayerNorm)]
    if len(levels) <= 1 and norms:  # blocks that hand on something else besides
        last = norms[-1].name.rpartition(".")[2]
        return [_layer(c) for c in norms if c.name.rpartition(".")[2] == last][-_TRANSFORMER_BLOCKS:]
    ends = [_end_of(calls, levels, number) for number in range(len(levels))]
    stages = [_layer(_activated(calls, end)) for end in ends if end is not None]
    if not stages:
        raise BadInput(
            "the model has no convolution and no tokens whose grid could be mapped; "
            "these methods need a layer that keeps positions."
        )
    return stages


def _end_of(calls: list[Call], levels: list[tuple[int, int]], number: int) -> Call | None:
    """The call that ends what is computed at one resolution; None if that is no stage."""
    level = levels[number]
    # parts of the blocks that lead on to the next resolution are not where this stage ends
    inside = tuple(f"{block}." for block in _downsampling(calls, levels, number))
    own = [c for c in calls if c.grid_out == level and (not c.name.startswith(inside) or _is_block(calls, c))]
    # nor are modules that hold several stages
    ends = [c for c in own if _reach(c, levels) <= 1]
    if not ends:
        return None
    # nor what most of the paths to the scores lead past, such as the inside of attentions
    widest = max(c.through for c in ends)
    end = [c for c in ends if c.through == widest][-1]
    computing = [n for n, c in enumerate(calls) if c.computes and c.grid_out == level]
    if computing and calls.index(end) < computing[len(computing) // 2]:
        # the ways part at the beginning of the stage: its last normalisation, or the last call of all
        end = ([c for c in ends if isinstance(c.module, nn.LayerNorm)] or ends)[-1]
    # a stem of one strided convolution is no stage
    stem = number == 0 and len(levels) > 1 and _is_stem([c.module for c in own if c.computes])
    return None if stem and not _is_block(calls, end) else end


def _before_class_maps(calls: list[Call]) -> list[Call]:
    """Without a class convolution at the end: its channels are classes, whose gradients are one or nothing."""
    computing = [number for number, call in enumerate(calls) if call.computes]
    if not computing:
        return calls
    last = calls[computing[-1]]
    if not isinstance(last.module, nn.Conv2d) or last.grid_out is None or len(computing) < 2:
        return calls
    if last.classes not in (None, last.module.out_channels):
        return calls
    return calls[: computing[-1]]


def _levels(calls: list[Call]) -> list[tuple[int, int]]:
    """The resolutions at which something with weights is computed, fine to coarse."""
    levels = {c.grid_out for c in calls if c.grid_out is not None and c.computes}
    return sorted(levels, key=lambda grid: -grid[0] * grid[1])


def _is_block(calls: list[Call], call: Call) -> bool:
    """Whether everything goes through a call that computes several things: a block, and no part of one."""
    inside = [c for c in calls if c.name.startswith(f"{call.name}.") and c.computes]
    return call.through == 1 and len(inside) > 2 and all(c.grid_out in (call.grid_out, None) for c in inside)


def _on_the_way(calls: list[Call], levels: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The resolutions that the network as a whole has, without those inside an attention or a branch beside it."""
    widest = {level: max(c.through for c in calls if c.grid_out == level) for level in levels}
    most = max(widest.values(), default=1)
    # where the last resolutions are on every way, coarser ones inside a block are not its stages
    main = [level for level in levels if widest[level] == most]
    return main if len(main) > 2 else [level for level in levels if 20 * widest[level] >= most]


def _activated(calls: list[Call], end: Call) -> Call:
    """The end of a stage itself if it is an activation's output, else the activation that follows at its resolution."""
    place = next(number for number, call in enumerate(calls) if call is end)
    if end.tokens is not None:  # transformers rectify nothing between their blocks
        return end
    leaves = [c for c in calls[: place + 1] if next(c.module.children(), None) is None]
    if end.positive or leaves[-1].activates:
        return end
    following = [c for c in calls[place + 1 :] if c.activates and c.grid_out == end.grid_out]
    return following[-1] if following else end


def _is_stem(computing: list[nn.Module]) -> bool:
    """One strided convolution and at most its normalisation."""
    return len(computing) <= 2 and isinstance(computing[0], nn.Conv2d) and max(computing[0].stride) > 1


def _downsampling(calls: list[Call], levels: list[tuple[int, int]], number: int) -> list[str]:
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


def _reach(call: Call, levels: list[tuple[int, int]]) -> int:
    """How many resolutions a module passes through; a chain of several stages is not the end of one."""
    start = levels.index(call.grid_in) if call.grid_in in levels else -1
    return levels.index(call.grid_out) - start if call.grid_out in levels else 0


def _transformer_blocks(model: nn.Module, calls: list[Call]) -> list[Layer]:
    """The first normalisation of each of the last blocks that hand on the same number of tokens."""
    families: dict[tuple[str, type, int], list[str]] = {}
    for call in calls:
        if call.tokens is not None and call.tokens > 1 and "." in call.name:
            key = (call.name.rpartition(".")[0], type(call.module), call.tokens)
            families.setdefault(key, []).append(call.name)
    blocks = [names for names in families.values() if _has_norm(model, names[0])]
    if not blocks:
        return []
    most = max(blocks, key=lambda names: (len(names), names[0].count(".")))  # of equally many the innermost
    layers = []
    for block in most[-_TRANSFORMER_BLOCKS:]:
        own = (c for c in calls if c.name.startswith(f"{block}.") and isinstance(c.module, nn.LayerNorm))
        norm = next(own, None)
        if norm is not None and norm.needed:
            layers.append(_layer(norm))
    return layers


def _has_norm(model: nn.Module, name: str) -> bool:
    module = model.get_submodule(name)
    return any(isinstance(m, nn.LayerNorm) for m in module.modules() if m is not module)
