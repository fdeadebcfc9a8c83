"""Photographs named on the command line: files, or folders that are searched through."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tagseg.data.images import IMAGE_SUFFIXES
from tagseg.data.walking import composed, find_images
from tagseg.errors import BadInput


def find_photographs(images: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Returns the photographs in files and folders, name to path; names below a folder are kept.

    Raises:
        BadInput: nothing is found, or two would get the same name.
    """
    found: dict[str, Path] = {}
    for image in map(Path, images):
        if image.is_dir():
            below = find_images(image)
            members = [(Path(name).with_suffix("").as_posix(), path) for name, path in below.photographs.items()]
            members += [(path.stem, path) for path in below.dead]
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
    if not found:
        raise BadInput(f"{', '.join(map(str, images))}: no photographs found ({', '.join(IMAGE_SUFFIXES)}).")
    return found
