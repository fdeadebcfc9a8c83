"""The table of formats in which masks leave tagseg and come back, one file each.

A file of this folder declares `FORMAT`, a `MaskFormat`. Numbers in masks are as everywhere: 0 background, class c at
c + 1, 255 unknown; where a format knows names only, unknown pixels are called "ignore".
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from tagseg.data.dataset import DrawnMask
from tagseg.data.images import voc_palette
from tagseg.data.readers.coco import inside
from tagseg.data.tables import is_background
from tagseg.data.walking import composed
from tagseg.errors import BadInput, brief, nearest
from tagseg.files import write_aside
from tagseg.labels import IGNORE, MAX_CLASSES

UNKNOWN = "ignore"  # what unknown pixels are called, where there are names only


@dataclass(frozen=True)
class LabelledPhotograph:
    """A photograph with its mask.

    name: without suffix; slashes part folders.
    photo: its file; None: nobody knows it, which only formats do with that need none.
    mask: `(H, W)` uint8.
    split: "train" or "val".
    """

    name: str
    photo: Path | None
    mask: np.ndarray
    split: str = "train"

    @property
    def file_name(self) -> str:
        """Returns the name with the suffix of the file."""
        return self.name + (".png" if self.photo is None else self.photo.suffix)


@dataclass(frozen=True)
class ExportOptions:
    """How masks are written.

    instances: every part of a class that hangs together is an object of its own.
    polygons: outlines instead of run lengths, where a format has both.
    prefix: what stands before the path of a photograph where a tool wants an address.
    """

    instances: bool = False
    polygons: bool = False
    prefix: str = "/data/local-files/?d="


@dataclass(frozen=True)
class MaskSet:
    """Masks of some photographs as a file or folder holds them.

    classes: their names in the order of the numbers in masks.
    masks: for the name of a photograph, what reads or draws its mask.
    plain: whether these are files of numbers alone, which people may have made by other means.
    """

    classes: tuple[str, ...]
    masks: Mapping[str, DrawnMask]
    plain: bool = False


@dataclass(frozen=True)
class MaskFormat:
    """A format of masks.

    name: as the command line has it.
    about: who reads it, in a few words.
    write: writes masks `(folder, photographs, class names, options)` into an empty folder, and returns what to open.
    holds: whether a file or folder is of this format.
    read: reads a file or folder of it.
    photographs: whether the photographs are copied beside the masks, because the format is a tree of both.
    unknown: whether it knows unknown pixels; if not, they become background.
    plain: whether folders of other formats look like it too, so that it is the last to be tried.
    """

    name: str
    about: str
    write: Callable[[Path, Iterable[LabelledPhotograph], Sequence[str], ExportOptions], Path]
    holds: Callable[[Path], bool]
    read: Callable[[Path], MaskSet]
    photographs: bool = False
    unknown: bool = True
    plain: bool = False


@cache
def mask_formats() -> dict[str, MaskFormat]:
    """Returns all formats of masks by name."""
    files = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    found = (getattr(file, "FORMAT", None) for file in files)
    kinds = sorted((kind for kind in found if isinstance(kind, MaskFormat)), key=lambda kind: kind.plain)
    return {kind.name: kind for kind in kinds}


def find_format(name: str) -> MaskFormat:
    """Returns the format of this name.

    Raises:
        BadInput: there is none, with the nearest one and all there are.
    """
    known = mask_formats()
    if name not in known:
        raise BadInput(f"format '{name}' does not exist{nearest(name, list(known)) or '.'} Known: {', '.join(known)}.")
    return known[name]


def read_masks(path: Path) -> MaskSet:
    """Reads masks of whatever format a file or folder is.

    Raises:
        BadInput: it is of none, or cannot be read.
    """
    if not path.exists():
        raise BadInput(f"{path}: there are no such masks.")
    for kind in mask_formats().values():
        if kind.holds(path):
            found = kind.read(path)
            if not found.masks:
                raise BadInput(f"{path}: there are no masks in it.")
            return found
    raise BadInput(f"{path}: this holds no masks that are known ({', '.join(mask_formats())}).")


def renumbered(found: MaskSet, classes: Sequence[str], path: Path) -> MaskSet:
    """Returns masks with the numbers of other class names, among which all of theirs must be.

    Raises:
        BadInput: one of their names is none of these.
    """
    if not found.classes or found.classes == tuple(classes):
        return replace(found, classes=tuple(classes))
    strange = next((name for name in found.classes if name not in classes), None)
    if strange is not None:
        hint = nearest(strange, list(classes)) or "."
        raise BadInput(f"{path}: '{strange}' is no class here{hint} Known: {', '.join(classes)}.")
    table = np.arange(IGNORE + 1, dtype=np.uint8)
    table[1 : len(found.classes) + 1] = [list(classes).index(name) + 1 for name in found.classes]
    masks = {name: DrawnMask(partial(_looked_up, mask, table), mask.files) for name, mask in found.masks.items()}
    return replace(found, classes=tuple(classes), masks=masks)


def _looked_up(draw: Callable[[], np.ndarray], table: np.ndarray) -> np.ndarray:
    return table[np.minimum(draw(), IGNORE)]


def label_name(value: int, classes: Sequence[str]) -> str:
    """Returns the name of a number in a mask that is not 0."""
    return UNKNOWN if value == IGNORE else classes[value - 1]


def label_value(name: str, classes: Sequence[str]) -> int:
    """Returns the number in masks of a name: of a class, of what is called background, or of unknown pixels.

    Raises:
        ValueError: it is none of these.
    """
    name = composed(name)
    if name in classes:
        return classes.index(name) + 1
    if is_background(name):
        return 0
    if name != UNKNOWN:
        raise ValueError(f"'{name}' is none of the classes")
    return IGNORE


def add_mask(
    masks: dict[str, DrawnMask], name: object, draw: Callable[[], np.ndarray], path: Path, *others: Path
) -> None:
    """Adds the mask of a photograph to those of a file or folder, by its name without suffix.

    What of a name leads out of the folder of photographs is cut off, for results are written by these names. The mask
    comes from the file `path`, and from `others`.

    Raises:
        BadInput: it is no name, or two photographs have it.
    """
    below = inside(name)
    if below is None:
        raise BadInput(f"{path}: a photograph has no name; add it.")
    stem = composed(below)
    if stem in masks:
        raise BadInput(f"{path}: two photographs are called '{stem}'; rename one, or give the files one by one.")
    masks[stem] = DrawnMask(draw, (path, *others))


def names_and_unknown(classes: Sequence[str], unknown: bool) -> list[str]:
    """Returns the class names, and that of unknown pixels behind them where there are any."""
    return [*classes, *([UNKNOWN] if unknown else [])]


def named_classes(names: Iterable[str], path: Path) -> tuple[str, ...]:
    """Returns those of the labels of a file that are classes.

    Raises:
        BadInput: there are none, or too many.
    """
    found = tuple(dict.fromkeys(composed(name) for name in names if name != UNKNOWN and not is_background(name)))
    if not 0 < len(found) <= MAX_CLASSES:
        raise BadInput(f"{path}: these are {len(found)} classes; masks hold 1 to {MAX_CLASSES}.")
    return found


def colour_of(value: int) -> str:
    """Returns PASCAL VOC's colour of a number in masks as `#rrggbb`."""
    return "#" + "".join(f"{part:02x}" for part in voc_palette()[value])


def copy_photograph(photo: Path, target: Path) -> None:
    """Copies a photograph as it is, whole or not at all."""
    with write_aside(target) as aside:
        try:
            shutil.copyfile(photo, aside)
        except OSError as error:
            raise BadInput(f"{photo}: this photograph cannot be copied ({brief(error)}).") from error


def photo_of(item: LabelledPhotograph) -> Path:
    """Returns the file of a photograph.

    Raises:
        BadInput: nobody knows it.
    """
    if item.photo is None:
        raise BadInput(f"{item.name}: its photograph is not known; say where photographs lie: --images DIR.")
    return item.photo
