"""Curves as SVG text, to be put into a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tagseg.report.sheets import words

_INK, _ACCENTS = "#475569", ("#0f766e", "#b45309", "#4338ca", "#be123c", "#64748b", "#65a30d")


def line_chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    marks: Mapping[str, float] | None = None,
) -> str:
    """Draws lines `name -> (xs, ys)` on one pair of axes as SVG; `marks` are vertical lines `name -> x`."""
    return _svg(line_figure(lines, x=x, y=y, marks=marks))


@words()
def line_figure(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """Draws lines `name -> (xs, ys)` on one pair of axes as a figure of matplotlib.

    `marks` are vertical lines `name -> x`.
    """
    figure, axes = _axes(4.6, 2.7, x, y)
    for colour, (name, (xs, ys)) in zip(_ACCENTS, lines.items(), strict=False):
        axes.plot(xs, ys, color=colour, label=name, linewidth=1.8, marker="o" if len(xs) < 3 else None)
    for colour, (name, place) in zip(_ACCENTS[1:], (marks or {}).items(), strict=False):
        axes.axvline(place, color=colour, label=name, linestyle="--", linewidth=1.2)
    axes.set_ylim(bottom=min([0.0, *(value for _, ys in lines.values() for value in ys if value == value)]))
    if len(lines) + len(marks or {}) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    return figure


@words()
def bar_chart(groups: Mapping[str, Sequence[float | None]], names: Sequence[str], *, x: str) -> str:
    """Draws horizontal bars as SVG: for every name one bar a group.

    `groups` is `group -> one value a name` (None: no bar).
    """
    figure, axes = _axes(7.2, 0.8 + 0.14 * len(names) * (len(groups) + 0.6), x, "")
    height = 0.8 / len(groups)
    for number, (colour, (group, values)) in enumerate(zip(_ACCENTS, groups.items(), strict=False)):
        places = [i + number * height for i in range(len(names))]
        axes.barh(places, [v or 0 for v in values], height=height * 0.9, color=colour, label=group)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(names))], list(names))
    axes.set_ylim(len(names), -0.4)
    axes.set_xlim(0, 100)
    axes.legend(frameon=False, fontsize=8, labelcolor=_INK, loc="lower right")
    return _svg(figure)


def _axes(width: float, height: float, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=_INK, fontsize=9)
    axes.set_ylabel(y, color=_INK, fontsize=9)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#cbd5e1")
    return figure, axes


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    with (
        words(),
        matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "tagseg"}),
    ):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    page = text.getvalue()
    return page[page.index("<svg") :]
