"""Data sets that are objects of Python: pairs, a table of pandas, a data set of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tagseg.data.dataset import Dataset, Sample, check_classes, missing_labels
from tagseg.data.images import IMAGE_SUFFIXES
from tagseg.data.reading import checked
from tagseg.data.tables import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    NO,
    SPLIT_COLUMNS,
    SPLITS,
    YES,
    is_background,
    label_text,
    split_labels,
    without_suffix,
)
from tagseg.data.walking import composed
from tagseg.errors import BadInput, brief
from tagseg.files import write_aside

Pair = tuple[Path, list[str]]


def read_samples(
    source: Any,
    val: Any = (),
    *,
    classes: Iterable[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Returns the data set that objects of Python describe, for `fit` and `check`.

    Args:
        source: the photographs for training. Pairs `(path, label)` or `(path, [label, ...])`; a table of pandas with a
            column of paths (`image`, `file_name` ...) and one of labels (`label`, `tags` ...: a word, words with `;`
            between, or a list) or one of 0 and 1 for each class; or a `datasets.Dataset` of Hugging Face with an image
            and a label.
        val: those for evaluation, likewise.
        classes: the class names in order; None: those that occur, sorted.
        folder: where photographs of Hugging Face's that are not files are written to.

    Raises:
        BadInput: it is none of these, or there is nothing in it.
    """
    pairs = {split: list(_pairs(given, folder, split)) for split, given in (("train", source), ("val", val))}
    both = [*pairs["train"], *pairs["val"]]
    if not both:
        raise BadInput("there are no photographs in this data; give at least one.")
    parents = [str(path.absolute().parent) for path, _ in both]
    root = Path(os.path.commonpath(parents))
    names = sorted({label for _, labels in both for label in labels}) if classes is None else class_names(classes)
    problems = check_classes(names, "labels")
    if classes is None:
        problems += missing_labels(names, "labels")
    for path, labels in both:
        unknown = [label for label in labels if label not in names]
        if unknown:
            raise BadInput(f"{path}: the label '{unknown[0]}' is not among the classes; add it or correct it.")

    def sample(path: Path, labels: list[str]) -> Sample:
        name = without_suffix(composed(path.absolute().relative_to(root).as_posix()))
        return Sample(name, path, tuple(sorted({names.index(label) for label in labels})))

    train, evaluated = (tuple(sample(*pair) for pair in pairs[split]) for split in ("train", "val"))
    return checked(Dataset(root, tuple(names), train, evaluated, tuple(problems)))


def _pairs(source: Any, folder: str | os.PathLike[str] | None, split: str) -> Iterator[Pair]:
    if hasattr(source, "features") and hasattr(source, "column_names"):
        yield from _of_hugging_face(source, folder, split)
    elif hasattr(source, "columns") and hasattr(source, "to_dict"):
        yield from _of_table(source)
    elif isinstance(source, Iterable) and not isinstance(source, str | bytes):
        for number, item in enumerate(source):
            if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], str | os.PathLike):
                raise BadInput(f"item {number} of the data is {item!r:.60}; give pairs of a path and its labels.")
            yield _path(item[0]), _words(item[1], f"item {number} of the data")
    else:
        raise BadInput(
            f"a {type(source).__name__} is no data set; give pairs of path and labels, a table of pandas, or a data "
            "set of Hugging Face."
        )


def class_names(classes: Iterable[Any]) -> list[str]:
    """Returns class names as labels are compared with them."""
    return [label_text(str(name)) for name in classes]


def _path(given: Any) -> Path:
    """A path without `..` in it, so that one file has one name."""
    if not os.fspath(given) or "\0" in str(given):
        raise BadInput(f"{given!r:.60}: this is no path of a photograph; correct it.")
    return Path(os.path.normpath(given))


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy, pandas and torch as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _missing(value: Any) -> bool:
    """None, NaN and pandas' NA."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _words(labels: Any, where: str) -> list[str]:
    """Labels as words: of one word, of words with `;` or `|` between, or of a list; None and NaN are none."""
    labels = _plain(labels)
    if _missing(labels):
        return []
    if isinstance(labels, dict):
        raise BadInput(f"{where}: its labels are a table {labels!r:.60}; give a list of those that are there.")
    if isinstance(labels, str):
        words = split_labels(labels)
    else:
        listed = list(labels) if isinstance(labels, Iterable) and not isinstance(labels, bytes) else [labels]
        words = _each(listed, where)
    return [word for word in words if word and not is_background(word)]


def _each(labels: list[Any], where: str) -> list[str]:
    """The labels of a list as words, each whole."""
    words = []
    for label in map(_plain, labels):
        if isinstance(label, bytes):
            raise BadInput(f"{where}: the label {label!r:.60} is bytes; decode it.")
        if _missing(label):
            continue
        if isinstance(label, float) and label.is_integer():  # what pandas makes of whole numbers with gaps
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise BadInput(f"{where}: {label!r:.60} is no label; give words, or whole numbers of classes.")
        words.append(label_text(str(label)))
    return words


def _of_table(table: Any) -> Iterator[Pair]:
    rows = [{str(column): _plain(value) for column, value in row.items()} for row in table.to_dict("records")]
    columns = [str(column) for column in table.columns]
    images = [c for c in columns if c.casefold().replace(" ", "_") in IMAGE_COLUMNS]
    paths = [c for c in images if any(isinstance(row[c], str | os.PathLike) for row in rows)]
    if not paths:
        raise BadInput(f"the table has the columns {', '.join(columns)}; call the one with the paths 'image'.")
    image = max(paths, key=lambda c: sum(Path(str(row[c])).suffix.lower() in IMAGE_SUFFIXES for row in rows))
    gap = next((n for n, row in enumerate(rows) if not isinstance(row[image], str | os.PathLike)), None)
    if gap is not None:
        raise BadInput(f"row {gap} of the table has no path in '{image}'; leave it out.")
    labels = [c for c in columns if c not in images and c.casefold() in LABEL_COLUMNS]
    labels = [c for c in labels if c.casefold().endswith("name")] or labels
    others = [c for c in columns if c not in images and c not in labels]
    split = next((c for c in others if c.casefold() in SPLIT_COLUMNS), None)
    if split is not None and len({SPLITS.get(str(row[split]).lower()) for row in rows} - {None}) > 1:
        raise BadInput(
            f"the column '{split}' is not read; give the rows of each split as a table of its own (val=...)."
        )
    others = [
        c
        for c in others
        if c.casefold() not in SPLIT_COLUMNS or not {str(row[c]).lower() for row in rows} <= set(SPLITS)
    ]
    flags = [c for c in others if all(_flag(row[c]) is not None for row in rows)]
    if not labels and not flags:
        raise BadInput("the table has no column 'labels', and none of 0 and 1 for each class; add one.")
    strange = [c for c in others if c not in flags] if not labels else []
    if strange:
        raise BadInput(f"the column '{strange[0]}' holds neither labels nor 0 and 1; leave it out.")
    joined: dict[Path, list[str]] = {}
    for number, row in enumerate(rows):
        where = f"row {number} of the table"
        words = [w for c in labels for w in _words(row[c], where)] if labels else [c for c in flags if _flag(row[c])]
        joined.setdefault(_path(row[image]), []).extend(words)
    yield from joined.items()


def _flag(value: Any) -> bool | None:
    """What a cell says of a class; None if it is neither yes nor no."""
    if _missing(value):
        return False
    said = str(value).strip().lower()
    return True if said in YES else False if said in NO else None


def _of_hugging_face(source: Any, folder: str | os.PathLike[str] | None, split: str) -> Iterator[Pair]:
    if not source.features:
        raise BadInput("the data set says nothing of its columns (features); give pairs of path and labels instead.")
    kinds = {name: type(feature).__name__ for name, feature in source.features.items()}
    image = next((name for name, kind in kinds.items() if kind == "Image"), None)
    label = next((name for name in kinds if name.casefold() in LABEL_COLUMNS), None)
    if image is None or label is None:
        raise BadInput(f"the data set has {', '.join(source.column_names)}; it needs an image and a label.")
    feature = source.features[label]
    named = getattr(feature, "feature", feature)  # of a list of labels
    undecoded = source.cast_column(image, type(source.features[image])(decode=False))
    for number, row in enumerate(undecoded):
        value = _plain(row[label])
        numbers = value if isinstance(value, list | tuple) else [value]
        try:
            words = [named.int2str(n) if hasattr(named, "int2str") and isinstance(n, int) else n for n in numbers]
        except ValueError as error:
            raise BadInput(
                f"photograph {number} has the label {value!r:.60}, which is no class ({brief(error)})."
            ) from error
        if row[image] is None:
            raise BadInput(f"photograph {number} is not there (None); leave its row out.")
        where = f"photograph {number}"
        path, content = row[image].get("path"), row[image].get("bytes")
        if content is None and path is not None and Path(path).is_file():
            yield Path(path), _words(words, where)
            continue
        if content is None:
            raise BadInput(f"photograph {number} has neither a file nor bytes.")
        if folder is None:
            raise BadInput("photographs of this data set are no files; name a folder for them: folder='photos'.")
        ending = Path(path).suffix.lower() if path else ".png"
        target = Path(folder) / split / f"{number:06d}{ending}"
        if not target.exists() or target.read_bytes() != content:
            with write_aside(target) as aside:
                aside.write_bytes(content)
        yield target, _words(words, where)
