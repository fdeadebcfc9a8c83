"""What a study finds: tables, and the lines of its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tagseg.files import write_aside, write_json

Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass
class Table:
    """A table of a study: `rows[i]` has a cell for each of `columns`; None is not known."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    note: str = ""

    def markdown(self) -> str:
        """Returns the table as Markdown, with its title above and its note below."""
        lines = [f"### {self.title}", "", f"| {' | '.join(self.columns)} |", "|" + "---|" * len(self.columns)]
        lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else []), ""])

    def as_dict(self) -> dict[str, Any]:
        """Returns title, columns and rows by name."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(r) for r in self.rows]}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def write_tables(folder: Path, name: str, tables: Sequence[Table], facts: dict[str, Any]) -> None:
    """Writes tables as `NAME.md` to read and `NAME.json` with how they were made."""
    with write_aside(folder / f"{name}.md") as aside:
        aside.write_text("\n".join(table.markdown() for table in tables), encoding="utf-8")
    write_json(folder / f"{name}.json", {**facts, "tables": [table.as_dict() for table in tables]})


@dataclass
class Findings:
    """The tables of a study, and if it draws any, the lines of its picture.

    Lines are `name -> (xs, ys)`, and come with the names of both axes.
    """

    tables: list[Table]
    lines: Lines = field(default_factory=dict)
    x: str = ""
    y: str = ""
