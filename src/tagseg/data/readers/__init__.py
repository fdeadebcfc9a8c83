"""The table of readers: what layouts of data sets are read, one file each.

A file of this folder declares `READER`. The command line's help and `read_dataset` derive from it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tagseg.data.dataset import Dataset

Tags = Literal["xml", "masks"]  # where the tags of a VOC devkit come from


@dataclass(frozen=True)
class Reader:
    """A reader of one layout.

    title: what people call the layout.
    find: returns the folder that has the layout, the one given or one below it; None if there is none.
    read: reads the data set at a folder where `find` found the layout. The photographs are not opened.
    rank: readers with a lower one are asked first; one that takes any folder has 1000.
    """

    title: str
    find: Callable[[Path], Path | None]
    read: Callable[[Path, Tags], Dataset]
    rank: int = 100


@cache
def readers() -> tuple[Reader, ...]:
    """Returns all readers, in the order in which they are asked."""
    files = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    return tuple(sorted((file.READER for file in files), key=lambda reader: (reader.rank, reader.title)))
