"""Studies that hold maps against true boxes and masks: which method, which layers, fused how?

Truth is for measuring only. Thresholds that are the best for the whole set are marked *oracle*.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from tagseg.data.dataset import Sample, read_mask
from tagseg.data.images import read_image
from tagseg.errors import BadInput
from tagseg.evaluation.iou import Confusion, ThresholdSweep
from tagseg.evaluation.localisation import BestThresholdIoU, BoxAccuracy, Localisation, PixelPrecision, pointing_hit
from tagseg.explaining.classifiers import square
from tagseg.explaining.explainer import Explainer
from tagseg.explaining.table import ATTRIBUTIONS
from tagseg.labels import IGNORE
from tagseg.masks.boxes import box_of_map, box_of_mask, graph_cut, official_box
from tagseg.masks.superpixels import superpixel_mask, superpixels
from tagseg.studies.cases import Case, Variant, variants
from tagseg.studies.tables import Table

SUPERPIXEL_THRESHOLD = 0.3
_WORKING = 224  # boxes are made on maps of this side, as in wsolevaluation
_UNCUT = 2  # the deepest stages, whose maps are not scattered: of VGG's five the published script cuts the first three
NO_BOXES = "no photograph has a box of one of its tags; this study needs boxes.csv or boxes in XML."
_PASS_A_CHANNEL = ("scorecam", "ablationcam")
_TIMED = 16  # photographs that the frame rate is measured on


def boxes(cases: Iterable[Case], threshold: float) -> list[Table]:
    """Measures localisation by boxes of every method and layer, and of layers fused.

    These are LayerCAM's tables 3.1 to 3.4 of the thesis.
    """
    ways: list[Variant] = []
    located: dict[str, Localisation] = {}
    joined: dict[str, Localisation] = {}
    accuracy: dict[str, BoxAccuracy] = {}
    counted = 0
    for case in cases:
        ways = ways or variants(case, ablation=True)
        if not case.sample.boxes:
            continue
        height, width = case.photo.shape[:2]
        photo = square(case.photo, _WORKING)
        maps = {way.label: way.maps(case, (_WORKING, _WORKING)) for way in ways}
        for k, tag in enumerate(case.sample.tags):
            truth = np.array([(b.x0, b.y0, b.x1, b.y1) for b in case.sample.boxes if b.tag == tag])
            if not len(truth):
                continue
            counted += 1
            scaled = truth * (_WORKING / np.array([width, height, width, height]))
            for way in ways:
                small = maps[way.label][k]
                box = box_of_map(small, threshold)
                located.setdefault(way.label, Localisation()).add(box, scaled, case.rank(tag))
                accuracy.setdefault(way.label, BoxAccuracy()).add(small, scaled)
                if way.numbers in ((0,), (1,)) and way.method == "layercam":
                    mask = graph_cut(photo, small)
                    joined.setdefault(way.label, Localisation()).add(box_of_mask(mask), scaled, case.rank(tag))
    if not counted:
        raise BadInput(NO_BOXES)
    columns = ("method", "layers", "loc1", "loc5", "gt-known", "MaxBoxAcc", "MaxBoxAccV2")
    table = Table(f"Boxes at {threshold:.0%} of the maximum, {counted} pairs of photograph and class", columns)
    for way in ways:
        found, best = located[way.label].as_dict(), accuracy[way.label].as_dict()
        table.rows.append((way.method, way.name, *found.values(), best["MaxBoxAcc"], best["MaxBoxAccV2"]))
        if way.label in joined:
            table.rows.append((way.method, f"{way.name}, graph cut", *joined[way.label].as_dict().values(), None, None))
    table.note = "MaxBoxAcc and MaxBoxAccV2 use the threshold that is best for the whole set (*oracle*)."
    return [table]


def official_boxes(cases: Iterable[Case], threshold: float) -> list[Table]:
    """Measures localisation as the published script does, of maps of ten crops (see `masks.boxes.official_box`).

    They are made at the photograph's size; where a stage before the last two takes part, by GrabCut.
    """
    ways: list[Variant] = []
    located: dict[str, Localisation] = {}
    counted = 0
    for case in cases:
        ways = ways or variants(case)
        known = {tag: [(b.x0, b.y0, b.x1, b.y1) for b in case.sample.boxes if b.tag == tag] for tag in case.sample.tags}
        counted += sum(map(bool, known.values()))
        for way in ways if any(known.values()) else ():
            # brought to the photograph's size by cubic interpolation, as published
            maps = way.maps(case, (case.image.shape[1], case.image.shape[2]))
            shallow = min(way.numbers) < len(case.maps[way.method].layers) - _UNCUT
            for k, (tag, truth) in enumerate(known.items()):
                if truth:
                    large = cv2.resize(maps[k], case.photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
                    box = official_box(large, threshold, case.photo if shallow else None)
                    located.setdefault(way.label, Localisation()).add(box, np.array(truth), case.rank(tag))
    if not counted:
        raise BadInput(NO_BOXES)
    table = Table(
        f"Boxes as in the published script, {counted} pairs of photograph and class",
        ("method", "layers", "loc1", "loc5", "gt-known"),
        [(way.method, way.name, *located[way.label].as_dict().values()) for way in ways],
    )
    table.note = f"Ten crops; {threshold:.0%} of the maximum; GrabCut where a stage before the last two takes part."
    return [table]


def segmentation(cases: Iterable[Case], classes: tuple[str, ...]) -> list[Table]:
    """Measures, stage by stage, how well the maps themselves segment, and where their maxima lie."""
    ways: list[Variant] = []
    sweeps: dict[str, ThresholdSweep] = {}
    pixels: dict[str, PixelPrecision] = {}
    hits: dict[str, list[bool]] = {}
    for case in _with_masks(cases):
        ways = ways or variants(case, ablation=True)
        truth = read_mask(case.sample.mask)  # type: ignore[arg-type]
        for way in ways:
            maps = way.maps(case, truth.shape)
            sweeps.setdefault(way.label, ThresholdSweep(len(classes))).add(maps, case.sample.tags, truth)
            for k, tag in enumerate(case.sample.tags):
                pixels.setdefault(way.label, PixelPrecision()).add(maps[k], truth == tag + 1, truth == IGNORE)
                hits.setdefault(way.label, []).append(pointing_hit(maps[k], truth == tag + 1))
    _need_masks(ways)
    table = Table("Maps as masks", ("method", "layers", "mIoU (oracle)", "at score, %", "PxAP", "pointing game"))
    for way in ways:
        score, miou = sweeps[way.label].oracle()
        pointed = 100 * float(np.mean(hits[way.label]))
        table.rows.append((way.method, way.name, 100 * miou, 100 * score, pixels[way.label].value(), pointed))
    table.note = "The background score is the best for the whole set (*oracle*); the true tags are given."
    return [table]


def defects(cases: Iterable[Case], classes: tuple[str, ...]) -> list[Table]:
    """Measures the IoU of tiny defects, averaged over photographs (thesis equation 3.10).

    Each cell of the table has its best threshold. The last row is a map that marks everything.
    """
    ways: list[Variant] = []
    best: dict[tuple[str, int | None], BestThresholdIoU] = {}
    everything: dict[int | None, list[float]] = {}
    for case in _with_masks(cases):
        ways = ways or variants(case)
        truth = read_mask(case.sample.mask)  # type: ignore[arg-type]
        for tag in case.sample.tags:
            for group in (None, tag):
                everything.setdefault(group, []).append(100 * float((truth == tag + 1).sum() / (truth != IGNORE).sum()))
        for way in ways:
            maps = way.maps(case, truth.shape)
            for k, tag in enumerate(case.sample.tags):
                for group in (None, tag):
                    counter = best.setdefault((way.label, group), BestThresholdIoU())
                    counter.add(maps[k], truth == tag + 1, truth == IGNORE)
    _need_masks(ways)
    groups = sorted(tag for tag in everything if tag is not None)
    columns = ("method", "layers", "IoU (oracle)", "at threshold, %", *(classes[tag] for tag in groups))
    table = Table("Defects", columns)
    for way in ways:
        at, value = best[way.label, None].best()
        each = (best[way.label, tag].best()[1] for tag in groups)
        table.rows.append((way.method, way.layers, value, 100 * at, *each))
    areas = (float(np.mean(everything[tag])) for tag in (None, *groups))
    table.rows.append(("(everything)", "-", next(areas), None, *areas))
    table.note = "IoU in percent; the threshold of every cell is the best for its photographs (*oracle*)."
    return [table]


def superpixel_masks(cases: Iterable[Case], classes: tuple[str, ...]) -> list[Table]:
    """Measures pseudo-masks of one label per superpixel (thesis table 3.12).

    Background is what is under a mean map value of 0.3.
    """
    ways: list[Variant] = []
    confusions: dict[str, Confusion] = {}
    for case in _with_masks(cases):
        ways = ways or variants(case)
        truth = read_mask(case.sample.mask)  # type: ignore[arg-type]
        labels = superpixels(case.photo)
        for way in ways:
            maps = way.maps(case, truth.shape)
            mask = superpixel_mask(maps, case.sample.tags, labels, SUPERPIXEL_THRESHOLD)
            confusions.setdefault(way.label, Confusion(len(classes))).add(mask, truth)
    _need_masks(ways)
    table = Table(
        f"Superpixel pseudo-masks, threshold {SUPERPIXEL_THRESHOLD}",
        ("method", "layers", "mIoU", "precision", "recall"),
    )
    for way in ways:
        scores = confusions[way.label].scores()
        means = scores.table(classes)
        table.rows.append((way.method, way.layers, means.miou, means.precision, means.recall))
    return [table]


def frame_rate(
    explainer_of: Callable[[str, Any], Explainer],
    methods: Sequence[str],
    layers: Sequence[str],
    samples: Sequence[Sample],
) -> Table:
    """Measures photographs a second, one at a time as on a belt.

    It does so for each layer alone, and for all of them fused; what has one map alone stands there. Methods that pass
    through the network for every channel are timed on two photographs.
    """
    photos = [read_image(sample.image) for sample in samples if sample.tags][:_TIMED]
    table = Table("Photographs a second, one at a time", ("layers", *methods))
    for wanted, name in (*((layer, layer) for layer in reversed(layers)), (list(layers), "fused")):
        row: list[float | None] = []
        for method in methods:
            if name != "fused" and not ATTRIBUTIONS[method].layered:
                row.append(None)
                continue
            explainer = explainer_of(method, wanted)
            few = 2 if method in _PASS_A_CHANNEL else len(photos)
            images = [explainer.classifier.images([photo]) for photo in photos[:few]]
            times = []
            for number, image in enumerate([images[0], *images]):
                begun = time.perf_counter()
                _, _, maps = explainer(image, torch.zeros(1, 1, dtype=torch.long, device=image.device))
                next(iter(maps[0].values())).fused(photos[max(0, number - 1)].shape[:2])
                times.append(time.perf_counter() - begun)
            row.append(1 / float(np.median(times[1:])))
        table.rows.append((name, *row))
    return table


def _with_masks(cases: Iterable[Case]) -> Iterable[Case]:
    return (case for case in cases if case.sample.mask is not None)


def _need_masks(ways: list[Variant]) -> None:
    if not ways:
        raise BadInput("no tagged photograph of this split has a mask; this study needs masks to measure with.")
