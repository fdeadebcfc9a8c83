"""The report of a run: one file that needs no other, with everything a person wants to see afterwards."""

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

FEW = 30  # classes of which every measure has bars


@dataclass(frozen=True)
class Tile:
    """One result: what was measured and where, its means, and the IoU of every class; percent, None if undefined."""

    name: str
    where: str
    miou: float | None
    precision: float | None
    recall: float | None
    classes: Mapping[str, float | None]


@dataclass(frozen=True)
class Chart:
    """A chart of lines `name -> (xs, ys)` on one pair of axes; `marks` are vertical lines `name -> x`."""

    title: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    x: str
    y: str
    marks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageLine:
    """One stage in the table of times: its seconds, the share of them spent waiting for data, and a remark."""

    name: str
    seconds: float
    waiting: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class GalleryRow:
    """One photograph: its name, its tags with their colours, its pictures `(caption, (H, W, 3) uint8)`, and classes
    with their colours that are drawn in them without being tagged."""

    name: str
    tags: Sequence[tuple[str, tuple[int, int, int]]]
    pictures: Sequence[tuple[str, np.ndarray]]
    others: Sequence[tuple[str, tuple[int, int, int]]] = ()


@dataclass(frozen=True)
class Report:
    """The contents of a report.

    title: of the page.
    facts: names and values for the first line.
    tiles: what was measured; none where there are no masks to measure with.
    remarks: sentences below the tiles.
    charts: curves.
    gallery: rows of pictures, by heading.
    stages: what took how long.
    classes: names, and how many training photographs have each.
    settings: everything that decided what was computed.
    versions: of what computed it.
    skipped: sentences about photographs that were left out.
    links: names and paths, from the page, of what lies beside it.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    tiles: Sequence[Tile]
    remarks: Sequence[str]
    charts: Sequence[Chart]
    gallery: Mapping[str, Sequence[GalleryRow]]
    stages: Sequence[StageLine]
    classes: Sequence[tuple[str, int]]
    settings: Mapping[str, Any]
    versions: Sequence[tuple[str, str]]
    skipped: Sequence[str] = field(default=())
    links: Sequence[tuple[str, str]] = field(default=())


def render(report: Report) -> str:
    """Returns a report as a page of HTML text."""
    return template("report.html.j2").render(
        report=report,
        charts=[(c.title, line_chart(c.lines, x=c.x, y=c.y, marks=c.marks)) for c in report.charts],
        table=_table(report.tiles),
        settings=yaml.safe_dump(dict(report.settings), sort_keys=False, default_flow_style=None, width=100),
    )


def template(name: str) -> jinja2.Template:
    """Returns a template of a page, which shows pictures `(H, W, 3)` uint8 and durations in seconds."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tagseg", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["picture"] = data_uri
    environment.filters["duration"] = _duration
    return environment.get_template(name)


def write_report(path: Path, report: Report) -> None:
    """Writes a report as a page of HTML; the caller renames it into place."""
    path.write_text(render(report), encoding="utf-8")


def _table(tiles: Sequence[Tile]) -> dict[str, Any]:
    """The IoU of every class in every tile, as a chart and as rows."""
    if not tiles:
        return {}
    names = list(tiles[0].classes)
    drawn = tiles if len(names) <= FEW else tiles[-1:]  # bars of all would be a page of their own
    rows = [(name, [tile.classes[name] for tile in tiles]) for name in names]
    groups = {tile.name: [tile.classes[name] for name in names] for tile in drawn}
    return {"columns": [tile.name for tile in tiles], "rows": rows, "chart": bar_chart(groups, names, x="IoU (%)")}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
