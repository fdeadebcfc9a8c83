"""Pictures that a person reads at a glance: many small pictures with names along two sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from tagseg.files import write_aside

INK = "#1e293b"


def words() -> Any:
    """Returns a decorator for what draws: names are shown as they are, for matplotlib takes what stands between two
    dollars for a formula."""
    return matplotlib.rc_context({"text.parse_math": False})


@words()
def contact_sheet(
    rows: Sequence[str],
    columns: Sequence[str],
    pictures: Sequence[Sequence[np.ndarray | None]],
    *,
    title: str = "",
    cell: float = 1.9,
) -> np.ndarray:
    """Draws a table of pictures.

    Args:
        rows, columns: names; long ones are broken at a space, else at a dot.
        pictures: `(H, W, 3)` uint8 per row and column; None leaves the place empty.
        cell: height of a picture in inches, at 110 pixels each.

    Returns:
        `(H, W, 3)` uint8.
    """
    shown = [p for row in pictures for p in row if p is not None]
    shape = float(np.median([p.shape[1] / p.shape[0] for p in shown])) if shown else 1.0
    width = min(max(shape, 0.6), 1.8) * cell
    left, top = 1.15, 0.5 + (0.35 if title else 0)
    size = (left + len(columns) * (width + 0.06) + 0.05, top + len(rows) * (cell + 0.06) + 0.05)
    figure = Figure(figsize=size, dpi=110, facecolor="white")
    for r, (name, row) in enumerate(zip(rows, pictures, strict=True)):
        y = 1 - (top + (r + 1) * (cell + 0.06)) / size[1]
        figure.text(
            (left - 0.12) / size[0], y + cell / 2 / size[1], name, ha="right", va="center", fontsize=9, color=INK
        )
        for c, picture in enumerate(row):
            if picture is None:
                continue
            axes = figure.add_axes(((left + c * (width + 0.06)) / size[0], y, width / size[0], cell / size[1]))
            axes.imshow(picture)
            axes.set_axis_off()
    for c, name in enumerate(columns):
        x = (left + c * (width + 0.06) + width / 2) / size[0]
        figure.text(x, 1 - (top - 0.06) / size[1], _broken(name), ha="center", va="bottom", fontsize=8.5, color=INK)
    if title:
        figure.text(
            0.12 / size[0], 1 - 0.1 / size[1], title, ha="left", va="top", fontsize=12, color=INK, weight="bold"
        )
    return rendered(figure)


@words()
def rendered(figure: Figure) -> np.ndarray:
    """Returns a matplotlib figure as `(H, W, 3)` uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_picture(path: Path, picture: np.ndarray) -> Path:
    """Writes `(H, W, 3)` uint8 as PNG or JPEG, by the name's end, whole or not at all."""
    with write_aside(path) as aside:
        if path.suffix.lower() == ".png":
            Image.fromarray(picture).save(aside, format="PNG")
        else:
            Image.fromarray(picture).save(aside, format="JPEG", quality=90)
    return path


def _broken(name: str, longest: int = 16) -> str:
    if len(name) <= longest:
        return name
    breaks = " " if " " in name else "._"
    places = [i for i, letter in enumerate(name) if letter in breaks and 0 < i < len(name) - 1]
    if not places:
        return name
    middle = min(places, key=lambda i: abs(i - len(name) / 2))
    return f"{name[: middle + 1].rstrip()}\n{name[middle + 1 :]}"
