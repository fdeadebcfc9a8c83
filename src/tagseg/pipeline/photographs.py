"""The photographs of a run as it uses them: with the masks that its settings name, and with tags as people have changed
them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tagseg.data.dataset import Dataset
from tagseg.data.readers import Tags
from tagseg.data.reading import opened
from tagseg.errors import BadInput
from tagseg.files import RUN_MARKER, read_json, write_json
from tagseg.pipeline.run_folder import data_of

TAGS = Path("review") / "tags.json"  # below a run: for the names of photographs, the names of the tags they are to have


def photographs_of(
    data: Dataset | str | os.PathLike[str], run: Path, *, tags: Tags = "xml", masks: str | None = None
) -> Dataset:
    """Returns the data set that is given as a run uses it.

    Args:
        data: a data set, or its folder.
        run: the folder of the run, which need not be there yet; tags that were changed in it take the place of those
            of the data set.
        tags: where the tags of a VOC devkit come from.
        masks: a file or folder of masks to measure with, as `data.masks`.

    Raises:
        BadInput: there is no such data set, or no such masks.
    """
    found = opened(data, tags)
    if masks is not None:
        found = measured_by(found, Path(masks))
    return retagged(found, changed_tags(run)) if (run / RUN_MARKER).is_file() else found


def photographs_again(run: Path, advice: str) -> Dataset:
    """Returns the photographs of a run that was begun before.

    Args:
        run: its folder.
        advice: what to do where the data set is no longer there.

    Raises:
        BadInput: the data set or its masks are no longer there.
    """
    root, said = data_of(run, advice), read_json(run / RUN_MARKER)
    return photographs_of(root, run, tags=said.get("tags", "xml"), masks=said.get("masks"))


def measured_by(data: Dataset, masks: Path) -> Dataset:
    """Returns the data set with other masks to measure with, of any format of `tagseg.export.mask_formats`.

    Classes of formats that name them are found by their names; photographs without a mask are not measured.

    Raises:
        BadInput: there are no such masks, one of their classes is none of the data set's, or none is of a photograph.
    """
    from tagseg.export.mask_formats import read_masks, renumbered

    found = renumbered(read_masks(masks), data.classes, masks)
    names = [sample.name for sample in data.samples if sample.name in found.masks]
    if not names:
        raise BadInput(
            f"{masks}: no mask has the name of a photograph; there is '{next(iter(found.masks))}', and no "
            f"'{data.samples[0].name}'."
        )
    notes = [
        f"{masks}: {count} {what}."
        for count, what in (
            (len(data.samples) - len(names), "photographs have no mask there and are not measured"),
            (len(found.masks) - len(names), "masks have the name of no photograph and are left out"),
        )
        if count
    ]
    train, val = (
        tuple(replace(sample, mask=found.masks.get(sample.name)) for sample in part) for part in (data.train, data.val)
    )
    return replace(data, train=train, val=val, notes=(*data.notes, *notes))


def changed_tags(run: Path) -> dict[str, tuple[str, ...]]:
    """Returns the tags that people have changed in a run, class names by the names of photographs.

    Raises:
        BadInput: the file that holds them is damaged.
    """
    path = run / TAGS
    if not path.is_file():
        return {}
    try:
        return {str(name): tuple(map(str, tags)) for name, tags in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: the tags that were changed cannot be read; mend this file, or remove it.") from error


def write_changed_tags(run: Path, tags: Mapping[str, Sequence[str]]) -> None:
    """Keeps what people have changed in a run."""
    write_json(run / TAGS, {name: list(names) for name, names in tags.items()})


def retagged(data: Dataset, changed: Mapping[str, Sequence[str]]) -> Dataset:
    """Returns the data set with the tags of training photographs changed; a name that is no class here is left out."""
    numbers = {name: number for number, name in enumerate(data.classes)}
    own = {name: tuple(sorted(numbers[tag] for tag in tags if tag in numbers)) for name, tags in changed.items()}
    train = tuple(replace(sample, tags=own.get(sample.name, sample.tags)) for sample in data.train)
    count = sum(new.tags != old.tags for new, old in zip(train, data.train, strict=True))
    notes = [f"tags of {count} photographs are as they were changed by hand ({TAGS})."] if count else []
    return replace(data, train=train, notes=(*data.notes, *notes))
