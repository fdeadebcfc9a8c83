"""Tables of tags as people and tools write them.

The separator is found by looking (comma, semicolon, tab or bar); cells may be quoted and begin with a space. The first
column, or the one that a header names (`image`, `file_name` ...), says which photograph; paths, with or without
`images/` before them and the suffix behind them, will do. The other columns are labels, several in a cell separated by
`;` or `|`, or by `,` where each part is a label elsewhere too, or as a list of Python or JSON; or with a header one
column for each class that says 0 or 1. A column `split` says train, val or test. A photograph may have several rows.
"""

from __future__ import annotations

import ast
import csv
import io
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tagseg.data.dataset import Problem
from tagseg.data.images import IMAGE_SUFFIXES
from tagseg.data.walking import composed
from tagseg.errors import BadInput, brief

IMAGE_COLUMNS = {
    "image", "images", "file", "files", "filename", "file_name", "filenames", "image_id", "imageid", "image_name",
    "image_path", "img", "img_path", "fname", "image_file", "path", "filepath", "file_path", "name", "photo",
    "photograph", "picture", "id",
}  # fmt: skip
LABEL_COLUMNS = {
    "label", "labels", "tag", "tags", "class", "classes", "class_name", "category", "categories", "category_name",
    "target", "targets", "label_name", "tag_name", "class_names", "label_names",
}  # fmt: skip
SPLIT_COLUMNS = {"split", "subset", "set", "fold", "partition"}
SPLITS = {  # names that mean a split
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_UNSEEN = dict.fromkeys((0xAD, 0xFEFF, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A)))
_THERE = {"present", "exists", "value", "positive", "is_present", "has_label"}  # columns that may deny a label
_LABELS = re.compile("(" + "|".join(sorted(LABEL_COLUMNS)) + r")_?\d*")
_SEPARATORS = (",", ";", "\t", "|")
YES, NO = {"1", "1.0", "true", "yes", "y", "x"}, {"0", "0.0", "", "false", "no", "n", "-1"}


@dataclass
class Table:
    """What a table says.

    rows: of the photographs.
    problems: what is wrong.
    notes: what to know.
    split_of: the split of photographs, by name without suffix, where a column tells it.
    """

    rows: list[Row]
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    split_of: dict[str, str] = field(default_factory=dict)


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


def read_table(path: Path, photographs: set[str]) -> Table:
    """Reads a table of tags.

    Args:
        path: the file.
        photographs: the names that there are, without suffixes, by which a header is told from a first row.

    Raises:
        BadInput: the file is no table in UTF-8.
    """
    text = read_text(path)
    skipped = int(text.startswith("sep="))  # what a spreadsheet writes before a table
    text = text.partition("\n")[2] if skipped else text
    separator = _separator(text)
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    lines: list[tuple[int, list[str]]] = []
    before = skipped  # lines that were read
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append((before + 1, [cell.strip() for cell in row]))
            before = reader.line_num + skipped
    except csv.Error as error:
        raise BadInput(
            f"{path}:{before + 1}: this is no table ({brief(error)}); quote whole cells, and save it as CSV UTF-8."
        ) from error
    if not lines:
        return Table([], [])
    columns = _image_columns(lines[0][1], photographs)
    if not columns:
        rows, problems = _without_header(path, lines, separator)
        return Table(_apart(rows), problems)
    return _with_header(path, lines, columns, photographs, separator)


def _with_header(
    path: Path, lines: list[tuple[int, list[str]]], columns: list[int], photographs: set[str], separator: str
) -> Table:
    head, body = [label_text(cell) for cell in lines[0][1]], lines[1:]
    longest = max((len(row) for _, row in body), default=0)
    head += [""] * (longest - len(head))
    image = max(columns, key=lambda i: sum(without_suffix(key(_cell(row, i))) in photographs for _, row in body))
    others = [i for i in range(len(head)) if i not in columns and any(_cell(row, i) for _, row in body)]
    if not head[0] and all(_cell(row, 0).isdigit() for _, row in body):  # the numbers of rows, as pandas writes them
        others = [i for i in others if i]
    others = others or [i for i in range(len(head)) if i != image]
    splits = [i for i in others if head[i].casefold() in SPLIT_COLUMNS and len(others) > 1]
    splits = [i for i in splits if any(_cell(row, i).lower() in SPLITS for _, row in body)]
    others = [i for i in others if i not in splits]
    flags = [i for i in others if all(_cell(row, i).lower() in YES | NO for _, row in body)]
    named = [i for i in others if _LABELS.fullmatch(head[i].casefold().replace(" ", "_"))]
    words = [i for i in named if head[i].casefold().endswith("name")]  # of a number and a name of a class the name
    named = words or named
    if named and set(named) <= set(flags) and len(flags) > len(named) + 1 and set(others) == set(flags):
        mend = "call it otherwise if it is a class, and remove the others if it holds the labels"
        return Table([], [Problem(f"{path}:1: the column '{head[named[0]]}' holds 0 and 1 as all others do; {mend}.")])
    problems = [
        Problem(f"{path}:1: column {i + 1} has no name in the header; give it one, or quote labels with '{separator}'.")
        for i in others
        if not head[i]
    ]
    others = [i for i in others if head[i]]
    split_of = {
        without_suffix(key(_cell(row, image))): SPLITS.get(_cell(row, splits[0]).lower(), _cell(row, splits[0]))
        for _, row in body
        if splits and _cell(row, splits[0])
    }
    strange = next((s for s in split_of.values() if s not in SPLITS.values()), None)
    if strange is not None:
        problems.append(Problem(f"{path}:1: '{strange}' is no split; write train, val or test."))
    said: dict[str, str] = {}
    for n, row in body if splits else ():
        name, split = without_suffix(key(_cell(row, image))), _cell(row, splits[0])
        if said.setdefault(name, split) != split:
            problems.append(Problem(f"{path}:{n}: '{name}' is in the split '{said[name]}' too; keep it in one.", name))
    if not named and flags:
        rows = [
            Row(n, key(_cell(row, image)), [head[i] for i in flags if _cell(row, i).lower() in YES]) for n, row in body
        ]
        problems += [
            Problem(f"{path}:1: the column '{head[i]}' holds neither labels nor 0 and 1; remove it.")
            for i in others
            if i not in flags
        ]
        return Table(rows, problems, split_of=split_of)
    if len(others) > 1 and not named:
        words_of = f"{len(others) + 1} columns where two are expected"
        mend = "call the one with the labels 'labels', or give each class a column of 0 and 1"
        return Table([], [Problem(f"{path}:1: {words_of}; {mend}.")])
    used = named or others
    denied = [i for i in flags if i not in used and head[i].casefold() in _THERE]
    denied = [i for i in denied if any(_cell(row, i).lower() in NO - {""} for _, row in body)]
    problems += [
        Problem(f"{path}:1: the column '{head[i]}' says 0 of labels; leave those rows out, and remove the column.")
        for i in denied
    ]
    unread = [head[i] for i in others if i not in used and i not in denied]
    notes = [f"{path}:1: columns that are not read: {', '.join(unread)}."] if unread else []
    rows = [
        Row(n, key(_cell(row, image)), [label for i in used for label in _labels(_cell(row, i))]) for n, row in body
    ]
    return Table(_apart(rows), problems, notes, split_of)


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
    return [label for label in split_labels(cell) if not is_background(label)]


def is_background(label: str) -> bool:
    """Returns whether a label is what tools call that which has no class."""
    return label.strip("_").casefold() == "background"


def split_labels(cell: str) -> list[str]:
    """Returns the labels in a text: with `;`, `|` or line breaks between, or a list in the signs of Python or JSON."""
    listed = None
    if cell[:1] + cell[-1:] in ("[]", "{}"):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            listed = ast.literal_eval(cell)
    if isinstance(listed, dict) and isinstance(listed.get("choices"), list):  # Label Studio's
        listed = listed["choices"]
    parts = listed if isinstance(listed, list | tuple | set) else re.split(r"[;|\n\r]", cell)
    return [label for part in parts if (label := label_text(str(part)))]


def label_text(label: str) -> str:
    """Returns a label as it is compared: composed, without signs that mean nothing, and with single spaces."""
    seen = unicodedata.normalize("NFC", label).translate(_UNSEEN)
    return " ".join(seen.split())


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
    found = [i for i, cell in enumerate(row) if cell.casefold().replace(" ", "_") in IMAGE_COLUMNS]
    certain = 0 in found and any(_LABELS.fullmatch(cell.casefold()) for cell in row[1:])
    if not certain and (without_suffix(first) in photographs or Path(first).suffix.lower() in IMAGE_SUFFIXES):
        return []
    return found
