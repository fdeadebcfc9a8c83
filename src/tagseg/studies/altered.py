"""Studies that change the network or the photograph, and look at what a decomposition then says.

Sections 5.7 to 5.9 and 5.12 of the thesis on hierarchical attention decomposition: randomised weights, a sparse
surrogate, removed channels, adversarial photographs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from tagseg.attribution import GuidedBackprop
from tagseg.attribution.ablation import rerun, rerun_all
from tagseg.attribution.gap import Decision, Recording
from tagseg.attribution.hierarchy import Hierarchy
from tagseg.attribution.holding import undisturbed
from tagseg.errors import BadInput
from tagseg.explaining.classifiers import Classifier
from tagseg.studies.decomposed import Example
from tagseg.studies.tables import Findings, Table

Pixels = Callable[[torch.Tensor, int], torch.Tensor]  # image (1, 3, H, W), class -> (H, W)

SMOOTH_SAMPLES, SMOOTH_NOISE, STEPS = 15, 0.15, 20  # of SmoothGrad and Integrated Gradients
KEPT = (1, 2, 4, 8, 16, 32, 64)
LEVELS_KEPT = {1: 64, 2: 16, 3: 4}  # at most so many of each decomposition, by how many layers are sparse; 3 or more
SPREAD = 16  # channels of a layer that hand their importance down
REMOVED = (0, 1, 2, 4, 8, 16, 32)
STEP, LONGEST, TIMES = 0.02, 0.12, 12  # of the adversarial search, in units of the normalised image


def captum_attr() -> Any:
    """Returns `captum.attr`, which the studies compare with."""
    try:
        import captum.attr
    except ImportError as error:
        raise BadInput("this study needs captum, which is not installed; pip install 'tagseg[studies]'.") from error
    return captum.attr


def pixel_methods(model: nn.Module, layers: Any) -> dict[str, Pixels]:
    """Returns attributions to pixels by name; Guided Backpropagation refuses a network without ReLUs."""
    captum = captum_attr()
    hierarchy = Hierarchy(model, layers)

    def integrated(image: torch.Tensor, number: int) -> torch.Tensor:
        with undisturbed(model):
            return captum.IntegratedGradients(model).attribute(
                image, target=number, n_steps=STEPS, internal_batch_size=8
            )[0]

    def smooth(image: torch.Tensor, number: int) -> torch.Tensor:
        noise = torch.randn(SMOOTH_SAMPLES, *image.shape[1:], generator=torch.Generator().manual_seed(0)).to(image)
        spread = SMOOTH_NOISE * float(image.max() - image.min())
        total = torch.zeros_like(image[0])
        for some in (image + spread * noise).split(5):
            total += gradient(model, some, number).sum(dim=0)
        return total

    def gap(image: torch.Tensor, number: int) -> torch.Tensor:
        return hierarchical_gradient(hierarchy, image, number)

    def guided(image: torch.Tensor, number: int) -> torch.Tensor:
        return GuidedBackprop(model).gradients(image, [number])[0, 0]

    found: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
        "gAP": gap,
        "Integrated Gradients": integrated,
        "Guided Backprop": guided,
        "SmoothGrad": smooth,
    }
    return {name: _magnitude(method) for name, method in found.items()}


def _magnitude(method: Callable[[torch.Tensor, int], torch.Tensor]) -> Pixels:
    return lambda image, number: method(image, number).detach().float().abs().amax(dim=0)


def gradient(model: nn.Module, images: torch.Tensor, number: int) -> torch.Tensor:
    """Returns the gradient of the score of one class with respect to the pixels, `(B, 3, H, W)`."""
    with undisturbed(model):
        leaf = images.clone().requires_grad_()
        return torch.autograd.grad(model(leaf)[:, number].sum(), leaf)[0]


def hierarchical_gradient(hierarchy: Hierarchy, image: torch.Tensor, number: int) -> torch.Tensor:
    """Returns the gradients of a tree's last channels with respect to the pixels, added up.

    Each channel is decomposed at its peak; the sum is `(3, H, W)`.
    """
    tree = hierarchy(image, [number])[0][0]
    recording = hierarchy.recorder(image, pixels=True)
    leaves = list(dict.fromkeys(Decision(*node.decision) for _, node in tree.nodes() if not node.children))
    total = torch.zeros_like(image[0])
    for level in sorted({leaf.level for leaf in leaves}):
        of_level = [leaf for leaf in leaves if leaf.level == level]
        for start in range(0, len(of_level), 64):
            total += recording.pixel_gradients(of_level[start : start + 64]).sum(dim=0)
    return total


def spearman(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the rank correlation of two maps; 0 where one of them is constant."""
    a, b = (rankdata(values.flatten().cpu().numpy()) for values in (one, other))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0


def sanity(found: Iterable[Example], model: nn.Module, layers: Any, against: nn.Module | None) -> Findings:
    """Measures whether attributions to pixels depend on what was learnt (section 5.7; Adebayo et al., NIPS 2018).

    It takes the Spearman correlation of each attribution with its own after the weights were randomised from the top
    down, one part of the network after the other; and, with `against`, with that of the same network taught wrong
    labels.
    """
    cases = [(example, _best(model, example.image)) for example in found]
    first = {name: [method(e.image, n) for e, n in cases] for name, method in pixel_methods(model, layers).items()}
    table = Table("Spearman correlation with the attributions of the trained network", ("randomised down to", *first))
    lines: dict[str, tuple[list[float], list[float]]] = {name: ([0.0], [1.0]) for name in first}
    for step, (part, altered) in enumerate(cascade(model), start=1):
        values = _compared(first, pixel_methods(altered, layers), cases)
        table.rows.append((part, *(f"{value:.3f}" for value in values)))
        for (xs, ys), value in zip(lines.values(), values, strict=True):
            xs.append(float(step))
            ys.append(value)
    tables = [table]
    if against is not None:
        other = Table("Spearman correlation with those of the network that was taught wrong labels", tuple(first))
        other.rows.append(tuple(f"{v:.3f}" for v in _compared(first, pixel_methods(against, layers), cases)))
        tables.append(other)
    for of_table in tables:
        of_table.note = f"Magnitudes, {len(cases)} photographs, of the class that scores highest. Lower is better."
    return Findings(tables, lines, "parts randomised, from the top", "Spearman correlation")


def _compared(
    first: dict[str, list[torch.Tensor]], methods: dict[str, Pixels], cases: Sequence[tuple[Example, int]]
) -> list[float]:
    return [
        float(np.mean([spearman(old, methods[name](e.image, n)) for old, (e, n) in zip(maps, cases, strict=True)]))
        for name, maps in first.items()
    ]


def cascade(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yields a copy of a network with more and more of its parts randomised, from the top down.

    Before it comes the part's name. A part is a module with weights right below the network's root, or below a chain of
    such that holds all of them; chains of blocks count block by block.
    """
    altered = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, part in reversed(_named_parts(altered)):
            for module in part.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
            yield name, altered


def _named_parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    parts = [(name, child) for name, child in model.named_children() if any(True for _ in child.parameters())]
    if len(parts) == 1:
        return [(f"{parts[0][0]}.{name}", part) for name, part in _named_parts(parts[0][1])] or parts
    found = []
    for name, part in parts:
        inner = [(n, c) for n, c in part.named_children() if any(True for _ in c.parameters())]
        chain = isinstance(part, nn.Sequential | nn.ModuleList) and len(inner) > 1
        found += [(f"{name}.{n}", c) for n, c in inner] if chain else [(name, part)]
    return found


def surrogate(found: Iterable[Example], hierarchy: Hierarchy, exclusive_top: int = 10) -> Findings:
    """Measures a network of which every class keeps its strongest channels only (section 5.8).

    For every class that may win (the highest scores), the channels that its decomposition names strongest stay and the
    others are zero: in the deepest layer, and then also in more and more layers before, where those of each
    decomposition stay.
    The surrogate says the class of the highest such score.
    """
    model, recorder = hierarchy.recorder.model, hierarchy.recorder
    hits: dict[tuple[int, int], list[tuple[bool, bool]]] = {}
    whole: list[bool] = []
    for example in found:
        recording = recorder(example.image)
        scores = recording.scores[0].detach()
        best = scores.topk(min(exclusive_top, len(scores))).indices.tolist()
        whole.append(best[0] in example.sample.tags)
        decisions = [recording.score(0, number) for number in best]
        deepest = len(recording.layers) - 1
        orders = list(recording.each(decisions, lambda p: (p.contributions.argsort(descending=True), p.peaks)))
        for kept in KEPT:
            chosen = [
                [(channel, tuple(peaks[channel].tolist())) for channel in order[:kept].tolist()]
                for order, peaks in orders
            ]
            changes: dict[int, Callable[[torch.Tensor], None]] = {}
            for level in range(deepest, -1, -1):
                depth = deepest - level + 1
                if kept > LEVELS_KEPT.get(depth, LEVELS_KEPT[max(LEVELS_KEPT)]):
                    break
                if level < deepest:
                    chosen = [_children(recording, level + 1, channels, kept) for channels in chosen]
                changes[level] = _keep_only([[channel for channel, _ in channels] for channels in chosen])
                sparse = rerun_all(model, recording, example.image, len(best), changes)
                said = best[int(sparse[torch.arange(len(best)), best].argmax())]
                hits.setdefault((depth, kept), []).append((said in example.sample.tags, said == best[0]))
    if not hits:
        raise BadInput("no photograph to look at.")
    columns = ("kept", "channels of a decomposition", "accuracy", "agrees with the network")
    table = Table("Sparse surrogate", columns)
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for (depth, kept), of_kept in sorted(hits.items()):
        name = "deepest layer" if depth == 1 else f"{depth} deepest layers"
        right, same = (100 * float(np.mean(column)) for column in zip(*of_kept, strict=True))
        table.rows.append((name, kept, right, same))
        xs, ys = lines.setdefault(name, ([], []))
        xs.append(kept)
        ys.append(same)
    table.rows.append(("(whole network)", "-", 100 * float(np.mean(whole)), 100.0))
    table.note = "In per cent; accurate is the highest score when it is one of the photograph's tags."
    return Findings([table], lines, "channels kept in each decomposition", "agreement with the network, %")


def _children(
    recording: Recording, level: int, channels: Sequence[tuple[int, tuple[int, ...]]], kept: int
) -> list[tuple[int, tuple[int, ...]]]:
    """The channels of the layer before that the decompositions of these channels at their peaks name strongest, each
    with its peak in the first of them."""
    decisions = [Decision(level, channel, *peak) for channel, peak in channels]
    found: dict[int, tuple[int, ...]] = {}
    for order, peaks in recording.each(
        decisions, lambda parts: (parts.contributions.topk(min(kept, len(parts.maps))).indices, parts.peaks)
    ):
        for channel in order.tolist():
            found.setdefault(channel, tuple(peaks[channel].tolist()))
    return sorted(found.items())


def _keep_only(channels: Sequence[Sequence[int]]) -> Callable[[torch.Tensor], None]:
    """Write zeros into all channels of a copy but its own."""

    def change(grid: torch.Tensor) -> None:
        for copy_, own in zip(grid, channels, strict=True):
            lost = torch.ones(len(copy_), dtype=torch.bool, device=grid.device)
            lost[list(own)] = False
            copy_[lost] = 0

    return change


def removal(found: Iterable[Example], hierarchy: Hierarchy) -> Findings:
    """Measures how much is lost when the channels that an attribution calls most important are removed.

    This is section 5.9, layer by layer, over photographs that the network names right. Importance by gAP is handed down
    from the deepest layer (see `propagated`). It is compared with captum's Layer Conductance, Internal Influence and
    layer-wise relevance propagation (where captum knows the network's modules), summed over positions.
    """
    model = hierarchy.recorder.model
    outcomes: dict[tuple[str, str], list[list[tuple[bool, float]]]] = {}
    refused: dict[str, str] = {}
    for example in found:
        recording = hierarchy.recorder(example.image)
        number = int(recording.scores[0].argmax())
        if number not in example.sample.tags:
            continue
        handed = propagated(recording, number)
        for level, layer in enumerate(recording.layers):
            rankings = {"gAP": handed[level]}
            for name, importance in _captum(model, recording, example.image, number, level, refused).items():
                rankings[name] = importance
            rankings["at random"] = torch.rand(len(handed[level]), generator=torch.Generator().manual_seed(number))
            for name, importance in rankings.items():
                order = importance.argsort(descending=True, stable=True).tolist()
                scores = rerun(model, recording, example.image, level, len(REMOVED), _without(order))
                whole = float(recording.scores[0, number].detach())
                fallen = [(int(s.argmax()) == number, whole - float(s[number])) for s in scores]
                outcomes.setdefault((layer.name, name), []).append(fallen)
    if not outcomes:
        raise BadInput("the classifier names no photograph of this split right; there is nothing to lose.")
    columns = ("layer", "importance by", *(f"{n} removed" for n in REMOVED[1:]), f"score lost, {REMOVED[-1]} removed")
    table = Table("Still named right, per cent, when the most important channels are removed; lower is better", columns)
    lines: dict[str, tuple[list[float], list[float]]] = {}
    deepest = next(reversed(outcomes))[0]
    for (layer_name, name), of_way in outcomes.items():
        right = [100 * float(np.mean([case[i][0] for case in of_way])) for i in range(len(REMOVED))]
        table.rows.append((layer_name, name, *right[1:], float(np.mean([case[-1][1] for case in of_way]))))
        if layer_name == deepest:
            lines[name] = (list(REMOVED), right)
    total = len(next(iter(outcomes.values())))
    table.note = f"{total} photographs." + "".join(f" {name}: {why}" for name, why in refused.items())
    return Findings([table], lines, f"channels of {deepest} removed", "still named right, %")


def propagated(recording: Recording, number: int) -> list[torch.Tensor]:
    """Returns what each channel has of the class, handed down from the deepest layer: `(D,)` for every level.

    In the deepest layer it is the channel's share. Below, the `SPREAD` most important channels hand what they have to
    those that they are made of at their peaks, by shares; what speaks against a channel hands down nothing.
    """
    deepest = len(recording.layers) - 1
    parts = recording.parts([recording.score(0, number)])[0]
    found = [parts.shares.clamp_min(0).cpu()]
    peaks = parts.peaks.tolist()
    for level in reversed(range(deepest)):
        above = found[0]
        chosen = [k for k in above.topk(min(SPREAD, len(above))).indices.tolist() if above[k] > 0]
        decisions = [Decision(level + 1, k, *peaks[k]) for k in chosen]
        below: dict[int, tuple[float, list[int]]] = {}
        total = torch.zeros(recording.features(level).shape[1])
        for k, (shares, places) in zip(
            chosen, recording.each(decisions, lambda p: (p.shares.clamp_min(0).cpu(), p.peaks.tolist())), strict=True
        ):
            handed = float(above[k]) * shares
            total += handed
            # a channel's peak is where its strongest parent sees it
            for channel in handed.nonzero().flatten().tolist():
                if float(handed[channel]) > below.get(channel, (0.0, []))[0]:
                    below[channel] = float(handed[channel]), places[channel]
        found.insert(0, total)
        peaks = [below.get(channel, (0.0, [0, 0]))[1] for channel in range(len(total))]
    return found


def _without(order: Sequence[int]) -> Callable[[torch.Tensor], None]:
    """In the i-th copy, write zeros into the first `REMOVED[i]` channels."""

    def change(grid: torch.Tensor) -> None:
        for copy_, count in zip(grid, REMOVED, strict=True):
            copy_[list(order[:count])] = 0

    return change


def _captum(
    model: nn.Module, recording: Recording, image: torch.Tensor, number: int, level: int, refused: dict[str, str]
) -> dict[str, torch.Tensor]:
    """`(D,)` by name; what captum cannot do with this network is remembered in `refused`."""
    captum = captum_attr()
    layer = recording.layers[level]
    ways: dict[str, Callable[[], Any]] = {
        "Conductance": lambda: captum.LayerConductance(model, layer.module).attribute(
            image, target=number, n_steps=STEPS, internal_batch_size=8
        ),
        "Internal Influence": lambda: captum.InternalInfluence(model, layer.module).attribute(
            image, target=number, n_steps=STEPS, internal_batch_size=8
        ),
        "LRP": lambda: captum.LayerLRP(model, _before_relu(model, layer.module)).attribute(image, target=number),
    }
    found: dict[str, torch.Tensor] = {}
    for name, way in ways.items():
        if name in refused:
            continue
        try:
            with undisturbed(model):
                values = way()
        except Exception as error:  # captum names what it does not know by errors of many kinds
            refused[name] = f"captum cannot do it with this network ({str(error).splitlines()[0][:120]})."
            continue
        values = values[0] if isinstance(values, tuple) else values
        grid = layer.grid(values.detach(), recording.size)[0]
        found[name] = grid.float().sum(dim=(1, 2)).cpu()
    return found


def _before_relu(model: nn.Module, layer: nn.Module) -> nn.Module:
    """The convolution that feeds a layer's ReLU: captum hands relevance through ReLUs and keeps none there."""
    last = list(layer.modules())[-1]
    found = layer
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            found = module
        if module is last:
            break
    return found


def adversarial(found: Iterable[Example], hierarchy: Hierarchy, classifier: Classifier) -> Findings:
    """Measures what happens to the channels behind two classes when a photograph is bent from one to the other.

    This is section 5.12. The bent photograph comes from small steps along the sign of the gradient of the second
    class's score less the first's, until it wins. Peaks are of the strongest channels of the deepest layer: the right
    class's of the photograph as it was, the wrong class's of the bent one.
    """
    peaks: dict[str, list[tuple[float, float]]] = {"right class": [], "wrong class": []}
    bent, seen = 0, 0
    for example in found:
        recording = hierarchy.recorder(example.image)
        first, second = recording.scores[0].topk(2).indices.tolist()
        seen += 1
        changed = bend(hierarchy.recorder.model, example.image, first, second)
        if changed is None:
            continue
        bent += 1
        after = hierarchy.recorder(changed)
        level = len(recording.layers) - 1
        for words, number, source in (("right class", first, recording), ("wrong class", second, after)):
            parts = source.parts([source.score(0, number)])[0]
            for node in hierarchy.channels(source, parts):
                values = [float(r.features(level)[0, node.channel].max()) for r in (recording, after)]
                peaks[words].append((values[0], values[1]))
    if not bent:
        raise BadInput("no photograph could be bent to another class by steps as small as these.")
    columns = ("channels of the", "channels", "peak before", "peak after", "change, %", "fall, %", "rise, %")
    table = Table(f"Peaks of the strongest channels, {bent} of {seen} photographs bent to another class", columns)
    for words, pairs in peaks.items():
        before, after_ = np.array(pairs).T
        change = 100 * (float(after_.mean() / before.mean()) - 1)
        fall, rise = (100 * float(np.mean(test)) for test in (after_ < before, after_ > before))
        table.rows.append((words, len(pairs), float(before.mean()), float(after_.mean()), change, fall, rise))
    table.note = (
        "The right class's channels are those of the photograph as it was, the wrong one's those of the bent one. "
        f"Steps of {STEP}, at most {LONGEST} in all, of the normalised image ({classifier.side} pixels)."
    )
    lines = {words: ([0, 1], [float(m) for m in np.mean(pairs, axis=0)]) for words, pairs in peaks.items()}
    return Findings([table], lines, "as it was (0), bent (1)", "mean peak")


def bend(model: nn.Module, image: torch.Tensor, first: int, second: int) -> torch.Tensor | None:
    """Returns the image changed until the second class wins; None if that takes too much."""
    bent = image.clone()
    for _ in range(TIMES):
        slope = gradient(model, bent, second) - gradient(model, bent, first)
        bent = (bent + STEP * slope.sign()).clamp(image - LONGEST, image + LONGEST)
        if _best(model, bent) == second:
            return bent
    return None


def _best(model: nn.Module, image: torch.Tensor) -> int:
    with undisturbed(model), torch.no_grad():
        return int(model(image)[0].argmax())
