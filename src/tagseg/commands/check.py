"""`check`: everything that is wrong with a data set, at once."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from tagseg.cores import cpu_count
from tagseg.data.dataset import Dataset
from tagseg.data.reading import FileFacts, inspect_files, opened
from tagseg.progress import Reporter


@dataclass(frozen=True)
class CheckResult:
    """The contents of a data set, and one sentence for everything that is wrong with it."""

    train: int
    val: int
    masks: int
    empty: int  # photographs without tags
    classes: dict[str, int]  # name -> photographs that have it
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what was left out, and other things to know


def check(
    data: Dataset | str | os.PathLike[str], *, tags: Literal["xml", "masks"] = "xml", quiet: bool = False
) -> CheckResult:
    """Reads the data set at `data` and opens every photograph and mask in it; nothing is written.

    Args:
        data: folder of the data set (see `tagseg.data.reading.read_dataset`), or one that `tagseg.read_samples` made of
            objects.
        tags: where a VOC devkit's tags come from.
        quiet: show no progress.

    Raises:
        BadInput: there is no data set that could be read at all.
    """
    dataset = opened(data, tags)
    with Reporter(quiet).bar("check", len(dataset.samples), "photographs") as advance:
        dataset, _ = inspect_files(dataset, FileFacts(), advance, threads=cpu_count())
    counts = Counter(tag for sample in dataset.samples for tag in sample.tags)
    return CheckResult(
        train=len(dataset.train),
        val=len(dataset.val),
        masks=sum(sample.mask is not None for sample in dataset.samples),
        empty=sum(not sample.tags for sample in dataset.samples),
        classes={name: counts[number] for number, name in enumerate(dataset.classes)},
        problems=tuple(problem.text for problem in dataset.problems),
        notes=dataset.notes,
    )
