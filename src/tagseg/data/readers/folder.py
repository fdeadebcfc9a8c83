"""The plain folder layout.

DATA/images/**            photographs; or DATA/CLASS/** (or DATA/images/CLASS/**) without labels.csv; or with the splits
                          above the classes: DATA/train/CLASS/**, and val, valid or validation; test is left out
DATA/labels.csv           image,label;label     (see `tagseg.data.tables`)
DATA/classes.txt          optional, one class a line; optional first lines `__ignore__`, `background`
DATA/masks/**.png         optional truth for measuring: 0 background, line number of the class, 255 ignore
DATA/boxes.csv            optional true boxes for measuring: image,label,xmin,ymin,xmax,ymax in pixels
DATA/saliency/**.png      optional 8-bit saliency maps
DATA/train.txt, val.txt   optional lists of images; without them every photograph is for training
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tagseg.data.class_folders import MASK_ENDINGS, by_class_folder, refuse_foreign, split_folders
from tagseg.data.dataset import Box, Dataset, Problem, Sample, check_classes, missing_labels
from tagseg.data.images import IMAGE_SUFFIXES, MAX_PIXELS
from tagseg.data.readers import Reader
from tagseg.data.tables import SPLITS, Row, key, label_text, read_table, read_text, without_suffix
from tagseg.data.walking import composed, find_images
from tagseg.errors import BadInput, brief, nearest
from tagseg.files import write_text

CLASSES = "classes.txt"
_RESERVED = frozenset({"images", "masks", "saliency", "boxes", "annotations"})
_DEEPEST = 20  # folders below each other

MASK_SUFFIXES = (".png", ".PNG", ".tif", ".tiff", ".bmp")
_OTHERS = {  # where masks lie that nobody looks for
    "mask", "segmentationclass", "segmentation", "groundtruth", "ground_truth", "gt", "saliencies", "annotations",
}  # fmt: skip
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".gif", ".GIF")  # JPEG changes numbers, GIF puts them into another order


def read_folder(root: Path) -> Dataset:
    """Reads the plain folder layout; every fault found in its lists is in `Dataset.problems`.

    Raises:
        BadInput: there are no photographs, or the layout is one of another tool that is not read.
    """
    images, labels = root / "images", root / "labels.csv"
    split_of: dict[str, str] = {}
    notes: list[str] = []
    problems: list[Problem] = []
    if labels.exists():
        if not images.is_dir():
            raise BadInput(f"{root}: labels.csv is there but no folder images/; put the photographs into images/.")
        found = find_images(images)
        photos = found.photographs
        table = read_table(labels, {without_suffix(name) for name in photos})
        rows, notes = table.rows, table.notes
        problems += table.problems
        split_of = table.split_of or split_folders(photos)
        tests = [name for name, split in split_of.items() if split == "test"]
        if tests:
            notes.append(f"{labels}: photographs of a test split, which nothing here uses, left out: {len(tests)}.")
    else:
        refuse_foreign(root)
        base = images if images.is_dir() else root
        found = find_images(base, skip=_RESERVED if base == root else frozenset())
        photos = {name: path for name, path in found.photographs.items() if "/" in name}
        lost = len(found.photographs) - len(photos)
        if lost and photos:
            notes.append(f"{base}: photographs that lie in no class folder were left out: {lost}.")
        if base == root:
            notes += [
                f"{root / name}: this name is no class's; its photographs were left out."
                for name in ("annotations", "boxes")
                if (root / name).is_dir() and find_images(root / name).photographs
            ]
            if (root / "masks").is_dir() and not any((root / "masks").rglob("*.png")):
                notes.append(f"{root / 'masks'}: no class; the truth for measuring, of which there is none.")
        if base == images:
            notes += [
                f"{folder}: photographs beside images/ are not read."
                for folder in sorted(root.iterdir())
                if folder.is_dir() and not folder.name.startswith(".") and folder.name.lower() not in _RESERVED
                if any(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.iterdir())
            ]
        rows, split_of, split_notes = by_class_folder(base, photos)
        notes += split_notes
    if not photos:
        raise BadInput(f"{root}: no photographs found; it needs images/ with labels.csv, or one sub-folder per class.")
    notes = [*found.notes, *notes]
    problems += [Problem(f"{path}: this link leads nowhere; mend or remove it.") for path in found.dead]
    by_name, duplicate_problems = _by_name(photos)
    problems += duplicate_problems

    classes, class_problems = _read_classes(root, rows, by_name)
    problems += class_problems
    tags, tag_problems = _match(rows, by_name, classes, labels)
    problems += tag_problems

    splits: dict[str, list[str]] = {}
    for split in ("train", "val"):
        splits[split], split_problems = _read_split(_list_of(root, split), by_name, tags)
        problems += split_problems
    tests, _ = _read_split(root / "test.txt", by_name, tags)
    listed = _list_of(root, "train").exists()
    if split_of and not listed and not _list_of(root, "val").exists():
        for split in ("train", "val"):
            splits[split] = [name for name in by_name if split_of.get(name, "train") == split and name in tags]
    elif not listed:
        elsewhere = {*splits["val"], *tests}
        splits["train"] = [name for name in by_name if name in tags and name not in elsewhere]
        if tests:
            notes.append(f"{root / 'test.txt'}: nothing here uses a test split; its photographs were left out.")
    both = sorted(set(splits["train"]) & set(splits["val"]))
    if both:
        problems.append(Problem(f"{_list_of(root, 'val')}: '{both[0]}' is in train.txt too; keep it in one of them."))
        splits["val"] = [name for name in splits["val"] if name not in both]
    tested = {*tests, *(name for name, split in split_of.items() if split == "test")}
    untagged = [name for name in by_name if name not in tags and name not in tested]
    if untagged and not listed:
        problems += [
            Problem(
                f"{by_name[name]}: the photograph has no row in {labels}; add one (no label = background only).",
                name,
            )
            for name in untagged
        ]

    boxes, box_problems = _read_boxes(root / "boxes.csv", by_name, classes)
    problems += box_problems
    there, saliency = _files(root / "masks"), _files(root / "saliency")
    masks, mask_problems = _find_masks(there, by_name)
    problems += mask_problems
    notes += _unread(root, by_name, masks, there, saliency)

    def sample(name: str) -> Sample:
        return Sample(
            name=name,
            image=by_name[name],
            tags=tags[name],
            mask=masks.get(name),
            saliency=saliency.get(f"{name}.png"),
            boxes=tuple(boxes.get(name, ())),
        )

    return Dataset(
        root=root,
        classes=tuple(classes),
        train=tuple(sample(n) for n in splits["train"]),
        val=tuple(sample(n) for n in splits["val"]),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _list_of(root: Path, split: str) -> Path:
    """The list of a split under any of its names."""
    names = [name for name, known in SPLITS.items() if known == split]
    return next((path for name in names if (path := root / f"{name}.txt").exists()), root / f"{split}.txt")


def _unread(
    root: Path,
    by_name: dict[str, Path],
    masks: dict[str, Path],
    in_masks: dict[str, Path],
    in_saliency: dict[str, Path],
) -> list[str]:
    """What to know of masks and maps that belong to no photograph, or lie where nobody looks for them."""
    notes = []
    for name, files, used, mend in (
        ("masks", in_masks, set(masks.values()), "masks are PNG files with the photographs' names"),
        ("saliency", in_saliency, {p for n, p in in_saliency.items() if n.removesuffix(".png") in by_name},
         "saliency maps are PNG files with the photographs' names"),
    ):  # fmt: skip
        there = [p for p in files.values() if not p.name.startswith((".", "classes."))]
        odd = [path for path in there if path not in used]
        if odd and by_name:
            notes.append(f"{odd[0]}: {mend}; of the {len(there)} files of this folder {len(odd)} are not read.")
        dead = next((p for p in (root / name).rglob("*") if p.is_symlink() and not p.exists()), None)
        if dead is not None:
            notes.append(f"{dead}: this link leads nowhere.")
    if not masks:
        notes += [
            f"{folder}: not read; the truth for measuring is read from {root / 'masks'}."
            for folder in sorted(root.iterdir())
            if folder.is_dir() and (folder.name.lower() in _OTHERS or folder.name != "masks" == folder.name.lower())
            if any(p.suffix.lower() in MASK_SUFFIXES for p in folder.iterdir())
        ]
    return notes


def read_class_names(path: Path) -> list[str]:
    """Reads class names, one class a line; first lines `__ignore__` and `background` are left out.

    Raises:
        BadInput: there is no such file, or it is not text.
    """
    classes = [name for line in read_text(path).splitlines() if (name := label_text(line))]
    for word in ("ignore", "background"):
        if classes and classes[0].strip("_").lower() == word and (word == "background" or classes[0] != word):
            classes = classes[1:]
    return classes


def write_class_names(folder: Path, classes: Sequence[str]) -> None:
    """Writes `classes.txt`, a name a line in the order of the numbers in masks, background first.

    Raises:
        BadInput: there is one already that says something else.
    """
    path = folder / CLASSES
    if path.exists():
        if read_class_names(path) != list(classes):
            raise BadInput(
                f"{path}: the classes in this folder are others than those of its new masks; choose another."
            )
        return
    write_text(path, "\n".join(["background", *classes]) + "\n")


def _by_name(photos: dict[str, Path]) -> tuple[dict[str, Path], list[Problem]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for relative, path in photos.items():
        groups[without_suffix(relative)].append(path)
    problems = [
        Problem(f"{paths[1]}: has the same name as {paths[0].name} but for the suffix; rename one of them.", name)
        for name, paths in groups.items()
        if len(paths) > 1
    ]
    return {name: paths[0] for name, paths in groups.items()}, problems


def _read_classes(root: Path, rows: list[Row], by_name: dict[str, Path]) -> tuple[list[str], list[Problem]]:
    path = root / CLASSES
    if path.exists():
        classes = read_class_names(path)
        return classes, check_classes(classes, path)
    # a row that names no photograph is a fault, which must not add a class
    classes = sorted({label for row in rows for label in row.labels if _key(row.name, by_name) in by_name})
    where = root / "labels.csv" if (root / "labels.csv").exists() else root
    return classes, [*check_classes(classes, where), *missing_labels(classes, where)]


def _key(name: str, by_name: dict[str, Path]) -> str:
    """The name under which a photograph is known that a list calls `name`."""
    name = key(name)
    return name if name in by_name else without_suffix(name)


def _match(
    rows: list[Row], by_name: dict[str, Path], classes: list[str], labels: Path
) -> tuple[dict[str, tuple[int, ...]], list[Problem]]:
    """Tags of every photograph that a row names; those of several rows are joined."""
    problems: list[Problem] = []
    number_of = {name: c for c, name in enumerate(classes)}
    tags: dict[str, set[int]] = {}
    for row in rows:
        known = _key(row.name, by_name)
        where = f"{labels}:{row.line}" if row.line else str(by_name.get(known, labels.parent / row.name))
        if known not in by_name:
            hint = " (if this line is a header, call its first column 'image')" if row.line == 1 else ""
            problems.append(
                Problem(
                    f"{where}: there is no photograph '{row.name}' in images/{hint}; add it or remove the row.", known
                )
            )
            continue
        unknown = [n for n in row.labels if n not in number_of]
        if unknown:
            problems.append(
                Problem(
                    f"{where}: '{unknown[0]}' is not in {labels.parent / 'classes.txt'}"
                    f"{nearest(unknown[0], classes) or '; add it there or correct the row.'}",
                    known,
                )
            )
        tags.setdefault(known, set()).update(number_of[n] for n in row.labels if n in number_of)
    return {name: tuple(sorted(found)) for name, found in tags.items()}, problems


def _read_split(
    path: Path, by_name: dict[str, Path], tags: dict[str, tuple[int, ...]]
) -> tuple[list[str], list[Problem]]:
    names: list[str] = []
    problems: list[Problem] = []
    if not path.exists():
        return names, problems
    seen: set[str] = set()
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        known = _key(name, by_name)
        if known not in by_name:
            problems.append(
                Problem(f"{path}:{number}: there is no photograph '{name}'; add it or remove the line.", known)
            )
        elif known in seen:
            problems.append(Problem(f"{path}:{number}: '{name}' is listed twice; remove one line."))
        elif known not in tags:
            problems.append(
                Problem(
                    f"{path}:{number}: '{name}' has no row in labels.csv; add one (no label = background only).",
                    known,
                )
            )
        else:
            seen.add(known)
            names.append(known)
    return names, problems


def _read_boxes(path: Path, by_name: dict[str, Path], classes: list[str]) -> tuple[dict[str, list[Box]], list[Problem]]:
    boxes: dict[str, list[Box]] = defaultdict(list)
    problems: list[Problem] = []
    if not path.exists():
        return boxes, problems
    try:
        rows = list(csv.reader(read_text(path).splitlines(), strict=True))
    except csv.Error as error:
        raise BadInput(f"{path}: this is no table ({brief(error)}); save it as CSV UTF-8.") from error
    for number, row in enumerate(rows, start=1):
        if not row or (number == 1 and row[0].strip().lower() == "image"):
            continue
        try:
            name, label, *edges = (value.strip() for value in row[:6])
            x0, y0, x1, y1 = (float(edge) for edge in edges)
        except ValueError:
            problems.append(Problem(f"{path}:{number}: write image,label,xmin,ymin,xmax,ymax with numbers in pixels."))
            continue
        known, label = _key(name, by_name), label_text(label)
        if (
            known not in by_name
            or label not in classes
            or not (0 <= x0 < x1 < MAX_PIXELS and 0 <= y0 < y1 < MAX_PIXELS)
        ):
            reason = (
                f"there is no photograph '{name}'"
                if known not in by_name
                else f"'{label}' is no class of this data set{nearest(label, classes)}"
                if label not in classes
                else "the box is empty or begins outside the photograph"
            )
            problems.append(Problem(f"{path}:{number}: {reason}; correct or remove the line.", known))
            continue
        boxes[known].append(Box(classes.index(label), x0, y0, x1, y1))
    return boxes, problems


def _find_masks(there: dict[str, Path], by_name: dict[str, Path]) -> tuple[dict[str, Path], list[Problem]]:
    """The mask of every photograph that has one, under any of the usual names; JPEG cannot hold numbers."""
    found: dict[str, Path] = {}
    problems: list[Problem] = []
    for name in by_name:
        candidates = [there[c] for e in ("", *MASK_ENDINGS) for s in MASK_SUFFIXES if (c := f"{name}{e}{s}") in there]
        lossy = [there[c] for e in ("", *MASK_ENDINGS) for s in LOSSY_SUFFIXES if (c := f"{name}{e}{s}") in there]
        if candidates:
            found[name] = candidates[0]
        elif lossy:
            problems.append(
                Problem(
                    f"{lossy[0]}: JPEG changes a mask's numbers, and GIF their order; save it as PNG from its source.",
                    name,
                )
            )
    return found, problems


def _files(folder: Path) -> dict[str, Path]:
    """All files below a folder, by relative path in Unicode's composed form."""
    found = {}
    for place, _, names in os.walk(folder, followlinks=True) if folder.is_dir() else ():
        if len(Path(place).parts) - len(folder.parts) > _DEEPEST:
            break  # a link that leads back
        for name in sorted(names):
            if (path := Path(place) / name).is_file():
                found[composed(path.relative_to(folder).as_posix())] = path
    return found


READER = Reader("a plain folder", lambda root: root, lambda root, _: read_folder(root), rank=1000)
