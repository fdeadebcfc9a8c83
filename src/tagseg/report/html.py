"""The report of a run: one file that needs no other, with everything a person wants to look at afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from tagseg.report.curves import bar_chart, line_chart
from tagseg.report.pictures import data_uri


@dataclass(frozen=True)
class GalleryRow:
    """One photograph: its name, its tags with their colours, and its pictures `(caption, (H, W, 3) uint8)`."""

    name: str
    tags: Sequence[tuple[str, tuple[int, int, int]]]
    pictures: Sequence[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Report:
    """What a report shows.

    metrics: as `tagseg.pipeline.measure.measure` returns them; parts that are not there are left out.
    stages: stage -> its values, with `seconds` and `resumed`; `epochs` in them become loss curves.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    classes: Sequence[tuple[str, int]]  # name, how many training photographs have it
    metrics: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    versions: Sequence[tuple[str, str]]
    gallery: Mapping[str, Sequence[GalleryRow]]
    skipped: Sequence[str] = field(default=())


def render(report: Report) -> str:
    """The page as HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tagseg", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["picture"] = data_uri
    environment.filters["duration"] = _duration
    return environment.get_template("report.html.j2").render(
        report=report,
        tiles=_tiles(report.metrics),
        background=_background(report),
        charts=_charts(report),
        table=_table(report.metrics),
        settings=yaml.safe_dump(report.settings, sort_keys=False, default_flow_style=None, width=100),
    )


def write_report(path: Path, report: Report) -> None:
    """Write the page; the caller renames it into place."""
    path.write_text(render(report), encoding="utf-8")


_PARTS = (
    ("train", "seeds", "Attention seeds", "training photographs, with their tags"),
    ("train", "pseudo_masks", "Pseudo-masks", "training photographs"),
    ("val", "attention", "Attention maps", "evaluation photographs, no tags given"),
    ("val", "segmentation", "Segmentation", "evaluation photographs, no tags given"),
)


def _tiles(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "where": where, **metrics[split][part]}
        for split, part, name, where in _PARTS
        if part in metrics.get(split, {})
    ]


def _background(report: Report) -> str:
    values = report.stages.get("masks", {})
    if "background" not in values:
        return ""
    chosen = values["background"]
    text = f"Background score {chosen:.3f}, "
    if report.settings["masks"]["background"] == "auto":
        text += "split from the maps alone: Otsu's rule over the strongest map value of every training pixel."
    else:
        text += "as set."
    oracle = report.metrics.get("train", {}).get("oracle")
    if oracle:
        seeds = report.metrics["train"]["seeds"]["miou"]
        text += (
            f" With it the seeds reach {seeds:.1f} mIoU. The oracle score {oracle['background']:.2f}, picked with the "
            f"masks, would reach {oracle['miou']:.1f}: {oracle['miou'] - seeds:.1f} points more."
        )
    masks = report.settings["masks"]
    text += f" Refinement of the pseudo-masks: {masks['refine']}"
    if values.get("background_of_masks", chosen) != chosen:
        text += f", after which the background score is {values['background_of_masks']:.3f}"
    return text + ("; saliency takes the place of the score." if masks.get("saliency") else ".")


def _charts(report: Report) -> list[tuple[str, str]]:
    charts = []
    for stage, title in (
        ("train", "Loss of the attention network"),
        ("integral", "Loss of the integral attention network"),
        ("affinity", "Loss of the affinity network"),
        ("segment", "Loss of the segmentation network"),
    ):
        epochs = report.stages.get(stage, {}).get("epochs")
        if epochs:
            numbers = list(range(1, len(epochs) + 1))
            lines = {"loss": (numbers, [e["loss"] for e in epochs])}
            charts.append((title, line_chart(lines, x="epoch", y="loss")))
    train = report.metrics.get("train")
    if train:
        curve = {"seeds": (train["curve"]["background"], [v or 0 for v in train["curve"]["miou"]])}
        marks = {"chosen without masks": train["background"], "oracle": train["oracle"]["background"]}
        charts.append(
            (
                "Seeds over the background score",
                line_chart(curve, x="background score", y="mIoU", marks=marks),
            )
        )
        rounds = train.get("accumulated")
        if rounds:
            epochs = [r["round"] for r in rounds]
            lines = {name: (epochs, [r[name] or 0 for r in rounds]) for name in ("recall", "noise")}
            charts.append(("Cumulative maps at half their maximum", line_chart(lines, x="epochs", y="%")))
    return charts


def _table(metrics: dict[str, Any]) -> dict[str, Any]:
    """Per-class IoU of every part that was measured, as a chart and as rows."""
    tiles = _tiles(metrics)
    if not tiles:
        return {}
    names = list(tiles[0]["classes"])
    columns = [tile["name"] for tile in tiles]
    rows = [(name, [tile["classes"][name]["iou"] for tile in tiles]) for name in names]
    groups = {tile["name"]: [tile["classes"][n]["iou"] for n in names] for tile in tiles}
    return {"columns": columns, "rows": rows, "chart": bar_chart(groups, names, x="IoU (%)")}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
