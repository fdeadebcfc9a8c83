"""Hierarchical attention decomposition (chapter 5 of the thesis): why did the network decide so?

A class score is decomposed onto the channels of the deepest layer; the strongest of them, at their peaks, onto those of
the layer before, and so on down. What comes out is a tree of evidence: heads, then ears, then edges.

    tree = Hierarchy(model, "stages", top=3)(images, [281])[0][0]
    tree.children[0].channel, tree.children[0].share, tree.children[0].children
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from tagseg.attribution.calling import Score
from tagseg.attribution.capture import check_classes
from tagseg.attribution.gap import Decision, Parts, Recorder, Recording
from tagseg.attribution.layers import Layer, Layers
from tagseg.errors import BadInput

Box = tuple[int, int, int, int]


@dataclass
class Node:
    """One channel in a tree of evidence.

    Attributes:
        layer, level: the layer's name, and its place counted from the shallowest.
        channel: its number.
        contribution: mean of its map (equation 5.4).
        share: sum of its map as a part of the decision above it.
        y, x: the peak, a cell of the layer's grid.
        value: the feature there, which the children decompose.
        map: `(h, w)` float32, signed, in the layer's grid.
        merged: channels of lower contribution whose maps cover the same cells.
        pixels: `(H, W)` float32 in [0, 1], Guided Backpropagation from the peak to the image; None if not asked for.
        box: (x0, y0, x1, y1), pixels of the image that hold 95 % of that along either side: the receptive field of the
            peak, as far as this image makes use of it.
    """

    layer: str
    level: int
    channel: int
    contribution: float
    share: float
    y: int
    x: int
    value: float
    map: np.ndarray
    merged: tuple[int, ...] = ()
    pixels: np.ndarray | None = None
    box: Box | None = None
    children: list[Node] = field(default_factory=list)

    @property
    def decision(self) -> tuple[int, int, int, int]:
        """Returns the level, the channel, and the row and the column of the peak."""
        return self.level, self.channel, self.y, self.x


@dataclass
class Tree:
    """The evidence for one class in one image.

    Attributes:
        number, score: the class and its score before the softmax.
        layers: names, shallow to deep.
        size: (H, W) of the image.
        children: the strongest channels of the deepest layer.
    """

    number: int
    score: float
    layers: tuple[str, ...]
    size: tuple[int, int]
    children: list[Node] = field(default_factory=list)

    def nodes(self) -> Iterator[tuple[tuple[int, ...], Node]]:
        """Yields every node with its path, as in (0, 2) for the third child of the first.

        Parents come before children.
        """
        waiting: list[tuple[tuple[int, ...], Node]] = [((number,), node) for number, node in enumerate(self.children)]
        while waiting:
            path, node = waiting.pop(0)
            yield path, node
            waiting += [((*path, number), child) for number, child in enumerate(node.children)]


class Hierarchy:
    """A decomposition of class scores into trees of evidence.

    Args:
        model: any convolutional classifier; see `tagseg.attribution.GradientMaps`.
        layers: shallow to deep; `"stages"` finds the last activation of every stage.
        top: how many channels a decision is decomposed to.
        overlap: a channel is merged with a stronger one when the cells above half of their maxima have more than this
            IoU. (The threshold of the cells is open in the thesis.)
        levels: how many layers deep; None for down to the shallowest.
        score: from what the network returns to `(B, C)`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = "stages",
        *,
        top: int = 3,
        overlap: float = 0.9,
        levels: int | None = None,
        score: Score | None = None,
    ) -> None:
        if top < 1:
            raise BadInput(f"top {top}: give at least 1.")
        if not 0 < overlap <= 1:
            raise BadInput(f"overlap {overlap}: give a number above 0, at most 1 (which merges nothing).")
        if levels is not None and levels < 1:
            raise BadInput(f"levels {levels}: give at least 1.")
        self.recorder = Recorder(model, layers, score=score)
        self.top, self.overlap, self.levels = top, overlap, levels

    def __call__(self, images: torch.Tensor, classes: Any = None, *, pixels: bool = False) -> list[list[Tree]]:
        """Returns the trees of every image and class.

        Args:
            images: `(B, 3, H, W)`, normalised as the network wants.
            classes: `(B, K)` numbers, K numbers for all images, or None for each image's highest score.
            pixels: also trace every peak back to the image, by Guided Backpropagation.

        Raises:
            BadInput: see `find_layers` and `GradientMaps`.
        """
        trees = self.trees(self.recorder(images), classes)
        if pixels:
            trace(self.recorder(images, guided=True), [(image, t) for image, row in enumerate(trees) for t in row])
        return trees

    def trees(self, recording: Recording, classes: Any = None) -> list[list[Tree]]:
        """Returns the trees of images that are recorded already, by a recorder of the same layers."""
        scores = recording.scores.detach()
        chosen = check_classes(classes, scores).tolist()
        trees = [
            [Tree(number, float(scores[image, number]), names(recording.layers), recording.size) for number in of_image]
            for image, of_image in enumerate(chosen)
        ]
        parents: list[tuple[Tree | Node, Decision]] = [
            (tree, recording.score(image, tree.number)) for image, row in enumerate(trees) for tree in row
        ]
        lowest = 0 if self.levels is None else max(0, len(recording.layers) - self.levels)
        # level by level, so that all decisions of one level are decomposed together
        for _ in range(lowest, len(recording.layers)):
            parents = self._grow(recording, parents)
        return trees

    def _grow(
        self, recording: Recording, parents: Sequence[tuple[Tree | Node, Decision]]
    ) -> list[tuple[Tree | Node, Decision]]:
        """Give all parents of one level their children; what comes back are those. Equal decisions are made once."""
        distinct = list(dict.fromkeys(decision for _, decision in parents))
        children = recording.each(distinct, lambda parts: self.channels(recording, parts))
        found = dict(zip(distinct, children, strict=True))
        below: list[tuple[Tree | Node, Decision]] = []
        for parent, decision in parents:
            parent.children = [_copy(node) for node in found[decision]]
            below += [(node, Decision(*node.decision, decision.image)) for node in parent.children]
        return below

    def channels(self, recording: Recording, parts: Parts) -> list[Node]:
        """Returns the strongest channels of one decomposition, at most `top`.

        None of what speaks against the decision is among them.
        """
        found = strongest(parts.maps, parts.contributions, self.top, self.overlap)
        return [self.node(recording, parts, channel, merged) for channel, merged in found]

    def node(self, recording: Recording, parts: Parts, channel: int, merged: tuple[int, ...] = ()) -> Node:
        """Returns one channel of a decomposition as a node."""
        map_ = parts.maps[channel]
        y, x = divmod(int(map_.argmax()), map_.shape[1])
        return Node(
            layer=recording.layers[parts.level].name,
            level=parts.level,
            channel=channel,
            contribution=float(map_.mean()),
            share=float(map_.sum()) / (abs(parts.value) or 1.0),
            y=y,
            x=x,
            value=float(recording.features(parts.level)[parts.decision.image, channel, y, x]),
            map=map_.cpu().numpy(),
            merged=merged,
        )


def strongest(
    maps: torch.Tensor, contributions: torch.Tensor, top: int, overlap: float = 0.9
) -> list[tuple[int, tuple[int, ...]]]:
    """Returns the channels of highest positive contribution, each with those merged into it.

    This is non-maximum suppression: from strong to weak, a channel whose cells have more than `overlap` IoU with those
    of a kept one is merged into it.

    Args:
        maps: `(D, h, w)`.
        contributions: `(D,)`.
    """
    order = contributions.argsort(descending=True, stable=True)
    # what speaks against the decision is no candidate
    order = order[contributions[order] > 0]
    cells = cells_of(maps[order]).flatten(1).float()
    areas = cells.sum(dim=1)
    free = torch.ones(len(order), dtype=torch.bool, device=maps.device)
    kept: list[tuple[int, tuple[int, ...]]] = []
    for place, channel in enumerate(order.tolist()):
        if len(kept) == top:
            break
        if not free[place]:
            continue
        # of cells that are 0 and 1, products count those in common
        common = cells @ cells[place]
        # IoU above `overlap`, without a division
        same = free & (common > overlap * (areas + areas[place] - common))
        same[place] = False
        free &= ~same
        kept.append((channel, tuple(order[same].tolist())))
    return kept


def cells_of(maps: torch.Tensor) -> torch.Tensor:
    """Returns where a map is above half of its maximum, as `(..., h, w)` bool."""
    highest = maps.amax(dim=(-2, -1), keepdim=True)
    return (maps > 0.5 * highest) & (highest > 0)


def trace(recording: Recording, trees: Sequence[tuple[int, Tree]]) -> None:
    """Fills in `pixels` and `box` of all nodes of trees.

    The recording is a guided one, trees come with their image's number.
    """
    levels: dict[int, dict[Decision, list[Node]]] = {}
    for image, tree in trees:
        for _, node in tree.nodes():
            levels.setdefault(node.level, {}).setdefault(Decision(*node.decision, image), []).append(node)
    for of_level in levels.values():
        trace_nodes(recording, of_level)


def trace_nodes(recording: Recording, nodes: Mapping[Decision, Sequence[Node]]) -> None:
    """Fills in `pixels` and `box` of nodes of one level, which come by their decisions.

    The recording is a guided one.
    """
    decisions = list(nodes)
    for start in range(0, len(decisions), _AT_ONCE):
        some = decisions[start : start + _AT_ONCE]
        for decision, gradient in zip(some, recording.pixel_gradients(some), strict=True):
            magnitude = gradient.abs().amax(dim=0)
            picture = (magnitude / magnitude.max().clamp_min(1e-30)).cpu().numpy()
            box = field_box(magnitude.cpu().numpy())
            for node in nodes[decision]:
                node.pixels, node.box = picture, box


_AT_ONCE = 64  # gradients to the image that are in memory together


def field_box(magnitude: np.ndarray, share: float = 0.95) -> Box:
    """Returns (x0, y0, x1, y1): the rows, and the columns, that hold a share of a magnitude `(H, W)`.

    Equal tails are cut off. That is the effective receptive field (Luo et al., NIPS 2016), of one image. The box of an
    empty magnitude is the whole image.
    """
    height, width = magnitude.shape
    if not magnitude.any():
        return 0, 0, width, height
    (y0, y1), (x0, x1) = (_span(magnitude.sum(axis=axis, dtype=np.float64), share) for axis in (1, 0))
    return x0, y0, x1, y1


def _span(mass: np.ndarray, share: float) -> tuple[int, int]:
    reached = mass.cumsum() / mass.sum()
    tail = (1 - share) / 2
    # the cells in which either tail ends still belong to the span
    first = int(np.searchsorted(reached, tail, side="right"))
    last = int(np.searchsorted(reached, 1 - tail, side="left"))
    return min(first, len(mass) - 1), min(max(last, first) + 1, len(mass))


def names(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Returns the names of layers, in their order."""
    return tuple(layer.name for layer in layers)


def _copy(node: Node) -> Node:
    return Node(**{**vars(node), "children": []})
