"""Data sets that are objects of Python: pairs, a table of pandas, a data set of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tagseg.data.dataset import Dataset, Sample, check_classes
from tagseg.data.reading import checked
from tagseg.data.tables import IMAGE_COLUMNS, LABEL_COLUMNS, without_suffix
from tagseg.data.walking import composed
from tagseg.errors import BadInput
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
    names = sorted({label for _, labels in both for label in labels}) if classes is None else list(classes)
    problems = check_classes(names, "labels")
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
            yield Path(item[0]), _words(item[1])
    else:
        raise BadInput(
            f"a {type(source).__name__} is no data set; give pairs of path and labels, a table of pandas, or a data "
            "set of Hugging Face."
        )


def _words(labels: Any) -> list[str]:
    """Labels as words: of one word, of words with `;` between, or of a list; None and NaN are none."""
    if labels is None or labels != labels:
        return []
    found = labels.split(";") if isinstance(labels, str) else labels if isinstance(labels, Iterable) else [labels]
    words = (composed(str(label).strip()) for label in found)
    return [word for word in words if word and word.strip("_").casefold() != "background"]


def _of_table(table: Any) -> Iterator[Pair]:
    columns = [str(column) for column in table.columns]
    images = [c for c in columns if c.casefold().replace(" ", "_") in IMAGE_COLUMNS]
    if not images:
        raise BadInput(f"the table has the columns {', '.join(columns)}; call the one with the paths 'image'.")
    labels = [c for c in columns if c.casefold() in LABEL_COLUMNS]
    rows = table.to_dict("records")
    flags = [c for c in columns if c not in images and all(row[c] in (0, 1) for row in rows)]
    if not labels and not flags:
        raise BadInput("the table has no column 'labels', and none of 0 and 1 for each class; add one.")
    for row in rows:
        words = [w for c in labels for w in _words(row[c])] if labels else [c for c in flags if row[c] == 1]
        yield Path(str(row[images[0]])), words


def _of_hugging_face(source: Any, folder: str | os.PathLike[str] | None, split: str) -> Iterator[Pair]:
    kinds = {name: type(feature).__name__ for name, feature in source.features.items()}
    image = next((name for name, kind in kinds.items() if kind == "Image"), None)
    label = next((name for name in kinds if name.casefold() in LABEL_COLUMNS), None)
    if image is None or label is None:
        raise BadInput(f"the data set has {', '.join(source.column_names)}; it needs an image and a label.")
    feature = source.features[label]
    named = getattr(feature, "feature", feature)  # of a list of labels
    undecoded = source.cast_column(image, type(source.features[image])(decode=False))
    for number, row in enumerate(undecoded):
        value = row[label]
        numbers = value if isinstance(value, list) else [value]
        words = [named.int2str(n) if hasattr(named, "int2str") and isinstance(n, int) else n for n in numbers]
        path, content = row[image].get("path"), row[image].get("bytes")
        if content is None and path is not None and Path(path).is_file():
            yield Path(path), _words(words)
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
        yield target, _words(words)
