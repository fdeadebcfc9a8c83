"""`locate`: boxes of classes in photographs, from the maps of a classifier."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tagseg.data.images import voc_palette
from tagseg.data.photographs import find_photographs
from tagseg.errors import BadInput, explain_full_disk
from tagseg.explaining.source import check_source
from tagseg.explaining.table import check_attributions
from tagseg.files import with_ending, write_aside, write_json
from tagseg.masks.boxes import ILSVRC_THRESHOLD, box_of_map, box_of_mask, graph_cut
from tagseg.progress import Reporter
from tagseg.report.pictures import draw_boxes
from tagseg.report.sheets import write_picture

if TYPE_CHECKING:
    import torch

    from tagseg.explaining.explainer import Explainer, Shown

_CROP = 224 / 256  # side of the ten crops over that of the image, as published


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
    """Writes boxes of classes in photographs: `boxes.csv`, `boxes.json` (COCO) and a drawn picture of each.

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
    found = find_photographs(images)
    check_attributions([method])
    check_source(model, weights, side)
    from tagseg.explaining.classifiers import load_classifier  # torch is imported only now
    from tagseg.explaining.explainer import Explainer, explained

    reporter, out = Reporter(quiet), Path(out)
    classifier = load_classifier(model, weights, side)
    explainer = Explainer(classifier, [method], layers)
    boxes: list[dict[str, Any]] = []
    sizes: dict[str, tuple[int, int]] = {}
    with reporter.bar("locate", len(found), "photographs") as advance, explain_full_disk(out):
        for done, shown in enumerate(explained(explainer, found, classes, top), start=1):
            height, width = sizes[shown.name] = shown.photo.shape[:2]
            maps = _crop_maps(explainer, shown, method) if crops else shown.maps[method].fused((height, width))
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
            write_picture(with_ending(out / shown.name, ".boxes.jpg"), draw_boxes(shown.photo, drawn))  # type: ignore[arg-type]
            advance(done, "")
        _write_boxes(out, boxes, {name: (path, *sizes[name]) for name, path in found.items()}, classifier.classes)
    return boxes


def _crop_maps(explainer: Explainer, shown: Shown, method: str) -> np.ndarray:
    """The maps `(K, H, W)` in [0, 1] from ten crops of the network's side out of an image 256/224 as large."""
    import torch

    from tagseg.attribution.crops import ten_crops
    from tagseg.attribution.fusion import normalise, resize
    from tagseg.explaining.classifiers import Classifier

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
