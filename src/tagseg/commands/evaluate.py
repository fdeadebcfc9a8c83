"""`evaluate`: the IoU of masks with the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tagseg.data.dataset import check_classes
from tagseg.data.images import numbers_in
from tagseg.data.objects import class_names
from tagseg.data.readers.coco import coco_class_names
from tagseg.data.readers.folder import CLASSES, read_class_names
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput
from tagseg.evaluation.iou import Confusion, ScoreTable
from tagseg.export.mask_formats import MaskSet, read_masks, renumbered
from tagseg.files import RUN_MARKER, read_json, write_json
from tagseg.labels import IGNORE, MAX_CLASSES
from tagseg.segmentation.saved import DESCRIPTION


class Evaluation(ScoreTable):
    """The scores of a folder of masks, and how many masks they are of.

    `masks` were compared; of `truths_without_prediction` there was nothing to compare, and `predictions_without_truth`
    could not be compared.
    """

    masks: int
    truths_without_prediction: int
    predictions_without_truth: int = 0


def evaluate(
    predictions: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    *,
    classes: Sequence[str] | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Returns the IoU, precision and recall of masks.

    Every mask of `predictions` is compared with that of the same name in `truth`. Predictions without a truth and
    truths without a prediction are counted in the result and otherwise left out.

    Args:
        predictions, truth: a folder that is searched through for PNGs, or any other format of
            `tagseg.export.mask_formats`; classes of those that name them are compared by their names.
        classes: names, background left out; or where they are: a text file, one class a line, COCO's annotations, the
            folder of a run, of a model or of a data set. Without them they are looked for in `classes.txt` in or beside
            either folder, and in the run that the predictions belong to; if there are none, numbers are used.
        out: where to write the result as JSON.

    Raises:
        BadInput: a folder is missing, no mask has a truth, or one has another size or values that are no classes.
    """
    predictions, truth = Path(predictions), Path(truth)
    for path in (predictions, truth):
        if not path.exists():
            raise BadInput(f"{path}: there is no such folder.")
    found, right_of = _masks(predictions), _masks(truth)
    names = [name for name in found.masks if name in right_of.masks]
    if not names:
        name = next(iter(found.masks))
        raise BadInput(
            f"{_at(predictions, name)}: there is no truth {truth / name}{'.png' if right_of.plain else ''}, nor one of "
            "any other prediction; give both the same names."
        )
    if classes is None:  # each side by its own names
        found, right_of = _named(found, predictions), _named(right_of, truth)
        known = [*(right_of.classes or found.classes)] or None
    else:
        known = names_at(Path(classes)) if isinstance(classes, str | os.PathLike) else class_names(classes)
    size = len(known) if known is not None else max(_highest(found, names), _highest(right_of, names))
    if known is None:
        known = [f"class {c}" for c in range(1, size + 1)]
    found, right_of = renumbered(found, known, predictions), renumbered(right_of, known, truth)
    pairs = [(found.masks[name], right_of.masks[name]) for name in names]
    problems = check_classes(known, "class names")
    if problems:
        raise BadInput(problems[0].text)
    confusion = Confusion(size)
    held: tuple[set[int], set[int]] = set(), set()  # the numbers in all predictions, and in all truths
    for name, (draw, draw_truth) in zip(names, pairs, strict=True):
        mask, right = draw(), draw_truth()
        if mask.shape != right.shape:
            raise BadInput(
                f"{_at(predictions, name)}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, "
                f"the truth {right.shape[1]} x {right.shape[0]}; predict at the photograph's size."
            )
        for where, values, numbers in zip((predictions, truth), (mask, right), held, strict=True):
            numbers.update(numbers_in(values))
            wrong = next((value for value in sorted(numbers) if value > size and value != IGNORE), None)
            if wrong is not None:
                raise BadInput(f"{_at(where, name)}: the mask holds the value {wrong}, but there are {size} classes.")
        confusion.add(mask, right)
    for where, numbers, what in zip((predictions, truth), held, ("predictions", "truths"), strict=True):
        if numbers <= {0, IGNORE} and IGNORE in numbers:
            raise BadInput(
                f"{_at(where, names[0])}: the {what} hold nothing but 0 and {IGNORE}, and {IGNORE} means ignore; write "
                "the number of its class where the object is."
            )
    result = Evaluation(
        masks=len(names),
        truths_without_prediction=len(right_of.masks) - len(names),
        predictions_without_truth=len(found.masks) - len(names),
        **dict(confusion.scores().table(tuple(known))),
    )
    if out is not None:
        write_json(Path(out), result.model_dump(mode="json"))
    return result


def _masks(path: Path) -> MaskSet:
    """The masks at a path; the class names beside a folder of PNGs are looked for elsewhere (`_class_names`)."""
    found = read_masks(path)
    return replace(found, classes=()) if found.plain else found


def _at(where: Path, name: str) -> str:
    """A mask in words: its file, or where it is and what it is called."""
    return f"{where / name}.png" if (where / f"{name}.png").is_file() else f"{where}: {name}"


def _named(masks: MaskSet, path: Path) -> MaskSet:
    """A folder of PNGs with the class names that lie in it or beside it, or are those of the run that it is part of."""
    if not masks.plain:
        return masks
    path = path.absolute()
    listed = next((p for p in (path / CLASSES, path.parent / CLASSES) if p.is_file()), None)
    if listed is not None:
        return replace(masks, classes=tuple(read_class_names(listed)))
    run = path.parent
    known = (run / RUN_MARKER).is_file() and (run / "segment" / DESCRIPTION).is_file()
    return replace(masks, classes=tuple(names_at(run))) if known else masks


def names_at(path: Path) -> list[str]:
    """Returns the class names in a text file, COCO's annotations, or the folder of a run, a model or a data set.

    Raises:
        BadInput: there are none.
    """
    if path.suffix == ".json" and path.is_file():
        return coco_class_names(path)
    if not path.is_dir():
        if path.suffix.lower() in (".yaml", ".yml", ".csv"):
            raise BadInput(f"{path}: class names are read from a text file, one class a line; write one.")
        return read_class_names(path)
    for described in (path / DESCRIPTION, path / "segment" / DESCRIPTION, path / "train" / "classifier.json"):
        if described.is_file():
            return _described_classes(described)
    if (path / CLASSES).is_file():
        return read_class_names(path / CLASSES)
    return list(read_dataset(path).classes)


def _described_classes(path: Path) -> list[str]:
    try:
        found = read_json(path)["classes"]
        if isinstance(found, list) and all(isinstance(item, str) for item in found):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise BadInput(f"{path}: there are no class names in this file; give a text file, one class a line.")


def _highest(masks: MaskSet, names: list[str]) -> int:
    """The highest class in any mask of these names."""
    highest = 1
    for name in names:
        values = masks.masks[name]()
        highest = max(highest, int(values[values != IGNORE].max(initial=0)))
        if highest > MAX_CLASSES:
            raise BadInput(
                f"{name}: the mask holds the value {highest}, and {MAX_CLASSES} is the highest class that can be."
            )
    return highest
