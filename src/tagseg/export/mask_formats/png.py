"""A folder of palette PNGs, one for each photograph, with the names of their numbers beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from tagseg.data.dataset import DrawnMask
from tagseg.data.images import read_index_png, write_mask
from tagseg.data.readers.folder import CLASSES, read_class_names, write_class_names
from tagseg.data.walking import find_images
from tagseg.errors import BadInput
from tagseg.export.mask_formats import ExportOptions, LabelledPhotograph, MaskFormat, MaskSet


def write(
    folder: Path, photographs: Iterable[LabelledPhotograph], classes: Sequence[str], options: ExportOptions
) -> Path:
    """Writes `NAME.png` and `classes.txt`, whose first line, background, is the number 0."""
    del options
    for item in photographs:
        write_mask(folder / f"{item.name}.png", item.mask)
    write_class_names(folder, classes)
    return folder


def holds(path: Path) -> bool:
    """Returns whether there are PNGs below a folder."""
    return path.is_dir() and any(p.suffix.lower() == ".png" for p in path.rglob("*"))


def read(path: Path) -> MaskSet:
    """Reads the PNGs below a folder, and class names in `classes.txt` in it or beside it; there may be none."""
    lists = [p for p in (path / CLASSES, path.parent / CLASSES) if p.is_file()]
    found = {name: p for name, p in find_images(path).photographs.items() if p.suffix.lower() == ".png"}
    if not found:
        raise BadInput(f"{path}: there are no PNG masks in this folder.")
    masks = {
        name[: -len(p.suffix)]: DrawnMask(partial(read_index_png, p), (p, *lists[:1])) for name, p in found.items()
    }
    return MaskSet(tuple(read_class_names(lists[0])) if lists else (), masks, plain=True)


FORMAT = MaskFormat("png", "everything that opens pictures, and tagseg itself", write, holds, read, plain=True)
