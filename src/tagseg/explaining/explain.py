"""`explain`: where does a classifier see its classes?"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tagseg.data.photographs import find_photographs
from tagseg.errors import explain_full_disk
from tagseg.explaining.source import check_source
from tagseg.explaining.table import ATTRIBUTIONS, check_attributions
from tagseg.files import with_ending
from tagseg.networks.settings import EncoderSettings
from tagseg.progress import Reporter
from tagseg.report.pictures import overlay_map, thumbnail
from tagseg.report.sheets import contact_sheet, write_picture

if TYPE_CHECKING:
    from tagseg.explaining.explainer import Shown


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
    encoder: EncoderSettings | None = None,
    quiet: bool = False,
) -> list[Path]:
    """Shows where a classifier sees its classes.

    For every photograph and class it writes the fused map of each method over the photograph (`NAME.CLASS.METHOD.jpg`),
    and a contact sheet of methods by layers (`NAME.CLASS.sheet.png`).

    Args:
        images: files, or folders that are searched through.
        model, weights, side: see `load_classifier`.
        out: folder for the pictures.
        methods: names of `tagseg.explaining.table.ATTRIBUTIONS`.
        layers: `"stages"`, `"last"`, or names.
        classes: names or numbers; None for the `top` highest scores of each photograph.
        encoder: a frozen transformer along whose features maps are spread (see `tagseg.masks.proxy`); None: they are
            shown as they are.

    Returns:
        the pictures written.

    Raises:
        BadInput: in one sentence, what does not fit.
    """
    found = find_photographs(images, out)
    check_attributions(methods)
    check_source(model, weights, side)
    from tagseg.explaining.classifiers import load_classifier  # torch is imported only now
    from tagseg.explaining.explainer import Explainer, explained

    reporter, out = Reporter(quiet), Path(out)
    classifier = load_classifier(model, weights, side)
    rows = list(dict.fromkeys(methods))
    explainer = Explainer(classifier, rows, layers)
    written: list[Path] = []
    with reporter.bar("explain", len(found), "photographs") as advance, explain_full_disk(out):
        for done, shown in enumerate(explained(explainer, found, classes, top, encoder), start=1):
            for k, number in enumerate(shown.classes):
                label = classifier.classes[number]
                stem = out / f"{shown.name}.{slug(label)}"
                for method in dict.fromkeys(methods):
                    heat = shown.maps[method].fused(shown.photo.shape[:2])[k]
                    if not heat.any():
                        reporter.say(f"{shown.name}: no evidence for '{label}' by {method}, an empty map")
                    written.append(write_picture(with_ending(stem, f".{method}.jpg"), overlay_map(shown.photo, heat)))
                sheet = _sheet(shown, k, f"{label}  {shown.probabilities[k]:.2f}", rows)
                written.append(write_picture(with_ending(stem, ".sheet.png"), sheet))
            advance(done, "")
    return written


def _sheet(shown: Shown, k: int, title: str, rows: Sequence[str]) -> np.ndarray:
    small = thumbnail(shown.photo, 260)
    size = (small.shape[0], small.shape[1])
    layered = next((maps for name, maps in shown.maps.items() if ATTRIBUTIONS[name].layered), None)
    stages, grids = ((), []) if layered is None else (layered.layers, layered.maps)
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
    """Returns a text as part of a file's name."""
    return re.sub(r"[^\w-]+", "_", text).strip("_")
