"""ILSVRC 2012 localisation: photographs of 1,000 classes, XML boxes for the validation photographs."""

from __future__ import annotations

from pathlib import Path

from tagseg.data.dataset import Dataset, Problem, Sample
from tagseg.data.readers import Reader
from tagseg.data.readers.voc import read_xml_boxes
from tagseg.data.tables import read_text
from tagseg.errors import BadInput


def find_ilsvrc(root: Path) -> Path | None:
    """Returns the folder with `Data/CLS-LOC` and `ImageSets/CLS-LOC`, at `root` or in `root/ILSVRC`."""
    for base in (root, root / "ILSVRC"):
        if (base / "Data" / "CLS-LOC").is_dir() and (base / "ImageSets" / "CLS-LOC").is_dir():
            return base
    return None


def read_ilsvrc(root: Path) -> Dataset:
    """Reads an ILSVRC tree.

    Classes are the WordNet numbers in order (a network's usual order), named by `LOC_synset_mapping.txt` where it is
    there. Boxes are read for the evaluation photographs, whose class they also tell.
    """
    base = find_ilsvrc(root)
    if base is None:
        raise BadInput(f"{root}: no ILSVRC tree here; it needs Data/CLS-LOC/ and ImageSets/CLS-LOC/.")
    lists = {split: base / "ImageSets" / "CLS-LOC" / name for split, name in (("train", "train_cls"), ("val", "val"))}
    train = _lines(lists["train"].with_suffix(".txt"))
    problems: list[Problem] = []
    numbers, names = _classes(base, train)
    images, annotations = base / "Data" / "CLS-LOC", base / "Annotations" / "CLS-LOC"

    def train_sample(name: str) -> Sample:
        return Sample(name, images / "train" / f"{name}.JPEG", (numbers.index(name.split("/")[0]),))

    found = []
    for name in _lines(lists["val"].with_suffix(".txt")):
        annotation = annotations / "val" / f"{name}.xml"
        boxes = read_xml_boxes(annotation, numbers)
        if not boxes:
            problems.append(Problem(f"{annotation}: the annotation is missing or names no known class.", name))
            continue
        tags = tuple(sorted({box.tag for box in boxes}))
        found.append(Sample(name, images / "val" / f"{name}.JPEG", tags, boxes=boxes))
    known = set(numbers)
    problems += [
        Problem(f"{lists['train'].with_suffix('.txt')}: '{name}' lies in no known class; remove the line.", name)
        for name in train
        if name.split("/")[0] not in known
    ]
    return Dataset(
        root=root,
        classes=names,
        train=tuple(train_sample(name) for name in train if name.split("/")[0] in known),
        val=tuple(found),
        problems=tuple(problems),
    )


def _lines(path: Path) -> list[str]:
    """The first word of every line; none without the file."""
    if not path.exists():
        return []
    return [line.split()[0] for line in read_text(path).splitlines() if line.strip()]


def _classes(base: Path, train: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet numbers and what people call them (the first word of each, with the number where two are the same)."""
    for folder in (base, base.parent):
        mapping = folder / "LOC_synset_mapping.txt"
        if mapping.exists():
            rows = [line.split(" ", 1) for line in read_text(mapping).splitlines() if line.strip()]
            rows.sort()
            numbers = tuple(row[0] for row in rows)
            words = [row[1].split(",")[0].strip() if len(row) > 1 else row[0] for row in rows]
            names = (w if words.count(w) == 1 else f"{w} ({n})" for n, w in zip(numbers, words, strict=True))
            return numbers, tuple(names)
    folders = {p.name for p in (base / "Data" / "CLS-LOC" / "train").glob("n*") if p.is_dir()}
    numbers = tuple(sorted(folders | {name.split("/")[0] for name in train}))
    if not numbers:
        raise BadInput(f"{base}: neither LOC_synset_mapping.txt nor Data/CLS-LOC/train/ tells the classes; add one.")
    return numbers, numbers


READER = Reader("ILSVRC", find_ilsvrc, lambda root, _: read_ilsvrc(root), rank=30)
