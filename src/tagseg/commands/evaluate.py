"""`evaluate`: the IoU of masks with the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tagseg.data.dataset import check_classes
from tagseg.data.images import read_index_png
from tagseg.errors import BadInput
from tagseg.evaluation.iou import Confusion, ScoreTable
from tagseg.files import write_json
from tagseg.labels import IGNORE


class Evaluation(ScoreTable):
    """The scores of a folder of masks, and how many masks they are of.

    `masks` were compared, and of `truths_without_prediction` there was nothing to compare.
    """

    masks: int
    truths_without_prediction: int


def evaluate(
    predictions: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Returns the IoU, precision and recall of a folder of masks.

    Every PNG below `predictions` is compared with the PNG of the same relative name below `truth`; truths without a
    prediction are counted in the result and otherwise left out.

    Args:
        classes: names, background left out; without them numbers are used.
        out: where to write the result as JSON.

    Raises:
        BadInput: a folder is missing, or a mask has no truth, another size, or values that are no classes.
    """
    predictions, truth = Path(predictions), Path(truth)
    for folder in (predictions, truth):
        if not folder.is_dir():
            raise BadInput(f"{folder}: there is no such folder.")
    names = [p.relative_to(predictions) for p in sorted(predictions.rglob("*.png"))]
    if not names:
        raise BadInput(f"{predictions}: there are no PNG masks in this folder.")
    size = len(classes) if classes is not None else _highest(truth, names)
    if classes is None:
        classes = [f"class {c}" for c in range(1, size + 1)]
    problems = check_classes(list(classes), "class names")
    if problems:
        raise BadInput(problems[0].text)
    confusion = Confusion(size)
    for name in names:
        right = _truth(truth / name, predictions / name)
        mask = read_index_png(predictions / name)
        if mask.shape != right.shape:
            raise BadInput(
                f"{predictions / name}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, "
                f"the truth {right.shape[1]} x {right.shape[0]}; predict at the photograph's size."
            )
        for which, values in ((predictions / name, mask), (truth / name, right)):
            wrong = values[(values > size) & (values != IGNORE)]
            if wrong.size:
                raise BadInput(f"{which}: the mask holds the value {wrong[0]}, but there are {size} classes.")
        confusion.add(mask, right)
    result = Evaluation(
        masks=len(names),
        truths_without_prediction=sum(1 for _ in truth.rglob("*.png")) - len(names),
        **dict(confusion.scores().table(tuple(classes))),
    )
    if out is not None:
        write_json(Path(out), result.model_dump(mode="json"))
    return result


def _truth(path: Path, prediction: Path) -> np.ndarray:
    if not path.exists():
        raise BadInput(f"{prediction}: there is no truth {path}; add it or remove the prediction.")
    return read_index_png(path)


def _highest(truth: Path, names: list[Path]) -> int:
    highest = 1
    for name in names:
        if (truth / name).exists():
            values = read_index_png(truth / name)
            highest = max(highest, int(values[values != IGNORE].max(initial=0)))
    return highest
