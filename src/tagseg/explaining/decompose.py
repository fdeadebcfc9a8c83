"""`decompose`: why did a classifier decide so, down to single channels?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tagseg.data.images import read_image
from tagseg.data.photographs import find_photographs
from tagseg.errors import explain_full_disk
from tagseg.explaining.explain import slug
from tagseg.explaining.patches import Channel, cut, scaled
from tagseg.explaining.source import check_source
from tagseg.files import write_json
from tagseg.progress import Reporter
from tagseg.report.pictures import draw_boxes, overlay_map, thumbnail
from tagseg.report.pyramid import Tile, pyramid
from tagseg.report.sheets import write_picture

if TYPE_CHECKING:
    from tagseg.attribution.hierarchy import Node, Tree

_LEGEND = (
    "below: #channel and its share of the decision above; the others speak against it, so that shares may exceed 100 %"
)
_DRAWN = 3  # rows of a pyramid that show every node; below, each goes on with its strongest channel
_FRAME = (250, 204, 21)


@dataclass(frozen=True)
class Decomposed:
    """The tree of one photograph and class, and the folder where it lies."""

    folder: Path
    tree: Tree


def decompose(
    images: Sequence[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weights: str = "pretrained",
    layers: str | Sequence[str] = "stages",
    classes: Sequence[str] | None = None,
    top: int = 3,
    levels: int | None = None,
    overlap: float = 0.9,
    patches: str | os.PathLike[str] | None = None,
    side: int | None = None,
    quiet: bool = False,
) -> list[Decomposed]:
    """Decomposes class scores onto the channels of the deepest layer, these onto the layer before, and so on.

    For every photograph and class it writes a folder `OUT/NAME.CLASS` with `pyramid.png` (the tree as one figure),
    `tree.json` and, below `nodes/`, the pictures that it names: each channel's map over the photograph, Guided
    Backpropagation from its peak, and the part of the photograph that the peak makes use of.

    Args:
        images: files, or folders that are searched through.
        model, weights, side: see `load_classifier`.
        layers: `"stages"`, or names, shallow to deep.
        classes: names or numbers; None for the highest score of each photograph.
        top, levels, overlap: see `tagseg.attribution.hierarchy.Hierarchy`.
        patches: a folder of photographs whose parts that excite each channel most are shown as well.

    Raises:
        BadInput: in one sentence, what does not fit.
    """
    found = find_photographs(images, out)
    library = list(find_photographs([patches]).values()) if patches is not None else None
    check_source(model, weights, side)
    from tagseg.attribution.hierarchy import Hierarchy  # torch is imported only now
    from tagseg.explaining.classifiers import load_classifier
    from tagseg.explaining.excitation import exciting_patches, find_excitations

    reporter, out = Reporter(quiet), Path(out)
    classifier = load_classifier(model, weights, side)
    wanted = layers if isinstance(layers, str) else list(layers)
    hierarchy = Hierarchy(classifier.model, wanted, top=top, levels=levels, overlap=overlap)
    numbers = classifier.numbers(classes) if classes else None
    excitations = None
    if library is not None:
        with reporter.bar("patches", len(library), "photographs") as advance:
            excitations = find_excitations(classifier, wanted, library, advance=lambda done: advance(done, ""))
    written: list[Decomposed] = []
    with reporter.bar("decompose", len(found), "photographs") as advance, explain_full_disk(out):
        for done, (name, path) in enumerate(found.items(), start=1):
            photo = read_image(path)
            for tree in hierarchy(classifier.images([photo]), numbers, pixels=True)[0]:
                exciting: dict[Channel, list[np.ndarray]] = {}
                if excitations is not None:
                    channels = [(node.level, node.channel) for _, node in tree.nodes()]
                    exciting = exciting_patches(classifier, hierarchy.recorder, excitations, channels)
                folder = out / f"{name}.{slug(classifier.classes[tree.number])}"
                facts = {"model": str(model), "weights": weights, "photograph": str(path)}
                save_tree(tree, photo, classifier.classes[tree.number], folder, facts, exciting)
                written.append(Decomposed(folder, tree))
            advance(done, "")
    return written


def save_tree(
    tree: Tree,
    photo: np.ndarray,
    label: str,
    folder: Path,
    facts: dict[str, Any] | None = None,
    exciting: dict[Channel, list[np.ndarray]] | None = None,
) -> None:
    """Writes `tree.json`, `pyramid.png` and `nodes/`; the tree must have been traced to the pixels.

    Args:
        photo: `(H, W, 3)` uint8, the photograph in its own size.
        facts: what else the JSON tells.
        exciting: patches by level and channel.
    """
    exciting = exciting or {}
    nodes = {}
    for path, node in tree.nodes():
        stem = "nodes/" + ".".join(map(str, path))
        pictures = {kind: f"{stem}.{kind}.jpg" for kind in ("map", "guided", "patch")}
        for kind, picture in node_pictures(photo, node, tree.size).items():
            write_picture(folder / pictures[kind], picture)
        patches = exciting.get((node.level, node.channel), [])
        if patches:
            pictures["excited_by"] = f"{stem}.excited_by.jpg"
            write_picture(folder / pictures["excited_by"], strip(patches))
        nodes[path] = _facts(node) | {"pictures": pictures, "children": []}
    for path, described in nodes.items():
        if len(path) > 1:
            nodes[path[:-1]]["children"].append(described)
    write_picture(folder / "pyramid.png", draw_tree(tree, photo, label))
    write_json(
        folder / "tree.json",
        {
            **(facts or {}),
            "class": label,
            "number": tree.number,
            "score": tree.score,
            "layers": list(tree.layers),
            "image_size": list(tree.size),
            "children": [described for path, described in nodes.items() if len(path) == 1],
        },
    )


def _facts(node: Node) -> dict[str, Any]:
    return {
        "layer": node.layer,
        "channel": node.channel,
        "contribution": node.contribution,
        "share": node.share,
        "peak": {"row": node.y, "column": node.x, "value": node.value},
        "grid": list(node.map.shape),
        "box": node.box,
        "merged": list(node.merged),
    }


def node_pictures(photo: np.ndarray, node: Node, size: tuple[int, int], long_side: int = 320) -> dict[str, np.ndarray]:
    """Returns the pictures of a channel in a tree, by their kind.

    `map` is the channel's map over the photograph, with the peak's box; `guided` is Guided Backpropagation; `patch` is
    what lies in the box. All are `(H, W, 3)` uint8, at most `long_side`; `size` is (H, W) of the network's image.
    """
    assert node.pixels is not None
    assert node.box is not None
    small = thumbnail(photo, long_side)
    height, width = small.shape[:2]
    box = scaled(node.box, size, (height, width))
    over = draw_boxes(overlay_map(small, heat(node.map, (height, width))), [(box, "", _FRAME)])
    guided = cv2.resize(node.pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return {"map": over, "guided": grey(guided), "patch": thumbnail(cut(photo, node.box, size), long_side)}


def heat(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Turns a map in a layer's grid, signed, into `(H, W)` in [0, 1]."""
    values = np.maximum(values, 0)
    return cv2.resize(values / max(float(values.max()), 1e-30), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def guided_patch(node: Node, patch: np.ndarray) -> np.ndarray:
    """Returns Guided Backpropagation under the peak's box.

    It has the size of the patch of the photograph that lies there.
    """
    assert node.pixels is not None
    assert node.box is not None
    x0, y0, x1, y1 = node.box
    return cv2.resize(grey(node.pixels[y0:y1, x0:x1]), patch.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def grey(values: np.ndarray) -> np.ndarray:
    """Turns `(H, W)` in [0, 1] into `(H, W, 3)` uint8, small values lifted by a square root."""
    return np.repeat((255 * np.sqrt(values)).astype(np.uint8)[..., None], 3, axis=2)


def draw_tree(tree: Tree, photo: np.ndarray, label: str) -> np.ndarray:
    """Draws the evidence pyramid.

    Under every channel there are the part of the photograph that its peak uses, and guided gradients.
    """
    tall = float(np.clip(photo.shape[0] / photo.shape[1], 0.6, 1.4))
    root = Tile((framed(photo, 200, tall),), f"{label}, score {tree.score:.2f}\n{_LEGEND}")
    rows, names = [[root]], ["photograph"]
    parents: list[tuple[int, list[Node]]] = [(0, tree.children)]
    while any(children for _, children in parents):
        drawn = [
            (above, node) for above, children in parents for node in (children if len(rows) <= _DRAWN else children[:1])
        ]
        strongest = max(node.share for _, node in drawn)
        weights = [node.share / max(strongest, 1e-30) for _, node in drawn]
        rows.append([_tile(n, photo, tree.size, tall, a, w) for (a, n), w in zip(drawn, weights, strict=True)])
        names.append(_short(drawn[0][1].layer))
        parents = [(number, node.children) for number, (_, node) in enumerate(drawn)]
    return pyramid(rows, names)


def _short(name: str) -> str:
    """A layer's name in at most two lines: its beginning and its end."""
    parts = name.split(".")
    return name if len(parts) < 3 and len(name) < 14 else f"{'.'.join(parts[:2])} ...\n{'.'.join(parts[2:][-2:])[-14:]}"


def _tile(node: Node, photo: np.ndarray, size: tuple[int, int], tall: float, above: int, weight: float) -> Tile:
    assert node.box is not None
    patch = cut(photo, node.box, size)
    pictures = (framed(patch, 120, tall), framed(guided_patch(node, patch), 120, tall))
    return Tile(pictures, f"#{node.channel}\n{100 * node.share:.0f} %", above, weight)


def framed(picture: np.ndarray, side: int, tall: float = 1.0) -> np.ndarray:
    """Returns the whole picture in a white frame, `side` wide and `tall` times as high."""
    height, width = picture.shape[:2]
    rows = round(side * tall)
    factor = min(side / width, rows / height)
    resized = cv2.resize(picture, (max(1, int(width * factor)), max(1, int(height * factor))))
    tile = np.full((rows, side, 3), 255, np.uint8)
    top, left = (rows - resized.shape[0]) // 2, (side - resized.shape[1]) // 2
    tile[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return tile


def strip(patches: Sequence[np.ndarray], side: int = 120) -> np.ndarray:
    """Returns patches, at least one, side by side."""
    return np.concatenate([framed(patch, side) for patch in patches], axis=1)
