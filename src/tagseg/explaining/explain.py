"""`explain`: where does a classifier see its classes?"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tagseg.attribution.formulas import FORMULAS
from tagseg.data.photographs import find_photographs
from tagseg.errors import explain_full_disk
from tagseg.explaining.classifiers import load_classifier
from tagseg.explaining.explainer import METHODS, Explainer, Shown, explained, with_ending
from tagseg.progress import Reporter
from tagseg.report.pictures import overlay_map, thumbnail
from tagseg.report.sheets import contact_sheet, write_picture

_ALWAYS = ("gradcam", "gradcam++", "layercam", "normgrad")  # rows of every contact sheet: they cost next to nothing


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
        for done, shown in enumerate(explained(explainer, found, classes, top), start=1):
            for k, number in enumerate(shown.classes):
                label = classifier.classes[number]
                stem = out / f"{shown.name}.{slug(label)}"
                for method in dict.fromkeys(methods):
                    heat = shown.maps[method].fused(shown.photo.shape[:2])[k]
                    written.append(write_picture(with_ending(stem, f".{method}.jpg"), overlay_map(shown.photo, heat)))
                sheet = _sheet(shown, k, f"{label}  {shown.probabilities[k]:.2f}", rows)
                written.append(write_picture(with_ending(stem, ".sheet.png"), sheet))
            advance(done, "")
    return written


def _sheet(shown: Shown, k: int, title: str, rows: Sequence[str]) -> np.ndarray:
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


def slug(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text).strip("_")
