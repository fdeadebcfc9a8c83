"""`locate`: boxes of classes in photographs, from the maps of a classifier."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tagseg.data.images import voc_palette
from tagseg.data.photographs import find_photographs
from tagseg.errors import BadInput, explain_full_disk
from tagseg.explaining.source import check_source
from tagseg.explaining.table import check_attributions
from tagseg.export import LocatedBox, Photograph, check_formats
from tagseg.files import with_ending
from tagseg.masks.boxes import ILSVRC_THRESHOLD, box_of_map, box_of_mask, graph_cut
from tagseg.networks.settings import EncoderSettings
from tagseg.progress import Reporter
from tagseg.report.pictures import draw_boxes
from tagseg.report.sheets import write_picture


def locate(
    images: Sequence[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weights: str = "pretrained",
    method: str = "layercam",
    layers: str | Sequence[str] = "sharp",
    classes: Sequence[str] | None = None,
    top: int = 1,
    side: int | None = None,
    encoder: EncoderSettings | None = None,
    threshold: float = ILSVRC_THRESHOLD,
    cut: bool = False,
    crops: bool = False,
    formats: Sequence[str] = ("csv", "coco"),
    quiet: bool = False,
) -> list[LocatedBox]:
    """Writes boxes of classes in photographs in the formats asked for, and a drawn picture of each photograph.

    Args:
        images, model, out, weights, layers, classes, top, side, encoder: see `explain`.
        method: one of `explain`'s.
        threshold: of the map's maximum (0.15 for ILSVRC and 0.05 for CUB in LayerCAM).
        cut: join scattered evidence by a graph cut first (for maps of shallow layers).
        crops: average the maps of ten crops, as the published script.
        formats: names of `tagseg.export.box_formats`.

    Returns:
        the boxes.
    """
    if not 0 <= threshold < 1:
        raise BadInput(f"threshold {threshold}: give a fraction of the maximum, from 0 to below 1.")
    if crops and encoder is not None:
        raise BadInput("maps of ten crops are not spread; leave out either the crops or the encoder.")
    found = find_photographs(images, out)
    check_attributions([method])
    kinds = check_formats(formats)
    check_source(model, weights, side)
    from tagseg.explaining.classifiers import load_classifier  # torch is imported only now
    from tagseg.explaining.crops import TenCrops
    from tagseg.explaining.explainer import Explainer, explained

    reporter, out = Reporter(quiet), Path(out)
    classifier = load_classifier(model, weights, side)
    explainer = Explainer(classifier, [method], layers)
    whole = TenCrops(explainer)
    boxes: list[LocatedBox] = []
    photographs: dict[str, Photograph] = {}
    with reporter.bar("locate", len(found), "photographs") as advance, explain_full_disk(out):
        for done, shown in enumerate(explained(explainer, found, classes, top, encoder), start=1):
            height, width = shown.photo.shape[:2]
            photographs[shown.name] = Photograph(found[shown.name], height, width)
            seen = shown.maps[method]
            maps = whole.fused(shown.photo, shown.classes, method) if crops else seen.fused((height, width))
            drawn = []
            for k, number in enumerate(shown.classes):
                box = box_of_mask(graph_cut(shown.photo, maps[k])) if cut else None
                box = box or box_of_map(maps[k], threshold)
                if box is None:
                    reporter.say(f"{shown.name}: no evidence for '{classifier.classes[number]}', no box")
                    continue
                label, score = classifier.classes[number], round(float(shown.probabilities[k]), 4)
                boxes.append(LocatedBox(shown.name, label, number, *box, score))
                colour = tuple(int(v) for v in voc_palette()[1 + number % 20])
                drawn.append((box, f"{label} {score:.2f}", colour))
            write_picture(with_ending(out / shown.name, ".boxes.jpg"), draw_boxes(shown.photo, drawn))  # type: ignore[arg-type]
            advance(done, "")
        for kind in kinds:
            kind.write(out, boxes, photographs, classifier.classes)
    return boxes
