"""Tables of tags as people and tools write them.

The separator is found by looking (comma, semicolon, tab or bar); cells may be quoted and begin with a space. The first
column, or the one that a header names (`image`, `file_name` ...), says which photograph; paths, with or without
`images/` before them and the suffix behind them, will do. The other columns are labels, several in a cell separated by
`;` or `|`, or by `,` where each part is a label elsewhere too; or with a header one column for each class that says 0
or 1. A photograph may have several rows.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from tagseg.data.dataset import Problem
from tagseg.data.images import IMAGE_SUFFIXES
from tagseg.data.walking import composed
from tagseg.errors import BadInput

IMAGE_COLUMNS = {
    "image", "images", "file", "files", "filename", "file_name", "filenames", "image_id", "imageid", "image_name",
    "image_path", "img", "img_path", "path", "filepath", "file_path", "name", "photo", "photograph", "picture", "id",
}  # fmt: skip
LABEL_COLUMNS = {
    "label", "labels", "tag", "tags", "class", "classes", "class_name", "category", "categories", "category_name",
    "target", "targets",
}  # fmt: skip
_SEPARATORS = (",", ";", "\t", "|")
_YES, _NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "", "false", "no", "-1"}


@dataclass(frozen=True)
class Row:
    """What one line says: the number of the line (0 without a list), the name of a photograph, and its labels."""

    line: int
    name: str
    labels: list[str]


def read_text(path: Path) -> str:
    """Reads a list as text in UTF-8, with or without a byte order mark.

    Raises:
        BadInput: there is no such file, or it is not text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"{path}: there is no such file.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: this is not text in UTF-8 ({error.reason}); save it as UTF-8.") from error
    except OSError as error:
        raise BadInput(f"{path}: this list cannot be read ({error.strerror}); it must be a text file.") from error


def read_table(path: Path, photographs: set[str]) -> tuple[list[Row], list[Problem]]:
    """Reads a table of tags.

    Args:
        path: the file.
        photographs: the names that there are, without suffixes, by which a header is told from a first row.

    Returns:
        the rows, and what is wrong with them.

    Raises:
        BadInput: the file is no table in UTF-8.
    """
    text = read_text(path)
    separator = _separator(text)
    try:
        cells = list(csv.reader(text.splitlines(), delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise BadInput(f"{path}: this is no table ({error}); save it as CSV UTF-8.") from error
    lines = [(n, [cell.strip() for cell in row]) for n, row in enumerate(cells, start=1) if any(c.strip() for c in row)]
    if not lines:
        return [], []
    columns = _image_columns(lines[0][1], photographs)
    if not columns:
        rows, problems = _without_header(path, lines, separator)
        return _apart(rows), problems
    head, body = [composed(cell) for cell in lines[0][1]], lines[1:]
    image = max(columns, key=lambda i: sum(without_suffix(key(_cell(row, i))) in photographs for _, row in body))
    others = [i for i in range(len(head)) if i != image]
    named = [i for i in others if head[i].casefold() in LABEL_COLUMNS]
    flags = [i for i in others if i not in named and all(_cell(row, i).lower() in _YES | _NO for _, row in body)]
    if not named and flags and body:
        rows = [
            Row(n, key(_cell(row, image)), [head[i] for i in flags if _cell(row, i).lower() in _YES]) for n, row in body
        ]
        left = [head[i] for i in others if i not in flags]
        return rows, [Problem(f"{path}:1: the column '{c}' holds neither labels nor 0 and 1; remove it.") for c in left]
    if len(others) > 1 and not named:
        return [], [
            Problem(
                f"{path}:1: {len(head)} columns where two are expected; call the one with the labels 'labels', or give "
                "each class a column of 0 and 1."
            )
        ]
    column = named or others
    rows = [
        Row(n, key(_cell(row, image)), [label for i in column for label in _labels(_cell(row, i))]) for n, row in body
    ]
    words = f"more columns than the header has; quote labels that hold '{separator}'."
    return _apart(rows), [Problem(f"{path}:{n}: {words}") for n, row in body if len(row) > len(head)]


def _without_header(path: Path, lines: list[tuple[int, list[str]]], separator: str) -> tuple[list[Row], list[Problem]]:
    rows, problems = [], []
    for number, row in lines:
        if not row[0]:
            continue
        labels = row[1:] if separator == ";" else row[1:2]
        if len(row) > 2 and separator != ";" and any(row[2:]):
            problems.append(
                Problem(f"{path}:{number}: {len(row)} columns where two are expected; separate labels by ';'.")
            )
        rows.append(Row(number, key(row[0]), [label for cell in labels for label in _labels(cell)]))
    return rows, problems


def key(name: str) -> str:
    """Returns the name that a list gives a photograph, as it is compared: composed, with slashes, without `images/`."""
    name = re.sub(r"^(\./)+", "", composed(name.strip()))
    return name.removeprefix("images/")


def _cell(row: list[str], column: int) -> str:
    return row[column] if column < len(row) else ""


def without_suffix(name: str) -> str:
    """Returns the name of a photograph without the suffix of an image, if it has one."""
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix.lower() in IMAGE_SUFFIXES else name


def _labels(cell: str) -> list[str]:
    """The labels in a cell; what is called background is none."""
    found = [composed(label.strip()) for label in re.split(r"[;|]", cell)]
    return [label for label in found if label and label.strip("_").casefold() != "background"]


def _apart(rows: list[Row]) -> list[Row]:
    """Takes labels with commas apart where each part is a label of its own elsewhere."""
    known = {label for row in rows for label in row.labels if "," not in label}

    def parts(label: str) -> list[str]:
        found = [part.strip() for part in label.split(",") if part.strip()]
        return found if found and set(found) <= known else [label]

    return [Row(row.line, row.name, [part for label in row.labels for part in parts(label)]) for row in rows]


def _separator(text: str) -> str:
    """The separator that most lines have; of equals the first."""
    lines = [line for line in text.splitlines() if line.strip()][:1000]
    unquoted = [re.sub(r'"[^"]*"', "", line) for line in lines]
    counts = {mark: sum(mark in line for line in unquoted) for mark in _SEPARATORS}
    # a semicolon or bar separates labels too: it separates columns only where no comma or tab does
    for mark in ("\t", ","):
        if counts[mark] >= max(1, len(lines) / 2):
            return mark
    return max(_SEPARATORS, key=lambda mark: counts[mark]) if any(counts.values()) else ","


def _image_columns(row: list[str], photographs: set[str]) -> list[int]:
    """The columns that may name photographs, if the first line is a header; else none."""
    first = key(row[0])
    if without_suffix(first) in photographs or Path(first).suffix.lower() in IMAGE_SUFFIXES:
        return []
    return [i for i, cell in enumerate(row) if cell.casefold().replace(" ", "_") in IMAGE_COLUMNS]
