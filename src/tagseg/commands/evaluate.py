"""`evaluate`: the IoU of masks with the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tagseg.data.dataset import check_classes
from tagseg.data.images import numbers_in, read_index_png
from tagseg.data.objects import class_names
from tagseg.data.readers.coco import coco_class_names
from tagseg.data.readers.folder import read_class_names
from tagseg.data.reading import read_dataset
from tagseg.data.walking import find_images
from tagseg.errors import BadInput
from tagseg.evaluation.iou import Confusion, ScoreTable
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
    """Returns the IoU, precision and recall of a folder of masks.

    Every PNG below `predictions` is compared with the PNG of the same relative name below `truth`. Predictions without
    a truth and truths without a prediction are counted in the result and otherwise left out.

    Args:
        classes: names, background left out; or where they are: a text file, one class a line, COCO's annotations, the
            folder of a run, of a model or of a data set. Without them they are looked for in `classes.txt` in or beside
            either folder, and in the run that the predictions belong to; if there are none, numbers are used.
        out: where to write the result as JSON.

    Raises:
        BadInput: a folder is missing, no mask has a truth, or one has another size or values that are no classes.
    """
    predictions, truth = Path(predictions), Path(truth)
    for folder in (predictions, truth):
        if not folder.is_dir():
            raise BadInput(f"{folder}: there is no such folder.")
    found, right_of = _masks(predictions), _masks(truth)
    if not found:
        raise BadInput(f"{predictions}: there are no PNG masks in this folder.")
    names = [name for name in found if name in right_of]
    if not names:
        name, path = next(iter(found.items()))
        raise BadInput(
            f"{path}: there is no truth {truth / name}, nor one of any other prediction; give both the same names."
        )
    pairs = [(found[name], right_of[name]) for name in names]
    known = _class_names(predictions, truth, classes)
    size = len(known) if known is not None else _highest([path for pair in pairs for path in pair])
    if known is None:
        known = [f"class {c}" for c in range(1, size + 1)]
    problems = check_classes(known, "class names")
    if problems:
        raise BadInput(problems[0].text)
    confusion = Confusion(size)
    held: tuple[set[int], set[int]] = set(), set()  # the numbers in all predictions, and in all truths
    for prediction, truth_of in pairs:
        mask, right = read_index_png(prediction), read_index_png(truth_of)
        if mask.shape != right.shape:
            raise BadInput(
                f"{prediction}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, "
                f"the truth {right.shape[1]} x {right.shape[0]}; predict at the photograph's size."
            )
        for which, values, numbers in zip((prediction, truth_of), (mask, right), held, strict=True):
            numbers.update(numbers_in(values))
            wrong = next((value for value in sorted(numbers) if value > size and value != IGNORE), None)
            if wrong is not None:
                raise BadInput(f"{which}: the mask holds the value {wrong}, but there are {size} classes.")
        confusion.add(mask, right)
    for path, numbers, what in zip(pairs[0], held, ("predictions", "truths"), strict=True):
        if numbers <= {0, IGNORE} and IGNORE in numbers:
            raise BadInput(
                f"{path}: the {what} hold nothing but 0 and {IGNORE}, and {IGNORE} means ignore; write the number of "
                "its class where the object is."
            )
    result = Evaluation(
        masks=len(names),
        truths_without_prediction=len(right_of) - len(names),
        predictions_without_truth=len(found) - len(names),
        **dict(confusion.scores().table(tuple(known))),
    )
    if out is not None:
        write_json(Path(out), result.model_dump(mode="json"))
    return result


def _masks(folder: Path) -> dict[str, Path]:
    """The PNG masks below a folder by their relative names; hidden ones are none."""
    return {name: path for name, path in find_images(folder).photographs.items() if path.suffix.lower() == ".png"}


def _class_names(
    predictions: Path, truth: Path, given: Sequence[str] | str | os.PathLike[str] | None
) -> list[str] | None:
    """The class names that are given, or that lie where one would put them."""
    if given is not None:
        return _names_at(Path(given)) if isinstance(given, str | os.PathLike) else class_names(given)
    lists = [p / "classes.txt" for p in (truth, predictions, predictions.parent, truth.parent)]
    said = {path: read_class_names(path) for path in lists if path.is_file()}
    if lists[0] in said and said.get(lists[1], said[lists[0]]) != said[lists[0]]:
        raise BadInput(f"{lists[1]}: these classes are others than those of {lists[0]}; say which: classes=FILE.")
    if said:
        return next(iter(said.values()))
    run = predictions.absolute().parent  # that the masks were made in
    return _names_at(run) if (run / RUN_MARKER).is_file() and (run / "segment" / DESCRIPTION).is_file() else None


def _names_at(path: Path) -> list[str]:
    if path.suffix == ".json" and path.is_file():
        return coco_class_names(path)
    if not path.is_dir():
        if path.suffix.lower() in (".yaml", ".yml", ".csv"):
            raise BadInput(f"{path}: class names are read from a text file, one class a line; write one.")
        return read_class_names(path)
    for described in (path / DESCRIPTION, path / "segment" / DESCRIPTION, path / "train" / "classifier.json"):
        if described.is_file():
            return _described_classes(described)
    if (path / "classes.txt").is_file():
        return read_class_names(path / "classes.txt")
    return list(read_dataset(path).classes)


def _described_classes(path: Path) -> list[str]:
    try:
        found = read_json(path)["classes"]
        if isinstance(found, list) and all(isinstance(item, str) for item in found):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise BadInput(f"{path}: there are no class names in this file; give a text file, one class a line.")


def _highest(masks: list[Path]) -> int:
    """The highest class in any mask."""
    highest = 1
    for path in masks:
        values = read_index_png(path)
        highest = max(highest, int(values[values != IGNORE].max(initial=0)))
        if highest > MAX_CLASSES:
            raise BadInput(
                f"{path}: the mask holds the value {highest}, and {MAX_CLASSES} is the highest class that can be."
            )
    return highest
