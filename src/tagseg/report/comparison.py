"""The page of a comparison of methods: one file that needs no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagseg.report.html import template


@dataclass(frozen=True)
class PageRow:
    """A method: its name, its cells in words, sentences about its premise, and the IoU of every class in percent."""

    name: str
    cells: Sequence[str]
    sentences: Sequence[str]
    classes: Sequence[float | None]


@dataclass(frozen=True)
class Page:
    """The contents of the page.

    title: of the page.
    facts: a sentence about how the numbers came about.
    columns: of the table.
    classes: names, the background's first.
    chain: of refinements, after which the classes were measured.
    rows: the methods.
    gallery: a picture `(H, W, 3)` uint8 of their masks; None without one.
    remark: a sentence below it.
    """

    title: str
    facts: str
    columns: Sequence[str]
    classes: Sequence[str]
    chain: str
    rows: Sequence[PageRow]
    gallery: np.ndarray | None
    remark: str


def write_page(path: Path, page: Page) -> None:
    """Writes the page as HTML; the caller renames it into place."""
    path.write_text(template("comparison.html.j2").render(page=page), encoding="utf-8")
