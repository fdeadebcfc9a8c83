"""Masks for new photographs, and the IoU of masks with the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tagseg.data.dataset import check_classes
from tagseg.files import write_json
from tagseg.data.images import read_image, read_index_png, voc_palette, write_mask
from tagseg.labels import IGNORE
from tagseg.data.loading import prefetch
from tagseg.errors import BadInput, explain_full_disk
from tagseg.evaluation.iou import Confusion
from tagseg.masks.crf import crf_mask, find_crf
from tagseg.data.photographs import find_photographs
from tagseg.progress import Reporter
from tagseg.report.pictures import overlay_mask
from tagseg.report.sheets import write_picture
from tagseg.segmentation.model import load


def predict(
    run: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    crf: str | None = None,
    overlay: bool = False,
    skip_bad: bool = False,
    quiet: bool = False,
) -> list[Path]:
    """Segment photographs and write one palette PNG each (0 background, class c at c + 1).

    Args:
        run: folder of a finished run or model.
        images: files, or folders that are searched through; names below a folder are kept.
        out: folder for the masks; `NAME.png`, and with `overlay` also `NAME.overlay.jpg`.
        scales, flip: see `SegmentationModel.predict`.
        crf: sharpen with the dense CRF of these parameters, a name of `tagseg.masks.crf.CRFS`.
        skip_bad: leave out photographs that cannot be read.

    Returns:
        the masks written.
    """
    if not scales or min(scales) <= 0:
        raise BadInput(f"scales {scales}: give positive numbers, for example 0.75,1,1.25.")
    parameters = None if crf is None else find_crf(crf)
    reporter = Reporter(quiet)
    found = find_photographs(images)
    model = load(run)
    written = []
    out = Path(out)

    def decode(item: tuple[str, Path]) -> tuple[str, np.ndarray | BadInput]:
        try:
            return item[0], read_image(item[1])
        except BadInput as error:
            return item[0], error

    with reporter.bar("predict", len(found), "photographs") as advance, explain_full_disk(out):
        for name, photo in prefetch(decode, found.items()):
            if isinstance(photo, BadInput):
                if not skip_bad:
                    raise photo
                reporter.say(f"skipped: {photo}")
                continue
            if parameters is None:
                mask = model.predict(photo, scales=scales, flip=flip)
            else:
                probabilities = model.probabilities(photo, scales=scales, flip=flip)
                mask = crf_mask(photo, probabilities, parameters, device=model.device)
            path = out / f"{name}.png"
            write_mask(path, mask)
            if overlay:
                write_picture(out / f"{name}.overlay.jpg", overlay_mask(photo, mask, voc_palette()))
            written.append(path)
            advance(len(written), "")
    return written


def evaluate(
    predictions: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """IoU, precision and recall of a folder of masks.

    Every PNG below `predictions` is compared with the PNG of the same relative name below `truth`; truths without a
    prediction are counted in the result and otherwise left out.

    Args:
        classes: names, background left out; without them numbers are used.
        out: where to write the result as JSON.

    Returns:
        percentages: `miou`, mean `precision` and `recall` of the classes, and each class's own.
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
    result = {
        "masks": len(names),
        "truths_without_prediction": sum(1 for _ in truth.rglob("*.png")) - len(names),
        **confusion.scores().as_dict(tuple(classes)),
    }
    if out is not None:
        write_json(Path(out), result)
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
