"""COCO's JSON of instances: tags from the annotations, masks drawn on demand.

annotations/instances_train2017.json     COCO of any year, beside train2017/ or images/train2017/; CVAT's
                                         annotations/instances_default.json beside images/
train/_annotations.coco.json             Roboflow's export, and valid/, test/
result.json                              Label Studio's export, beside images/
annotations.json, labels.json ...        one file for all photographs, beside images/ or data/
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tagseg.data.dataset import Box, Dataset, DrawnMask, Problem, Sample, check_classes
from tagseg.data.images import MAX_PIXELS, image_size
from tagseg.data.readers import Reader
from tagseg.data.tables import SPLITS, is_background
from tagseg.data.walking import composed
from tagseg.errors import BadInput, brief
from tagseg.run_lengths import numbers_of

_ROBOFLOW = "_annotations.coco.json"
_WORDS = {"minival": "val", "valminusminival": "val", "holdout": "val", "testdev": "test"}
_FARTHEST = 100_000  # pixels that a corner may lie away; farther ones are damage
_ALONE = (
    "result.json",
    _ROBOFLOW,
    "instances_default.json",
    "annotations/instances.json",
    "annotations.json",
    "instances.json",
    "labels.json",
    "coco.json",
)


@dataclass(frozen=True)
class _Source:
    """A JSON, the split that it is for, and the folders in which its photographs may lie."""

    path: Path
    split: str
    folders: tuple[Path, ...]


def find_coco(root: Path) -> Path | None:
    """Returns the folder itself, if it has annotations of COCO's kind."""
    return root if _sources(root) else None


def _sources(root: Path) -> list[_Source]:
    found = []
    plain = [p for split in SPLITS if (p := root / "annotations" / f"{split}.json").is_file() and is_coco(p)]
    for path in [*sorted((root / "annotations").glob("instances_*.json")), *plain]:
        name = path.stem.removeprefix("instances_")
        split = _split_of(name)
        places = (root / name, root / "images" / name, root / split, root / "images" / split, root / "images", root)
        found.append(_Source(path, split, places))
    if found:
        return _one_year(found)
    for folder, split in SPLITS.items():
        if (path := root / folder / _ROBOFLOW).is_file():
            found.append(_Source(path, split, (root / folder, root / folder / "images")))
    if found:
        return found
    alone = next((p for name in _ALONE if (p := root / name).is_file() and is_coco(p)), None)
    return [] if alone is None else [_Source(alone, "train", (root, root / "images", root / "data"))]


def _split_of(name: str) -> str:
    """The split that a file's name means; what says nothing of evaluation is for training."""
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[_-]+", name.lower())]
    said = next((SPLITS[word] for word in words if word in SPLITS), None)
    return next((_WORDS[word] for word in words if word in _WORDS), "train") if said is None else said


def _one_year(sources: list[_Source]) -> list[_Source]:
    """Of files that differ by the year alone the first whose photographs are there; they hold the same photographs."""
    chosen: dict[str, _Source] = {}
    for source in sources:
        name = re.sub(r"\d{4}$", "", source.path.stem)
        if name not in chosen or (not _has_own_folder(chosen[name]) and _has_own_folder(source)):
            chosen[name] = source
    return list(chosen.values())


def _has_own_folder(source: _Source) -> bool:
    return any(folder.is_dir() for folder in source.folders[:2])


def is_coco(path: Path) -> bool:
    """Returns whether a file is JSON of COCO's kind."""
    try:
        said = load_coco(path)
    except BadInput:
        return False
    found = all(isinstance(said.get(key), list) for key in ("images", "annotations", "categories"))
    if not found:
        forget_coco()  # another's file
    return found


def load_coco(path: Path) -> dict[str, Any]:
    """Reads a file of COCO's annotations, which is kept as long as it stays the same, until `forget_coco`.

    It takes half a minute to read COCO's own, and whoever looks for a layout and then reads it asks thrice.

    Raises:
        BadInput: it is not JSON, or no table.
    """
    try:
        stat = path.stat()
        said = _parsed(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: this is not valid JSON ({brief(error)}); download or export it again.") from error
    if not isinstance(said, dict):
        raise BadInput(f"{path}: annotations of COCO are a table with images, annotations and categories.")
    return said


def forget_coco() -> None:
    """Lets go of the files that `load_coco` keeps."""
    _parsed.cache_clear()


@lru_cache(maxsize=4)
def _parsed(path: Path, changed: int, size: int) -> Any:
    del changed, size  # what is asked of the same file after it has changed is another question
    return json.loads(path.read_text(encoding="utf-8-sig"))


def read_coco(root: Path) -> Dataset:
    """Reads a tree with COCO's annotations. Classes are the categories by number; photographs without any are dropped.

    Raises:
        BadInput: pycocotools is missing, there is no training split, or a file is not COCO's JSON.
    """
    check_pycocotools()
    sources = _sources(root)
    if "train" not in {source.split for source in sources}:
        raise BadInput(f"{root}: there are no annotations for training, such as annotations/instances_train2017.json.")
    reading = _Reading()
    notes = [f"{s.path}: a test split, which nothing here uses, and left out." for s in sources if s.split == "test"]
    for source in sources:
        word = re.sub(r"[\d_-]+$", "", source.path.stem.removeprefix("instances_")).lower()
        if source.path.stem.startswith("instances_") and word not in (*SPLITS, "default") and source.split != "test":
            use = "training" if source.split == "train" else "evaluation"
            notes.append(f"{source.path}: the name says no split that is known; its photographs are for {use}.")
    splits: dict[str, tuple[Sample, ...]] = {"train": (), "val": ()}
    used = [source for source in sources if source.split != "test"]
    for source in used:
        reading.add_classes(source)
    for source in used:
        splits[source.split] += tuple(reading.samples(source))
    forget_coco()
    if {s.name for s in splits["train"]} & {s.name for s in splits["val"]}:  # splits in folders of their own
        splits = {split: tuple(replace(s, name=f"{split}/{s.name}") for s in splits[split]) for split in splits}
    if reading.empty:
        notes.append(f"{root}: photographs without an annotation were left out: {reading.empty}.")
    if reading.without_outline:
        notes.append(
            f"{root}: photographs with an annotation that has no outline, and no mask therefore: "
            f"{reading.without_outline}."
        )
    if reading.of_nothing:
        notes.append(f"{root}: annotations of photographs that are not listed were left out: {reading.of_nothing}.")
    problems = [*reading.problems, *check_classes(reading.classes, root)]
    return Dataset(root, tuple(reading.classes), splits["train"], splits["val"], tuple(problems), tuple(notes))


class _Reading:
    """What is known while the files of a tree are read."""

    def __init__(self) -> None:
        self.classes: list[str] = []
        self.problems: list[Problem] = []
        self.empty = self.without_outline = self.of_nothing = 0  # photographs, photographs, annotations

    def add_classes(self, source: _Source) -> None:
        said = load_coco(source.path)
        annotations = entries_of(said, "annotations", source.path) if "annotations" in said else []
        used = {id_of(a.get("category_id")) for a in annotations}
        categories = entries_of(said, "categories", source.path)
        above = {str(c.get("supercategory")) for c in categories}
        self._tell_twice(source, "categories", categories)
        for category in sorted(categories, key=lambda c: _number(c.get("id"))):
            name = category_name(category)
            # Roboflow puts the name of the whole first, as a category of which nothing is
            whole = category.get("supercategory") == "none" and name in above and id_of(category.get("id")) not in used
            if not name:
                self.problems.append(Problem(f"{source.path}: category {category.get('id')} has no name; add it."))
            if name and not whole and not is_background(name) and name not in self.classes:
                self.classes.append(name)

    def samples(self, source: _Source) -> Iterable[Sample]:
        said = load_coco(source.path)
        categories = entries_of(said, "categories", source.path)
        background = {id_of(c.get("id")) for c in categories if is_background(category_name(c))}
        tag_of = {id_of(c.get("id")): self._tag(c) for c in categories}
        of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in entries_of(said, "annotations", source.path):
            if id_of(annotation.get("category_id")) not in background:
                of_image[id_of(annotation.get("image_id"))].append(annotation)
        images = sorted(entries_of(said, "images", source.path), key=lambda image: _number(image.get("id")))
        self._tell_twice(source, "images", images)
        listed = {id_of(image.get("id")) for image in images}
        self.of_nothing += sum(len(found) for image, found in of_image.items() if image not in listed)
        files = [inside(image.get("file_name")) for image in images]
        folder = _folder(source, files)
        for info, file in zip(images, files, strict=True):
            annotations = of_image.get(id_of(info.get("id")), [])
            if not annotations:
                self.empty += 1
            elif file is None:
                self.problems.append(Problem(f"{source.path}: image {info.get('id')} has no file_name; add it."))
            else:
                sample = self._sample(source, folder, file, info, annotations, tag_of)
                if sample is not None:
                    yield sample

    def _tell_twice(self, source: _Source, what: str, entries: list[dict[str, Any]]) -> None:
        """Two entries with one number share whatever refers to it."""
        seen = Counter(id_of(entry.get("id")) for entry in entries)
        number = next((number for number, count in seen.items() if count > 1), None)
        if number is not None:
            self.problems.append(Problem(f"{source.path}: {number} is the id of several {what}; number them anew."))

    def _tag(self, category: dict[str, Any]) -> int | None:
        name = category_name(category)
        return self.classes.index(name) if name in self.classes else None

    def _sample(
        self,
        source: _Source,
        folder: Path,
        file: str,
        info: dict[str, Any],
        annotations: list[dict[str, Any]],
        tag_of: dict[Any, int | None],
    ) -> Sample | None:
        name, image = composed(str(PurePosixPath(file).with_suffix(""))), folder / file
        if not image.exists():
            self.problems.append(
                Problem(f"{source.path}: there is no photograph {image}; add it or drop its entry.", name)
            )
            return None
        known, whole = [], True
        shapes: list[tuple[int, float, Any]] = []
        for annotation in annotations:
            tag = tag_of.get(id_of(annotation.get("category_id")))
            if tag is None:
                number = annotation.get("category_id")
                self.problems.append(
                    Problem(
                        f"{source.path}: '{file}' has an annotation of unknown category {number}; correct it.", name
                    )
                )
                continue
            known.append((tag, annotation))
            shape = shape_of(annotation.get("segmentation"))
            whole = whole and shape is not None
            area = annotation.get("area")
            shapes.append((tag, float(area) if isinstance(area, int | float) else 0.0, shape))
        size = (info.get("height"), info.get("width"))
        mask = None
        self.without_outline += bool(known) and not whole
        if whole and known:
            right = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size)
            mask = DrawnMask(CocoMask(*(size if right else (None, None)), image, tuple(shapes)), (source.path,))
        boxes = tuple(box for tag, annotation in known if (box := _box(tag, annotation.get("bbox"))) is not None)
        return Sample(name, image, tuple(sorted({tag for tag, _ in known})), mask, boxes=boxes)


def check_pycocotools() -> None:
    """Refuses to go on where pycocotools is missing.

    Raises:
        BadInput: it is.
    """
    try:
        import pycocotools  # noqa: F401
    except ImportError as error:
        raise BadInput("Reading COCO needs pycocotools; install it with: pip install 'tagseg[coco]'.") from error


def coco_class_names(path: Path) -> list[str]:
    """Returns the class names in a file of COCO's annotations, in the order of the numbers that masks hold.

    Raises:
        BadInput: the file is not COCO's JSON.
    """
    reading = _Reading()
    reading.add_classes(_Source(path, "train", ()))
    forget_coco()
    return reading.classes


def id_of(value: Any) -> Any:
    """Returns what entries refer to each other by, as a word: some tools write numbers here and words there."""
    return str(value) if isinstance(value, int | str) else repr(value)


def category_name(category: dict[str, Any]) -> str:
    """Returns the name of a category; empty if it has none."""
    name = category.get("name")
    return composed(str(name).strip()) if isinstance(name, str | int) else ""


def entries_of(said: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """Returns the list of tables of a name, which must be there."""
    entries = said.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"{path}: '{key}' must be a list of tables, as in COCO's annotations.")
    return entries


def _number(value: Any) -> tuple[int, str]:
    """Orders numbers before words."""
    return (value, "") if isinstance(value, int) else (1 << 62, str(value))


def inside(name: Any) -> str | None:
    """Returns a file's name with slashes, below the folder of photographs; what leads out of it is cut off."""
    if not isinstance(name, str) or not name.strip():
        return None
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    if ".." in parts or re.match(r"[/\\]|[A-Za-z]:", name) or "?" in name:
        parts = parts[-1:]
    return "/".join(parts)


def _folder(source: _Source, files: list[str | None]) -> Path:
    """The folder in which most of the first photographs lie."""
    some = [file for file in files if file is not None][:50]
    counts = [sum((folder / file).exists() for file in some) for folder in source.folders]
    return source.folders[int(np.argmax(counts))]


def shape_of(segmentation: Any) -> Any:
    """Returns the polygons of at least three corners, or the run lengths, of an annotation; None if it has none."""
    if isinstance(segmentation, list):
        if segmentation and not isinstance(segmentation[0], list):  # one polygon without its brackets
            segmentation = [segmentation]
        flat = [_flat(polygon) for polygon in segmentation]
        return [p for p in flat if len(p) >= 6 and len(p) % 2 == 0] or None
    return segmentation if isinstance(segmentation, dict) and {"counts", "size"} <= set(segmentation) else None


def _flat(polygon: Any) -> list[Any]:
    """The corners of a polygon as x, y, x, y ..., also where each is a pair."""
    if not isinstance(polygon, list):
        return []
    pairs = all(isinstance(corner, list) and len(corner) == 2 for corner in polygon)
    return [number for corner in polygon for number in corner] if pairs else polygon


def _box(tag: int, box: Any) -> Box | None:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(n, int | float) for n in box):
        return None
    x, y, width, height = map(float, box)
    return Box(tag, x, y, x + width, y + height) if width > 0 and height > 0 else None


@dataclass(frozen=True)
class CocoMask:
    """The semantic mask of one photograph, drawn when it is called for.

    Where objects overlap, the smaller one lies on top. Without a height and width they are those of the photograph.
    """

    height: int | None
    width: int | None
    image: Path
    shapes: tuple[tuple[int, float, Any], ...]  # class, area, polygons or run lengths

    def __call__(self) -> np.ndarray:
        from pycocotools import mask as coco_mask

        height, width = self.height, self.width
        if height is None or width is None:
            height, width = image_size(self.image)
        if height * width > MAX_PIXELS:
            raise BadInput(f"{self.image}: its entry says {width} x {height} pixels, more than can be; correct it.")
        canvas = np.zeros((height, width), dtype=np.uint8)
        for label, _, shape in sorted(self.shapes, key=lambda item: -item[1]):
            try:
                _check_shape(shape, height, width)
                if isinstance(shape, list):
                    runs = coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
                elif isinstance(shape["counts"], list):
                    runs = coco_mask.frPyObjects(shape, height, width)
                else:
                    runs = shape
                canvas[coco_mask.decode(runs).astype(bool)] = label + 1
            except Exception as error:  # whatever a damaged shape makes pycocotools stumble over
                raise BadInput(f"{self.image}: its annotation cannot be drawn ({brief(error)}); correct it.") from error
        return canvas


def _check_shape(shape: Any, height: int, width: int) -> None:
    """What the drawing itself would not survive, or would not notice."""
    if isinstance(shape, list):
        corners = np.array([number for polygon in shape for number in polygon], dtype=np.float64)
        if not (np.abs(corners) <= _FARTHEST).all():
            raise ValueError("a corner is no number, or far outside")
        return
    if list(shape["size"]) != [height, width]:
        raise ValueError(f"run lengths for {shape['size']} in a photograph of {[height, width]}")
    counts = shape["counts"]
    if not isinstance(counts, list):
        counts = numbers_of(counts.decode("latin-1") if isinstance(counts, bytes) else counts)
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError("the run lengths do not add up to the photograph's pixels")


READER = Reader("COCO", find_coco, lambda root, _: read_coco(root), rank=20)
