"""Going through folders of photographs: what is in them, and what in them is not meant."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from tagseg.data.images import IMAGE_SUFFIXES
from tagseg.files import RUN_MARKER

SYSTEM = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db",
          "__pycache__"}  # fmt: skip


BESIDE = {".txt", ".csv", ".json", ".xml", ".md", ".yaml", ".yml", ".html", ".npy", ".db", ".ini", ".zip"}


@dataclass
class Found:
    """What lies below a folder.

    photographs: relative path with slashes, in Unicode's composed form (NFC), to the file; sorted.
    notes: what was left out, a sentence each.
    dead: links with the name of a photograph, or to folders, that lead nowhere.
    """

    photographs: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dead: list[Path] = field(default_factory=list)


def composed(name: str) -> str:
    """Returns a name with slashes in Unicode's composed form, in which names are compared; disks and lists differ."""
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def find_images(base: Path, skip: frozenset[str] = frozenset(), suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Found:
    """Returns the photographs below a folder; linked folders are entered, but for links that lead back above.

    Names that begin with a dot, folders of operating systems and storage devices, and folders of runs are left out.

    Args:
        base: the folder.
        skip: names of its own folders that are left out without a word.
        suffixes: of what counts as a photograph.
    """
    found, left_out, others = Found(), list[Path](), list[Path]()

    def enter(folder: Path, above: frozenset[tuple[int, int]]) -> None:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            found.notes.append(f"{folder}: this link leads back to a folder above it, and was not followed.")
            return
        if folder != base and (folder / RUN_MARKER).is_file():
            found.notes.append(f"{folder}: this is the folder of a run, and was left out.")
            return
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            path = folder / entry.name
            if folder == base and entry.name in skip:
                continue
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
                left_out.append(path)
            elif entry.is_dir():
                enter(path, above | {here})
            elif path.suffix.lower() in suffixes:
                if entry.is_file():
                    name = composed(path.relative_to(base).as_posix())
                    if name in found.photographs:
                        found.notes.append(f"{path}: its name is that of another file in other letters; left out.")
                    found.photographs.setdefault(name, path)
                else:
                    found.dead.append(path)
            elif entry.is_symlink() and not path.exists():
                found.dead.append(path)
            elif folder != base and path.suffix.lower() not in BESIDE:
                others.append(path)

    enter(base, frozenset())
    if left_out:
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        found.notes.append(f"{left_out[0]}{more}: hidden or a system's own, and left out.")
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        found.notes.append(f"{others[0]}{more}: no photograph by the suffix, and left out.")
    found.photographs = dict(sorted(found.photographs.items()))
    return found
