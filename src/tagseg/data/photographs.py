"""Photographs named on the command line: files, or folders that are searched through."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tagseg.data.images import IMAGE_SUFFIXES
from tagseg.data.walking import composed, find_images
from tagseg.errors import BadInput

OVERLAY = ".overlay.jpg"  # of a photograph with its mask laid over it
_LONGEST = 255  # bytes of a file's name


def find_photographs(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    endings: Sequence[str] = (),
    *,
    may_be_none: bool = False,
) -> dict[str, Path]:
    """Returns the photographs in files and folders, name to path; names below a folder are kept.

    Args:
        images: the files and folders, or one of them.
        out: the folder for results; what lies in it is no photograph where it is below one of the folders.
        endings: of the files that will be written there for every name, which must not be photographs.
        may_be_none: whether there need not be any.

    Raises:
        BadInput: nothing is found, two would get the same name, or a result would be written over a photograph.
    """
    images = [images] if isinstance(images, str | os.PathLike) else images
    found: dict[str, Path] = {}
    results = None if out is None else Path(out).resolve()
    for image in map(Path, images):
        if image.is_dir():
            below = find_images(image)
            members = [(Path(name).with_suffix("").as_posix(), path) for name, path in below.photographs.items()]
            members += [(path.stem, path) for path in below.dead]
            if results is not None and image.resolve() in results.parents:
                members = [(name, path) for name, path in members if results not in path.resolve().parents]
        else:
            members = [(composed(image.stem), image)]
        for name, path in members:
            if not path.is_file():
                raise BadInput(f"{path}: there is no such image.")
            if name in found:
                raise BadInput(
                    f"{path}: its results would have the same name as those of {found[name]}; rename one of them."
                )
            found[name] = path
    if not found and not may_be_none:
        raise BadInput(f"{', '.join(map(str, images))}: no photographs found ({', '.join(IMAGE_SUFFIXES)}).")
    if results is not None:
        photographs = {path.resolve() for path in found.values()}
        for name, path in found.items():
            for ending in endings:
                if len(f"{name}{ending}".rpartition("/")[2].encode()) > _LONGEST:
                    raise BadInput(f"{path}: the name is too long for its result {name}{ending}; rename the file.")
                if (target := results / f"{name}{ending}") in photographs:
                    raise BadInput(f"{target}: the result for {path} would be written over it; choose another --out.")
    return found
