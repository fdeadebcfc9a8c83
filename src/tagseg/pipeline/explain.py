"""`explain`: maps of any classifier over photographs. `locate`: boxes from them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tagseg.attribution import CAM, GradientMaps, GuidedBackprop, ScoreCAM, fuse
from tagseg.attribution.crops import ten_crops
from tagseg.attribution.formulas import FORMULAS
from tagseg.attribution.fusion import normalise, resize
from tagseg.data.files import write_aside, write_json
from tagseg.data.images import read_image, voc_palette
from tagseg.data.loading import prefetch
from tagseg.errors import BadInput, explain_full_disk, nearest
from tagseg.masks.boxes import ILSVRC_THRESHOLD, box_of_map, box_of_mask, graph_cut
from tagseg.pipeline.classifiers import Classifier, load_classifier
from tagseg.pipeline.photographs import find_photographs
from tagseg.pipeline.progress import Reporter
from tagseg.report.pictures import draw_boxes, overlay_map, thumbnail
from tagseg.report.sheets import contact_sheet, write_picture

METHODS = ("cam", *FORMULAS, "scorecam", "guided-backprop")
_ALWAYS = ("gradcam", "gradcam++", "layercam", "normgrad")  # rows of every contact sheet: they cost next to nothing
_CROP = 224 / 256  # side of the ten crops over that of the image, as published


@dataclass(frozen=True)
class MethodMaps:
    """What one method says of one photograph: layer names, and `(K, h, w)` unnormalised per layer."""

    layers: tuple[str, ...]
    maps: list[torch.Tensor]

    def fused(self, size: tuple[int, int]) -> np.ndarray:
        """`(K, H, W)` in [0, 1]."""
        return fuse([m[None] for m in self.maps], size)[0].cpu().numpy()

    def single(self, number: int, size: tuple[int, int]) -> np.ndarray:
        """`(K, H, W)` in [0, 1] of one layer."""
        return normalise(resize(normalise(self.maps[number][None]), size))[0].cpu().numpy()


class Explainer:
    """Several methods over one classifier; those that use gradients share one forward and backward pass.

    Args:
        classifier: see `load_classifier`.
        methods: of `METHODS`.
        layers: see `tagseg.attribution.layers.find_layers`.
    """

    def __init__(self, classifier: Classifier, methods: Sequence[str], layers: Any) -> None:
        for method in methods:
            if method not in METHODS:
                hint = nearest(method, list(METHODS)) or "."
                raise BadInput(f"method '{method}' does not exist{hint} Known: {', '.join(METHODS)}.")
        self.classifier, self.methods, self.wanted = classifier, tuple(dict.fromkeys(methods)), layers
        model = classifier.model
        gradient = {name: FORMULAS[name] for name in self.methods if name in FORMULAS}
        self.gradient = GradientMaps(model, layers, gradient or {"layercam": FORMULAS["layercam"]})
        self.needs_gradient = bool(gradient)
        self.others: dict[str, Any] = {}
        if "cam" in self.methods:
            self.others["cam"] = CAM(model)
        if "scorecam" in self.methods:
            self.others["scorecam"] = ScoreCAM(model, layers)
        if "guided-backprop" in self.methods:
            self.others["guided-backprop"] = GuidedBackprop(model)

    def __call__(
        self, images: torch.Tensor, classes: Any
    ) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, MethodMaps]]]:
        """Scores `(B, C)`, class numbers `(B, K)`, and for every image the maps by method.

        Args:
            images: `(B, 3, H, W)`.
            classes: `(B, K)`, or a function from the scores to them.
        """
        if self.needs_gradient:
            scores, found = self.gradient.with_scores(images, classes)
            layers = tuple(layer.name for layer in self.gradient.layers)
        else:
            with torch.no_grad():
                scores = self.classifier.model(images)
            found, layers = {}, ()
        chosen = classes(scores) if callable(classes) else torch.as_tensor(classes, device=scores.device)
        names = dict.fromkeys(found, layers)
        for method, attribution in self.others.items():
            if method == "guided-backprop":
                found[method], names[method] = [attribution(images, chosen)], ("pixels",)
            else:
                found[method] = attribution.layer_maps(images, chosen)
                names[method] = ("class maps",) if method == "cam" else tuple(x.name for x in attribution.layers)
        per_image = [
            {m: MethodMaps(names[m], [maps[i] for maps in found[m]]) for m in self.methods} for i in range(len(images))
        ]
        return scores.detach(), chosen, per_image


def explain(
    images: Sequence[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weights: str = "pretrained",
    methods: Sequence[str] = ("layercam",),
    layers: str | Sequence[str] = "stages",
    classes: Sequence[str] | None = None,
    top: int = 3,
    side: int | None = None,
    quiet: bool = False,
) -> list[Path]:
    """Show where a classifier sees its classes.

    For every photograph and class: the fused map of each method over the photograph (`NAME.CLASS.METHOD.jpg`), and a
    contact sheet of methods by layers (`NAME.CLASS.sheet.png`).

    Args:
        images: files, or folders that are searched through.
        model, weights, side: see `load_classifier`.
        out: folder for the pictures.
        methods: of cam, gradcam, gradcam++, layercam, layercam-normal, normgrad, scorecam, guided-backprop.
        layers: `"stages"`, `"last"`, or names.
        classes: names or numbers; None for the `top` highest scores of each photograph.

    Returns:
        the pictures written.

    Raises:
        BadInput: in one sentence, what does not fit.
    """
    reporter = Reporter(quiet)
    out = Path(out)
    found = find_photographs(images)
    classifier = load_classifier(model, weights, side)
    rows = [m for m in METHODS if m in _ALWAYS or m in methods] if layers != "last" else list(methods)
    explainer = Explainer(classifier, rows if set(methods) <= set(METHODS) else methods, layers)
    written: list[Path] = []
    with reporter.bar("explain", len(found), "photographs") as advance, explain_full_disk(out):
        for done, shown in enumerate(_explained(explainer, found, classes, top), start=1):
            for k, number in enumerate(shown.classes):
                label = classifier.classes[number]
                stem = out / f"{shown.name}.{_slug(label)}"
                for method in dict.fromkeys(methods):
                    heat = shown.maps[method].fused(shown.photo.shape[:2])[k]
                    written.append(write_picture(_with(stem, f".{method}.jpg"), overlay_map(shown.photo, heat)))
                sheet = _sheet(shown, k, f"{label}  {shown.probabilities[k]:.2f}", rows)
                written.append(write_picture(_with(stem, ".sheet.png"), sheet))
            advance(done, "")
    return written


def locate(
    images: Sequence[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weights: str = "pretrained",
    method: str = "layercam",
    layers: str | Sequence[str] = "stages",
    classes: Sequence[str] | None = None,
    top: int = 1,
    side: int | None = None,
    threshold: float = ILSVRC_THRESHOLD,
    cut: bool = False,
    crops: bool = False,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Boxes of classes in photographs: `boxes.csv`, `boxes.json` (COCO) and a drawn picture of each.

    Args:
        images, model, out, weights, layers, classes, top, side: see `explain`.
        method: one of `explain`'s.
        threshold: of the map's maximum (0.15 for ILSVRC and 0.05 for CUB in LayerCAM).
        cut: join scattered evidence by a graph cut first (for maps of shallow layers).
        crops: average the maps of ten crops, as the published script.

    Returns:
        one dict per box: image, label, xmin, ymin, xmax, ymax (ends exclusive) and the class's probability.
    """
    if not 0 <= threshold < 1:
        raise BadInput(f"threshold {threshold}: give a fraction of the maximum, from 0 to below 1.")
    reporter = Reporter(quiet)
    out = Path(out)
    found = find_photographs(images)
    classifier = load_classifier(model, weights, side)
    explainer = Explainer(classifier, [method], layers)
    boxes: list[dict[str, Any]] = []
    sizes: dict[str, tuple[int, int]] = {}
    with reporter.bar("locate", len(found), "photographs") as advance, explain_full_disk(out):
        for done, shown in enumerate(_explained(explainer, found, classes, top), start=1):
            height, width = sizes[shown.name] = shown.photo.shape[:2]
            maps = shown.maps[method].fused((height, width))
            if crops:
                maps = _crop_maps(explainer, shown, method)
            drawn = []
            for k, number in enumerate(shown.classes):
                box = box_of_mask(graph_cut(shown.photo, maps[k])) if cut else None
                box = box or box_of_map(maps[k], threshold)
                if box is None:
                    reporter.say(f"{shown.name}: no evidence for '{classifier.classes[number]}', no box")
                    continue
                label, score = classifier.classes[number], round(float(shown.probabilities[k]), 4)
                edges = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
                boxes.append({"image": shown.name, "label": label, **edges, "score": score})
                colour = tuple(int(v) for v in voc_palette()[1 + number % 20])
                drawn.append((box, f"{label} {score:.2f}", colour))
            write_picture(_with(out / shown.name, ".boxes.jpg"), draw_boxes(shown.photo, drawn))  # type: ignore[arg-type]
            advance(done, "")
        _write_boxes(out, boxes, {name: (path, *sizes[name]) for name, path in found.items()}, classifier.classes)
    return boxes


@dataclass(frozen=True)
class _Shown:
    """One photograph with the classes looked at, their probabilities, and the maps by method."""

    name: str
    photo: np.ndarray
    classes: list[int]
    probabilities: list[float]
    maps: dict[str, MethodMaps]


def _explained(
    explainer: Explainer, found: dict[str, Path], classes: Sequence[str] | None, top: int
) -> Iterator[_Shown]:
    classifier = explainer.classifier
    if top < 1:
        raise BadInput(f"top {top}: give at least 1.")
    numbers = classifier.numbers(classes) if classes else None
    count = min(top, len(classifier.classes))

    def pick(scores: torch.Tensor) -> torch.Tensor:
        if numbers is not None:
            return torch.tensor([numbers] * len(scores), device=scores.device)
        return scores.topk(count, dim=1).indices

    for name, photo in prefetch(lambda item: (item[0], read_image(item[1])), found.items()):
        scores, chosen, maps = explainer(classifier.images([photo]), pick)
        probabilities = classifier.probabilities(scores)[0, chosen[0]].tolist()
        yield _Shown(name, photo, chosen[0].tolist(), probabilities, maps[0])


def _crop_maps(explainer: Explainer, shown: _Shown, method: str) -> np.ndarray:
    """`(K, H, W)` in [0, 1] from ten crops of the network's side out of an image 256/224 as large."""
    classifier = explainer.classifier
    side = classifier.side
    large = Classifier(**{**vars(classifier), "side": round(side / _CROP)}).images([shown.photo])

    def attribution(images: torch.Tensor, classes: Any) -> torch.Tensor:
        found = explainer(images, classes)[2]
        size = (images.shape[2], images.shape[3])
        return torch.stack([torch.from_numpy(maps[method].fused(size)) for maps in found])

    classes = torch.tensor([shown.classes], device=large.device)
    maps = ten_crops(attribution, large, classes, side)
    return normalise(resize(maps, shown.photo.shape[:2]))[0].cpu().numpy()


def _sheet(shown: _Shown, k: int, title: str, rows: Sequence[str]) -> np.ndarray:
    small = thumbnail(shown.photo, 260)
    size = (small.shape[0], small.shape[1])
    stages = next((m.layers for name, m in shown.maps.items() if name in FORMULAS or name == "scorecam"), ())
    grids = next((m.maps for name, m in shown.maps.items() if name in FORMULAS or name == "scorecam"), [])
    columns = ["photograph", *(f"{n} {g.shape[1]}x{g.shape[2]}" for n, g in zip(stages, grids, strict=True)), "fused"]
    pictures: list[list[np.ndarray | None]] = []
    for row, method in enumerate(rows):
        maps = shown.maps[method]
        line: list[np.ndarray | None] = [small if row == 0 else None]
        if maps.layers == stages:
            line += [overlay_map(small, maps.single(n, size)[k]) for n in range(len(stages))]
        else:
            line += [None] * len(stages)
        pictures.append([*line, overlay_map(small, maps.fused(size)[k])])
    if len(stages) == 1:  # fusing one layer says nothing new
        columns, pictures = (
            columns[:-1],
            [[*line[:-2], line[-2] if line[-2] is not None else line[-1]] for line in pictures],
        )
    return contact_sheet(rows, columns, pictures, title=title)


def _write_boxes(
    out: Path, boxes: list[dict[str, Any]], photos: dict[str, tuple[Path, int, int]], classes: tuple[str, ...]
) -> None:
    with write_aside(out / "boxes.csv") as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image", "label", "xmin", "ymin", "xmax", "ymax", "score"])
        writer.writeheader()
        writer.writerows(boxes)
    numbers = {name: number for number, name in enumerate(photos, start=1)}
    annotations = []
    for number, box in enumerate(boxes, start=1):
        width, height = box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]
        annotations.append(
            {
                "id": number,
                "image_id": numbers[box["image"]],
                "category_id": classes.index(box["label"]) + 1,
                "bbox": [box["xmin"], box["ymin"], width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": box["score"],
            }
        )
    write_json(
        out / "boxes.json",
        {
            "images": [
                {"id": numbers[name], "file_name": path.name, "width": width, "height": height}
                for name, (path, height, width) in photos.items()
            ],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=1)],
        },
    )


def _slug(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text).strip("_")


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)
