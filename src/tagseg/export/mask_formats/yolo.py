"""YOLO's format of segmentation: photographs, a text file of outlines beside each, and `data.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tagseg.data.dataset import DrawnMask
from tagseg.data.images import image_size
from tagseg.data.walking import find_images
from tagseg.errors import BadInput, brief
from tagseg.export.mask_formats import (
    ExportOptions,
    LabelledPhotograph,
    MaskFormat,
    MaskSet,
    add_mask,
    copy_photograph,
    photo_of,
)
from tagseg.export.shapes import centre_polygons, fill_centres
from tagseg.files import write_text
from tagseg.labels import IGNORE

DATA = "data.yaml"


def write(
    folder: Path, photographs: Iterable[LabelledPhotograph], classes: Sequence[str], options: ExportOptions
) -> Path:
    """Writes `images/SPLIT`, `labels/SPLIT/NAME.txt` and `data.yaml`.

    A line is the class, counted from 0, and x and y of its corners as shares of width and height; every part that hangs
    together has its own. Unknown pixels become background, for the format has none.
    """
    del options
    splits: set[str] = set()
    for item in photographs:
        splits.add(item.split)
        copy_photograph(photo_of(item), folder / "images" / item.split / item.file_name)
        size = np.array(item.mask.shape[::-1])
        lines = []
        for value in np.unique(item.mask):
            if value not in (0, IGNORE):
                for polygon in centre_polygons(item.mask == value):
                    lines.append(" ".join([str(value - 1), *(f"{n:.7g}" for n in (polygon / size).ravel())]))
        write_text(folder / "labels" / item.split / f"{item.name}.txt", "".join(f"{line}\n" for line in lines))
    place = {"train": f"images/{'train' if 'train' in splits else 'val'}"}
    place["val"] = "images/val" if "val" in splits else place["train"]
    described = {**place, "names": dict(enumerate(classes))}  # without a path, places are beside this file
    write_text(folder / DATA, yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    return folder / DATA


def holds(path: Path) -> bool:
    """Returns whether this is a `data.yaml`, or a folder with one."""
    return (path if path.is_file() else path / DATA).name == DATA and (path.is_file() or (path / DATA).is_file())


def read(path: Path) -> MaskSet:
    """Reads the outlines of every photograph that `data.yaml` names.

    Raises:
        BadInput: `data.yaml` or an outline is damaged.
    """
    path = path if path.is_file() else path / DATA
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = said["names"]
        classes = tuple(map(str, names.values() if isinstance(names, dict) else names))
        root = path.parent / str(said.get("path") or ".")
        root = root if root.is_dir() else path.parent
        places = dict.fromkeys(str(said[split]) for split in ("train", "val", "test") if said.get(split))
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: this is no data.yaml of YOLO ({brief(error)}).") from error
    masks: dict[str, DrawnMask] = {}
    outlines = 0
    for place in places:
        folders = (root / place, root / place.removeprefix("../"))  # Roboflow means its own folder by ..
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            raise BadInput(f"{folders[0]}: there is no such folder of photographs, which {path} names.")
        parts = folder.parts
        last = max((n for n, part in enumerate(parts) if part == "images"), default=None)
        labels = folder if last is None else Path(*parts[:last], "labels", *parts[last + 1 :])
        for name, photo in find_images(folder).photographs.items():
            stem = Path(name).with_suffix("").as_posix()
            lines = labels / f"{stem}.txt"
            outlines += lines.is_file()
            add_mask(masks, stem, partial(_draw, photo, lines, len(classes)), path, lines)
    if masks and not outlines:
        raise BadInput(f"{path}: no photograph has a file of outlines, such as {lines}.")
    return MaskSet(classes, masks)


def _draw(photo: Path, lines: Path, classes: int) -> np.ndarray:
    """The mask of a photograph; one without a file of outlines is background."""
    height, width = image_size(photo)
    mask = np.zeros((height, width), dtype=np.uint8)
    for number, line in enumerate(lines.read_text(encoding="utf-8").splitlines() if lines.is_file() else (), start=1):
        words: list[Any] = line.split()
        try:
            value, corners = int(words[0]), np.array(words[1:], dtype=np.float64).reshape(-1, 2)
        except (ValueError, IndexError) as error:
            raise BadInput(f"{lines}: line {number} is no outline ({brief(error)}); correct it.") from error
        if not 0 <= value < classes or len(corners) < 3 or not (np.abs(corners) <= 2).all():
            raise BadInput(f"{lines}: line {number} is no outline of {classes} classes; give class x y x y x y ...")
        mask[fill_centres([corners * (width, height)], (height, width))] = value + 1
    return mask


FORMAT = MaskFormat("yolo", "Ultralytics YOLO, supervision", write, holds, read, photographs=True, unknown=False)
