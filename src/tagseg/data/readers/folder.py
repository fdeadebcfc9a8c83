"""The plain folder layout.

DATA/images/**            photographs; or DATA/CLASS/** (or DATA/images/CLASS/**) without labels.csv
DATA/labels.csv           image,label;label     (first column with or without suffix; no label = background only)
DATA/classes.txt          optional, one class a line, an optional first line `background`
DATA/masks/**.png         optional truth for measuring: 0 background, line number of the class, 255 ignore
DATA/boxes.csv            optional true boxes for measuring: image,label,xmin,ymin,xmax,ymax in pixels
DATA/saliency/**.png      optional 8-bit saliency maps
DATA/train.txt, val.txt   optional lists of images; without them every photograph is for training
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from tagseg.data.dataset import Box, Dataset, Problem, Sample, check_classes
from tagseg.data.images import IMAGE_SUFFIXES
from tagseg.data.readers import Reader
from tagseg.errors import BadInput, nearest

_RESERVED = {"images", "masks", "saliency"}


def read_folder(root: Path) -> Dataset:
    """Reads the plain folder layout; every fault found in its lists is in `Dataset.problems`."""
    images = root / "images"
    labels = root / "labels.csv"
    if labels.exists():
        if not images.is_dir():
            raise BadInput(f"{root}: labels.csv is there but no folder images/; put the photographs into images/.")
        photos = _find_images(images)
        rows, problems = _read_labels(labels)
    else:
        base = images if images.is_dir() else root
        photos = _find_images(base, skip=_RESERVED if base == root else set())
        photos = {name: path for name, path in photos.items() if "/" in name}
        rows, problems = [(0, name, [name.split("/")[0]]) for name in photos], []
        rows = [(n, name, [] if tags == ["background"] else tags) for n, name, tags in rows]
    if not photos:
        raise BadInput(f"{root}: no photographs found; it needs images/ with labels.csv, or one sub-folder per class.")
    by_name, duplicate_problems = _by_name(photos)
    problems += duplicate_problems

    classes, class_problems = _read_classes(root, rows)
    problems += class_problems
    tags, tag_problems = _match(rows, by_name, classes, labels)
    problems += tag_problems

    splits: dict[str, list[str]] = {}
    for split in ("train", "val"):
        splits[split], split_problems = _read_split(root / f"{split}.txt", by_name, tags)
        problems += split_problems
    if not (root / "train.txt").exists():
        evaluated = set(splits["val"])
        splits["train"] = [name for name in by_name if name in tags and name not in evaluated]
    both = sorted(set(splits["train"]) & set(splits["val"]))
    if both:
        problems.append(Problem(f"{root / 'val.txt'}: '{both[0]}' is in train.txt too; keep it in one of them."))
    untagged = [name for name in by_name if name not in tags]
    if untagged and not (root / "train.txt").exists():
        problems += [
            Problem(
                f"{by_name[name]}: the photograph has no row in {labels}; add one (no label = background only).",
                name,
            )
            for name in untagged
        ]

    boxes, box_problems = _read_boxes(root / "boxes.csv", by_name, classes)
    problems += box_problems

    def sample(name: str) -> Sample:
        return Sample(
            name=name,
            image=by_name[name],
            tags=tags[name],
            mask=_beside(root / "masks", name),
            saliency=_beside(root / "saliency", name),
            boxes=tuple(boxes.get(name, ())),
        )

    return Dataset(
        root=root,
        classes=tuple(classes),
        train=tuple(sample(n) for n in splits["train"]),
        val=tuple(sample(n) for n in splits["val"]),
        problems=tuple(problems),
    )


def read_class_names(path: Path) -> list[str]:
    """Reads class names, one class a line; an optional first line `background` is left out.

    Raises:
        BadInput: there is no such file, or it is not text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path}: the class names cannot be read ({error}); give a text file, one class a line."
        ) from error
    classes = [line.strip() for line in lines if line.strip()]
    return classes[1:] if classes and classes[0].strip("_").lower() == "background" else classes


def _find_images(base: Path, skip: set[str] = frozenset()) -> dict[str, Path]:  # type: ignore[assignment]
    """Relative posix path with suffix -> path, sorted."""
    found = {}
    for path in sorted(base.rglob("*")):
        relative = path.relative_to(base)
        if path.suffix.lower() in IMAGE_SUFFIXES and relative.parts[0] not in skip and path.is_file():
            found[relative.as_posix()] = path
    return found


def _stem(name: str) -> str:
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix.lower() in IMAGE_SUFFIXES else name


def _by_name(photos: dict[str, Path]) -> tuple[dict[str, Path], list[Problem]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for relative, path in photos.items():
        groups[_stem(relative)].append(path)
    problems = [
        Problem(f"{paths[1]}: has the same name as {paths[0].name} but for the suffix; rename one of them.", name)
        for name, paths in groups.items()
        if len(paths) > 1
    ]
    folded: dict[str, str] = {}
    for name in groups:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            problems.append(
                Problem(f"{groups[name][0]}: differs from '{other}' by case only; rename one of them.", name)
            )
    return {name: paths[0] for name, paths in groups.items()}, problems


def _read_labels(path: Path) -> tuple[list[tuple[int, str, list[str]]], list[Problem]]:
    """Rows `(line number, image name, labels)`."""
    rows, problems = [], []
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: this is not UTF-8 comma-separated text ({error}); save it as CSV UTF-8.") from error
    for number, row in enumerate(lines, start=1):
        if not row or not row[0].strip():
            continue
        if number == 1 and row[0].strip().lower() in ("image", "file", "filename", "name"):
            continue
        if len(row) > 2:
            problems.append(
                Problem(f"{path}:{number}: {len(row)} columns where two are expected; separate labels by ';'.")
            )
        labels = [label.strip() for label in (row[1] if len(row) > 1 else "").split(";")]
        rows.append((number, Path(row[0].strip()).as_posix(), [label for label in labels if label]))
    return rows, problems


def _read_classes(root: Path, rows: list[tuple[int, str, list[str]]]) -> tuple[list[str], list[Problem]]:
    path = root / "classes.txt"
    if path.exists():
        classes = read_class_names(path)
        return classes, check_classes(classes, path)
    classes = sorted({label for _, _, labels in rows for label in labels})
    return classes, check_classes(classes, root / "labels.csv" if (root / "labels.csv").exists() else root)


def _match(
    rows: list[tuple[int, str, list[str]]], by_name: dict[str, Path], classes: list[str], labels: Path
) -> tuple[dict[str, tuple[int, ...]], list[Problem]]:
    """Tags of every photograph that a row names."""
    problems: list[Problem] = []
    number_of = {name: c for c, name in enumerate(classes)}
    tags: dict[str, tuple[int, ...]] = {}
    for line, name, names in rows:
        where = f"{labels}:{line}" if line else str(by_name.get(name, labels.parent / name))
        key = name if name in by_name and Path(name).suffix.lower() not in IMAGE_SUFFIXES else _stem(name)
        if key not in by_name:
            problems.append(
                Problem(
                    f"{where}: there is no photograph '{name}' in images/; add it or remove the row.",
                    key,
                )
            )
            continue
        if key in tags:
            problems.append(Problem(f"{where}: '{name}' is listed twice; join the rows with ';'.", key))
            continue
        unknown = [n for n in names if n not in number_of]
        if unknown:
            problems.append(
                Problem(
                    f"{where}: '{unknown[0]}' is not in {labels.parent / 'classes.txt'}"
                    f"{nearest(unknown[0], classes) or '; add it there or correct the row.'}",
                    key,
                )
            )
        tags[key] = tuple(sorted({number_of[n] for n in names if n in number_of}))
    return tags, problems


def _read_split(
    path: Path, by_name: dict[str, Path], tags: dict[str, tuple[int, ...]]
) -> tuple[list[str], list[Problem]]:
    names: list[str] = []
    problems: list[Problem] = []
    if not path.exists():
        return names, problems
    seen: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        key = name if name in by_name else _stem(name)
        if key not in by_name:
            problems.append(
                Problem(f"{path}:{number}: there is no photograph '{name}'; add it or remove the line.", key)
            )
        elif key in seen:
            problems.append(Problem(f"{path}:{number}: '{name}' is listed twice; remove one line."))
        elif key not in tags:
            problems.append(
                Problem(
                    f"{path}:{number}: '{name}' has no row in labels.csv; add one (no label = background only).",
                    key,
                )
            )
        else:
            seen.add(key)
            names.append(key)
    return names, problems


def _read_boxes(path: Path, by_name: dict[str, Path], classes: list[str]) -> tuple[dict[str, list[Box]], list[Problem]]:
    boxes: dict[str, list[Box]] = defaultdict(list)
    problems: list[Problem] = []
    if not path.exists():
        return boxes, problems
    for number, row in enumerate(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()), start=1):
        if not row or (number == 1 and row[0].strip().lower() == "image"):
            continue
        try:
            name, label, *edges = (value.strip() for value in row[:6])
            x0, y0, x1, y1 = (float(edge) for edge in edges)
        except ValueError:
            problems.append(Problem(f"{path}:{number}: write image,label,xmin,ymin,xmax,ymax with numbers in pixels."))
            continue
        key = name if name in by_name else _stem(name)
        if key not in by_name or label not in classes or x0 >= x1 or y0 >= y1:
            reason = (
                f"there is no photograph '{name}'"
                if key not in by_name
                else f"'{label}' is no class of this data set{nearest(label, classes)}"
                if label not in classes
                else "the box is empty"
            )
            problems.append(Problem(f"{path}:{number}: {reason}; correct or remove the line.", key))
            continue
        boxes[key].append(Box(classes.index(label), x0, y0, x1, y1))
    return boxes, problems


def _beside(folder: Path, name: str) -> Path | None:
    path = folder / f"{name}.png"
    return path if path.exists() else None


READER = Reader("a plain folder", lambda root: root, lambda root, _: read_folder(root), rank=1000)
