"""The table of formats in which results leave tagseg, one file each.

A file of this folder declares `FORMAT`. So far they are formats of boxes, which `tagseg locate` writes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tagseg.errors import BadInput, nearest


@dataclass(frozen=True)
class LocatedBox:
    """A box of a class in a photograph.

    image: the photograph's name.
    label, number: of the class; numbers count from 0.
    xmin, ymin, xmax, ymax: its edges in pixels, the last two exclusive.
    score: the class's probability.
    """

    image: str
    label: str
    number: int
    xmin: int
    ymin: int
    xmax: int
    ymax: int
    score: float


@dataclass(frozen=True)
class Photograph:
    """The file of a photograph, and its size in pixels."""

    path: Path
    height: int
    width: int


@dataclass(frozen=True)
class BoxFormat:
    """A format of boxes.

    name: as the command line has it.
    about: who reads it, in a few words.
    write: writes boxes `(folder, boxes, photographs by name, class names)` below a folder, and returns the file.
    """

    name: str
    about: str
    write: Callable[[Path, Sequence[LocatedBox], Mapping[str, Photograph], Sequence[str]], Path]


@cache
def box_formats() -> dict[str, BoxFormat]:
    """Returns all formats of boxes by name."""
    files = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    found = (getattr(file, "FORMAT", None) for file in files)
    return {kind.name: kind for kind in found if isinstance(kind, BoxFormat)}


def check_formats(names: Iterable[str]) -> list[BoxFormat]:
    """Returns the formats of these names.

    Raises:
        BadInput: there is none of a name, with the nearest one and all there are.
    """
    known = box_formats()
    for name in names:
        if name not in known:
            hint = nearest(name, list(known)) or "."
            raise BadInput(f"format '{name}' does not exist{hint} Known: {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)]
