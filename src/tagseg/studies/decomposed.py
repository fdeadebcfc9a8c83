"""Studies of what a decomposition says: does it agree with ablation, how long is its tail, what are channels for?

All of chapter 5 of the thesis on hierarchical attention decomposition; section 5.3 of it and on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from tagseg.attribution.ablation import drops
from tagseg.attribution.gap import Decision, Parts, Recording
from tagseg.attribution.hierarchy import Hierarchy, Tree, cells_of, strongest
from tagseg.cores import prefetch
from tagseg.data.dataset import Sample, read_mask
from tagseg.data.images import read_image
from tagseg.data.regions import UNSAID, Regions
from tagseg.errors import BadInput
from tagseg.explaining.classifiers import Classifier
from tagseg.labels import IGNORE
from tagseg.progress import Advance
from tagseg.studies.tables import Findings, Table

ESTIMATES = ("average activation", "maximum activation", "average gradient", "maximum gradient", "first order")
ROUNDING = 1e-5  # of a decision, below which a difference is none
_TAIL = ("share of 1", "of 3", "of 10", "for half", "for 90 %")
SEEN_OFTEN = 5  # a channel counts as discriminative or not when it was seen so often


@dataclass(frozen=True)
class Example:
    """A photograph as the classifier sees it, `(1, 3, S, S)`, with its truth."""

    sample: Sample
    image: torch.Tensor


def examples(classifier: Classifier, samples: Sequence[Sample], advance: Advance) -> Iterator[Example]:
    """Yields the photographs in order, one at a time."""

    def load(sample: Sample) -> tuple[Sample, torch.Tensor]:
        return sample, classifier.images([read_image(sample.image)])

    for done, (sample, image) in enumerate(prefetch(load, list(samples)), start=1):
        yield Example(sample, image)
        advance(done, "")


def agreement(found: Iterable[Example], hierarchy: Hierarchy) -> Findings:
    """Compares contributions with what happens when a channel is replaced by its mean activation (table 5.1).

    It looks at the highest score of every photograph, and at what the hierarchy decomposes below it. The mean is that
    of the map, or that of the channel over all photographs looked at: where a score is linear in the mean of a map, as
    behind global average pooling, replacing the map by its own mean changes nothing.
    """
    cases = list(found)
    recorder = hierarchy.recorder
    means = _means(hierarchy, cases)
    correlations: dict[str, dict[tuple[str, str], list[float]]] = {}
    seconds: dict[str, list[tuple[float, float]]] = {}
    tails: dict[str, list[np.ndarray]] = {}
    for example in cases:
        recording = recorder(example.image)
        decisions = [recording.score(0, int(recording.scores[0].argmax()))]
        while decisions and decisions[0].level > 0:
            level = decisions[0].level - 1
            step = _step(recording, level)
            begun = time.perf_counter()
            list(recording.each(decisions, lambda parts: parts.contributions))
            middle = time.perf_counter()
            truths = {"map": drops(recorder.model, recording, example.image, decisions, level)}
            ended = time.perf_counter()
            for mean, fill in (("data", means[level]), ("nothing", torch.zeros_like(means[level]))):
                truths[mean] = drops(recorder.model, recording, example.image, decisions, level, means=fill)
            seconds.setdefault(step, []).append(((middle - begun) / len(decisions), ended - middle))
            below: list[Decision] = []

            def use(parts: Parts, below: list[Decision] = below, recording: Recording = recording) -> Any:
                below += _below(hierarchy, recording, parts)
                return parts.value, estimates(parts)

            for fallen in truths["map"]:
                positive = fallen.clamp_min(0).double()
                if float(positive.sum()) > 0:
                    tails.setdefault(step, []).append(
                        (positive.sort(descending=True).values / positive.sum()).cpu().numpy()
                    )
            for number, (size, of_decision) in enumerate(recording.each(decisions, use)):
                for (mean, truth), (name, estimate) in product(truths.items(), of_decision.items()):
                    if truth[number].abs().max() < ROUNDING * size:
                        continue  # nothing falls
                    value = pearson(estimate, truth[number])
                    if value is not None:
                        correlations.setdefault(step, {}).setdefault((mean, name), []).append(value)
            decisions = list(dict.fromkeys(below))
    if not correlations:
        raise BadInput("no decision could be decomposed; look at the layers.")
    tables = []
    for mean, words in (("map", "its map's mean"), ("data", "its mean over all photographs"), ("nothing", "nothing")):
        table = Table(
            f"Pearson correlation with the fall when a channel is replaced by {words}", ("from, to", *ESTIMATES)
        )
        for step, by_name in correlations.items():
            values = [float(np.mean(by_name[mean, name])) if (mean, name) in by_name else None for name in ESTIMATES]
            table.rows.append((step, *(None if v is None else f"{v:.3f}" for v in values)))
        tables.append(table)
    tables += [_tails(tails), _times(seconds)]
    steps = list(range(1, len(correlations) + 1))
    lines = {
        name: (steps, [float(np.mean(c.get(("map", name), [float("nan")]))) for c in correlations.values()])
        for name in ESTIMATES[:4]
    }
    return Findings(tables, lines, "levels down from the class", "Pearson correlation")


def _tails(curves: dict[str, list[np.ndarray]]) -> Table:
    """How the falls by ablation go down from the strongest channel on (section 5.5)."""
    columns = ("from, to", "channels", *_TAIL)
    table = Table("The long tail by ablation: shares of the falls, and channels that make up a part of them", columns)
    for step, of_step in curves.items():
        table.rows.append((step, len(of_step[0]), *_shares(np.array(of_step))))
    return table


def _shares(curves: np.ndarray) -> list[float]:
    """What 1, 3 and 10 channels make up, in per cent, and how many it takes for half and 90 %: means over `(N, D)`."""
    total = np.cumsum(curves, axis=1)
    shares = [100 * float(total[:, min(n, total.shape[1]) - 1].mean()) for n in (1, 3, 10)]
    return shares + [float((total < part).sum(axis=1).mean() + 1) for part in (0.5, 0.9)]


def _times(seconds: dict[str, list[tuple[float, float]]]) -> Table:
    table = Table("Time", ("from, to", "ms a decision", "ms by ablation", "ratio"))
    for step, pairs in seconds.items():
        fast, slow = (1000 * float(np.median(column)) for column in zip(*pairs, strict=True))
        table.rows.append((step, fast, slow, slow / fast))
    totals = [sum(row[column] for row in table.rows) for column in (1, 2)]
    table.rows.append(("one decision of every level", *totals, totals[1] / totals[0]))
    table.note = (
        "Medians. Ablation tries every channel of a layer once, and computes only what lies between the layer and the "
        "decision, in batches."
    )
    return table


def _means(hierarchy: Hierarchy, cases: Sequence[Example]) -> list[torch.Tensor]:
    """`(D,)` of every level: the mean activation of each channel over all photographs."""
    totals: list[torch.Tensor] = []
    for example in cases:
        recording = hierarchy.recorder(example.image)
        of_image = [recording.features(level)[0].mean(dim=(1, 2)) for level in range(len(recording.layers))]
        totals = of_image if not totals else [a + b for a, b in zip(totals, of_image, strict=True)]
    return [total / len(cases) for total in totals]


def estimates(parts: Parts) -> dict[str, torch.Tensor]:
    """Returns the four estimates of table 5.1, `(D,)` each, of which the first is the contribution, and a fifth.

    The fifth is what replacing a map by its mean does to first order: it tells how much of a disagreement is due to the
    mean that is put in, and how much to what lies in between not being linear.
    """
    slopes, maps = parts.gradients.sum(dim=(1, 2)), parts.maps.sum(dim=(1, 2))
    values = (
        parts.contributions,
        parts.maps.amax(dim=(1, 2)),
        parts.gradients.mean(dim=(1, 2)),
        parts.gradients.amax(dim=(1, 2)),
        maps - slopes * parts.means,
    )
    return dict(zip(ESTIMATES, values, strict=True))


def pearson(one: torch.Tensor, other: torch.Tensor) -> float | None:
    """Returns the correlation of two `(D,)`; None where one of them is constant."""
    a, b = (v.double().cpu() - v.double().cpu().mean() for v in (one, other))
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else None


def contributions(found: Iterable[Example], hierarchy: Hierarchy) -> Findings:
    """Measures how contributions fall from the strongest channel on (section 5.5).

    It also counts how many channels take part at all.
    """
    recorder = hierarchy.recorder
    curves: dict[str, list[np.ndarray]] = {}
    counts: dict[str, list[tuple[int, int, int]]] = {}
    for example in found:
        recording = recorder(example.image)
        decisions = [recording.score(0, int(recording.scores[0].argmax()))]
        while decisions and decisions[0].level > 0:
            step = _step(recording, decisions[0].level - 1)
            below: list[Decision] = []
            for parts in recording.parts(decisions):
                positive = parts.contributions.clamp_min(0)
                active = int((positive > 0).sum())
                if not active:
                    continue
                kept = strongest(parts.maps, parts.contributions, active, hierarchy.overlap)
                curve = (positive.sort(descending=True).values / positive.sum()).cpu().numpy()
                curves.setdefault(step, []).append(curve)
                counts.setdefault(step, []).append((len(curve), active, active - len(kept)))
                below += _below(hierarchy, recording, parts)
            decisions = list(dict.fromkeys(below))
    columns = ("from, to", "channels", "active", "overlapping", *_TAIL)
    table = Table(
        "The long tail: shares of the positive contributions, and channels that make up a part of them", columns
    )
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for step, of_step in curves.items():
        channels, active_ones, same = (float(np.mean(column)) for column in zip(*counts[step], strict=True))
        table.rows.append((step, int(channels), active_ones, same, *_shares(np.array(of_step))))
        shown = min(60, len(of_step[0]))
        lines[step] = (list(range(1, shown + 1)), (100 * np.mean(of_step, axis=0)[:shown]).tolist())
    table.note = "Active channels contribute more than nothing; overlapping ones would be merged into a stronger one."
    return Findings([table], lines, "channel, from strong to weak", "share of the positive contributions, %")


def discriminativeness(found: Iterable[Example], hierarchy: Hierarchy, classes: Sequence[str]) -> Findings:
    """Measures whether channels are for one class alone: `D = max_c N_c / sum_c N_c` (section 5.6).

    N_c counts the photographs of class c in whose tree (of that tag) the channel is one of the strongest; or, as in the
    thesis, the decompositions in these trees in which it is.
    """
    counts: dict[str, dict[int, Counter[int]]] = {}
    each: dict[str, dict[int, Counter[int]]] = {}
    for example in found:
        for tree in hierarchy(example.image, [list(example.sample.tags)])[0]:
            for layer, channels in _of_layers(tree).items():
                for channel, times in channels.items():
                    counts.setdefault(layer, {}).setdefault(channel, Counter())[tree.number] += 1
                    each.setdefault(layer, {}).setdefault(channel, Counter())[tree.number] += times
    columns = (
        *("layer", "channels seen", f"seen {SEEN_OFTEN} times", "mean D", "D above 0.5"),
        *("mean D by decompositions", "most discriminative"),
    )
    table = Table("Discriminativeness of channels", columns)
    means: list[float] = []
    for layer, of_layer in counts.items():
        often = {k: _discriminative(c) for k, c in of_layer.items() if sum(c.values()) >= SEEN_OFTEN}
        mean = float(np.mean([d for d, _ in often.values()])) if often else None
        high = 100 * float(np.mean([d > 0.5 for d, _ in often.values()])) if often else None
        by_each = float(np.mean([_discriminative(each[layer][k])[0] for k in often])) if often else None
        best = sorted(often.items(), key=lambda item: -item[1][0])[:3]
        words = ", ".join(f"{channel} {classes[number]} {d:.2f}" for channel, (d, number) in best)
        table.rows.append((layer, len(of_layer), len(often), mean, high, by_each, words or "-"))
        means.append(float("nan") if mean is None else mean)
    table.note = (
        f"Over channels that are in {SEEN_OFTEN} trees at least: D of a channel seen once is 1 and says nothing."
    )
    line = {"mean D": (list(range(1, len(means) + 1)), means)}
    return Findings([table], line, "levels down from the class", "mean D")


def _discriminative(counts: Counter[int]) -> tuple[float, int]:
    number, most = counts.most_common(1)[0]
    return most / sum(counts.values()), number


def context(
    found: Iterable[Example], hierarchy: Hierarchy, classes: Sequence[str], regions: Regions | None = None
) -> Findings:
    """Measures what the channels behind a class look at (section 5.14): the label of the region that overlaps most.

    A channel's cells are those above half of its map's maximum; the region is of the true mask, or of labels of
    everything, if there are some, as in the thesis (PASCAL-Context). The deepest layer is told class by class, every
    layer by its means.
    """
    ignored, names = (IGNORE, ("background", *classes)) if regions is None else (UNSAID, regions.names)
    # the label of every class; one that nothing is called by is nowhere itself
    own_label = [number + 1 if regions is None else regions.label_of(name) for number, name in enumerate(classes)]
    counts: dict[str, dict[int, Counter[int]]] = {}
    first = ""
    for example in found:
        if regions is not None:
            mask = regions.read(example.sample.name) if example.sample.name in regions else None
        else:
            mask = None if example.sample.mask is None else read_mask(example.sample.mask)
        if mask is None:
            continue
        for tree in hierarchy(example.image, [list(example.sample.tags)])[0]:
            first = tree.children[0].layer if tree.children else first
            for _, node in tree.nodes():
                label = overlapping_label(torch.from_numpy(node.map), mask, ignored)
                if label is not None:
                    counts.setdefault(node.layer, {}).setdefault(tree.number, Counter())[label] += 1
    if first not in counts:
        what = "a mask" if regions is None else f"a file in {regions.folder}"
        raise BadInput(f"no tagged photograph of this split has {what}; context needs to know what lies where.")
    table = Table("What the strongest channels behind a class look at", ("class", "channels", "itself", "most often"))
    deepest = counts[first]
    own = []
    for number, of_class in sorted(deepest.items()):
        words = ", ".join(f"{names[label]} {100 * n / of_class.total():.0f} %" for label, n in of_class.most_common(3))
        own.append(100 * of_class[own_label[number]] / of_class.total())
        table.rows.append((classes[number], of_class.total(), own[-1], words))
    table.rows.append(("mean", sum(c.total() for c in deepest.values()), float(np.mean(own)), ""))
    levels = Table("By layer", ("layer", "channels", "the class itself", "other classes", "anything else"))
    known = set(own_label)
    for layer, of_layer in counts.items():
        parts = []
        for number, c in of_layer.items():
            itself, of_classes = c[own_label[number]], sum(n for label, n in c.items() if label in known)
            parts.append([itself, of_classes - itself, c.total() - of_classes] / np.float64(c.total()))
        means = (100 * float(mean) for mean in np.mean(parts, axis=0))
        levels.rows.append((layer, sum(c.total() for c in of_layer.values()), *means))
    levels.note = "In per cent, means over classes."
    unnamed = [name for name, label in zip(classes, own_label, strict=True) if label < 0]
    if unnamed:
        levels.note += f" Of the regions none is called: {', '.join(unnamed)}; these classes are nowhere themselves."
    line = {"channels that look at the class itself": (list(range(len(own))), own)}
    return Findings([table, levels], line, "class", "%")


def overlapping_label(map_: torch.Tensor, mask: np.ndarray, ignored: int = IGNORE) -> int | None:
    """Returns the label of the region of a mask `(H, W)` with the largest IoU to the cells of a map `(h, w)`.

    It is None where no labelled region overlaps; what is `ignored` is not labelled.
    """
    cells = cells_of(map_).numpy()
    height, width = mask.shape
    rows = (np.arange(height) * cells.shape[0] // height).clip(max=cells.shape[0] - 1)
    columns = (np.arange(width) * cells.shape[1] // width).clip(max=cells.shape[1] - 1)
    inside = cells[rows][:, columns]
    best, label = 0.0, None
    for number in np.unique(mask[inside]):
        if number != ignored:
            region = mask == number
            overlap = float((region & inside).sum() / (region | inside).sum())
            if overlap > best:
                best, label = overlap, int(number)
    return label


def _below(hierarchy: Hierarchy, recording: Recording, parts: Parts) -> list[Decision]:
    """The strongest channels of a decomposition as decisions."""
    return [Decision(*node.decision, parts.decision.image) for node in hierarchy.channels(recording, parts)]


def _of_layers(tree: Tree) -> dict[str, Counter[int]]:
    """By layer, in how many decompositions of a tree each channel is one of the strongest."""
    found: dict[str, Counter[int]] = {}
    for _, node in tree.nodes():
        found.setdefault(node.layer, Counter())[node.channel] += 1
    return found


def _step(recording: Recording, level: int) -> str:
    count = len(recording.layers)
    above = "class" if level + 1 == count else f"S{level + 2}"
    return f"{above} to S{level + 1} ({recording.layers[level].name})"
