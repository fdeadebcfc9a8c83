"""`export`: masks of a run, or any others, in the formats of the tools that people use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tagseg.commands.evaluate import names_at
from tagseg.data.dataset import DrawnMask
from tagseg.data.images import image_size, numbers_in
from tagseg.data.photographs import find_photographs
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput, explain_full_disk
from tagseg.export.folder import new_folder
from tagseg.export.mask_formats import (
    ExportOptions,
    LabelledPhotograph,
    MaskFormat,
    find_format,
    png,
    read_masks,
    renumbered,
)
from tagseg.files import RUN_MARKER
from tagseg.labels import IGNORE
from tagseg.pipeline.run_folder import data_of, labels_of
from tagseg.progress import Reporter

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Exported:
    """What was written: the file or folder to open, and the number of photographs."""

    path: Path
    photographs: int


@dataclass(frozen=True)
class _Source:
    """Masks to be written: of every name what draws its mask, its split, and where known its photograph."""

    classes: tuple[str, ...]
    masks: dict[str, DrawnMask]
    splits: dict[str, str]
    photos: dict[str, Path]


def export_masks(
    source: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    classes: str | os.PathLike[str] | None = None,
    splits: Sequence[str] = ("train",),
    instances: bool = False,
    polygons: bool = False,
    prefix: str = ExportOptions.prefix,
    quiet: bool = False,
) -> Exported:
    """Writes masks in the format of another tool.

    Args:
        source: the folder of a run, whose pseudo-masks are written, or masks in any format that is known.
        to: a name of `tagseg.export.mask_formats.mask_formats`.
        out: a folder that is not there yet, or is empty; it comes whole or not at all.
        images: photographs, or folders of them; None: those of the run's data set.
        classes: where the class names are, in the order of the numbers that are wanted (see `tagseg.evaluate`); None:
            as the masks have them.
        splits: of a run "train", its pseudo-masks, and "val", what its network says of the evaluation photographs.
        instances: every part of a class that hangs together is an object of its own.
        polygons: outlines instead of run lengths, where a format has both.
        prefix: what stands before the path of a photograph where a tool wants an address (Label Studio).
        quiet: say nothing.

    Raises:
        BadInput: there are no masks or no class names, a photograph is missing or of another size, or `out` holds
            something.
    """
    kind, source, out = find_format(to), Path(source), Path(out)
    found = (
        _of_run(source, tuple(splits), images is None)
        if (source / RUN_MARKER).is_file()
        else _of_masks(source, classes)
    )
    photos = found.photos
    if images is not None:
        photos = find_photographs(images)
    reporter = Reporter(quiet)
    missing = [name for name in found.masks if name not in photos]
    if missing and (photos or kind.photographs):
        raise BadInput(f"{source}: there is no photograph of the mask {missing[0]}; say where it is: --images DIR.")
    options = ExportOptions(instances, polygons, prefix)
    with (
        new_folder(out) as aside,
        explain_full_disk(out),
        reporter.bar("export", len(found.masks), "photographs") as advance,
    ):
        opened = kind.write(aside, _labelled(found, photos, kind, reporter, advance), found.classes, options)
    return Exported(out / opened.relative_to(aside), len(found.masks))


def _of_run(run: Path, splits: tuple[str, ...], wants_photos: bool) -> _Source:
    wrong = next((split for split in splits if split not in SPLITS), None)
    if wrong is not None or not splits:
        raise BadInput(f"split '{wrong}' does not exist; known are {', '.join(SPLITS)}.")
    classes = tuple(names_at(run))
    masks: dict[str, DrawnMask] = {}
    said: dict[str, str] = {}
    for split in splits:
        folder = labels_of(run) if split == "train" else run / "report" / "predictions"
        if folder is None or not folder.is_dir():
            what = "no pseudo-masks yet" if split == "train" else "no masks of evaluation photographs"
            raise BadInput(f"{run}: this run has {what}; let tagseg fit go on, or give a folder of masks.")
        for name, draw in png.read(folder).masks.items():
            if name in masks or (split == "val" and splits == ("val",) and (run / "masks" / f"{name}.png").is_file()):
                raise BadInput(f"{run}: its data set has no evaluation photographs; leave --split at train.")
            masks[name], said[name] = draw, split
    photos: dict[str, Path] = {}
    if wants_photos:
        data = read_dataset(data_of(run, "say where it is: --images DIR"))
        photos = {sample.name: sample.image for sample in data.samples}
    return _Source(classes, masks, said, photos)


def _of_masks(path: Path, classes: str | os.PathLike[str] | None) -> _Source:
    found = read_masks(path)
    if classes is not None:  # numbers in files of numbers are then of these; other formats have names
        found = renumbered(replace(found, classes=()) if found.plain else found, names_at(Path(classes)), path)
    if not found.classes:
        raise BadInput(f"{path}: nothing says what the classes are called; give --classes FILE, a name a line.")
    return _Source(found.classes, dict(found.masks), dict.fromkeys(found.masks, "train"), {})


def _labelled(
    found: _Source, photos: dict[str, Path], kind: MaskFormat, reporter: Reporter, advance: Callable[[int, str], None]
) -> Iterator[LabelledPhotograph]:
    """The photographs one after the other, each looked at before it is written."""
    lost = 0
    for number, (name, draw) in enumerate(found.masks.items(), start=1):
        mask, photo = draw(), photos.get(name)
        numbers = numbers_in(mask)
        wrong = next((n for n in numbers if n > len(found.classes) and n != IGNORE), None)
        if wrong is not None:
            raise BadInput(f"{name}: the mask holds the value {wrong}, but there are {len(found.classes)} classes.")
        if photo is not None and (size := image_size(photo)) != mask.shape:
            raise BadInput(
                f"{name}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, its photograph {size[1]} x {size[0]}."
            )
        lost += IGNORE in numbers
        yield LabelledPhotograph(name, photo, mask.astype(np.uint8), found.splits[name])
        advance(number, "")
    if lost and not kind.unknown:
        reporter.say(f"{kind.name} knows no unknown pixels; those of {lost} masks are background there")
