"""Intersection over union, precision and recall of masks, counted over a whole set of photographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from tagseg.labels import IGNORE


class ClassScores(BaseModel):
    """The scores of one class in percent; None where they are not defined."""

    model_config = ConfigDict(frozen=True)

    iou: float | None
    precision: float | None
    recall: float | None


class ScoreTable(BaseModel):
    """Scores in percent, as they are shown and written; None where they are not defined.

    miou: the mean IoU over the background and all classes that occur.
    precision, recall: means over the classes, without the background.
    classes: every class's own, the background first.
    """

    model_config = ConfigDict(frozen=True)

    miou: float | None
    precision: float | None
    recall: float | None
    classes: dict[str, ClassScores]


class Confusion:
    """Pixel counts `(C + 1, C + 2)` by truth and prediction; the last column counts pixels predicted as ignore.

    Pixels whose truth is ignore do not count. A predicted 255 ("don't know") is a miss of the true class and no
    false alarm of another.
    """

    def __init__(self, num_classes: int, counts: np.ndarray | None = None) -> None:
        size = num_classes + 1
        self.counts = np.zeros((size, size + 1), dtype=np.int64) if counts is None else counts

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Counts one photograph; prediction and truth are `(H, W)` class indices."""
        size = self.counts.shape[0]
        known = truth != IGNORE
        predicted = np.minimum(prediction[known].astype(np.int64), size)
        cells = truth[known].astype(np.int64) * (size + 1) + predicted
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def __add__(self, other: Confusion) -> Confusion:
        """Returns the counts of both."""
        return Confusion(self.counts.shape[0] - 1, self.counts + other.counts)

    def scores(self) -> Scores:
        """Returns IoU, precision and recall of every class, the background first."""
        size = self.counts.shape[0]
        hits = np.diag(self.counts[:, :size]).astype(np.float64)
        truth = self.counts.sum(axis=1)
        predicted = self.counts[:, :size].sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return Scores(hits / (truth + predicted - hits), hits / predicted, hits / truth)


@dataclass(frozen=True)
class Scores:
    """The scores per class, background first, each in [0, 1].

    A score is NaN where it has nothing to divide by: precision of a class that is not predicted, recall of one that is
    not there, IoU of one that is neither.
    """

    iou: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def miou(self) -> float:
        """Returns the mean IoU over the background and all classes that occur."""
        return _mean(self.iou)

    def table(self, classes: tuple[str, ...]) -> ScoreTable:
        """Returns the scores in percent, with the names of the C classes."""
        names = ("background", *classes)
        return ScoreTable(
            miou=_percent(self.miou),
            precision=_percent(_mean(self.precision[1:])),
            recall=_percent(_mean(self.recall[1:])),
            classes={
                name: ClassScores(iou=_percent(i), precision=_percent(p), recall=_percent(r))
                for name, i, p, r in zip(names, self.iou, self.precision, self.recall, strict=True)
            },
        )


def iou_of_tags(mask: np.ndarray, truth: np.ndarray, tags: tuple[int, ...]) -> float:
    """Returns the mean IoU of the tags of one photograph, in 0..1.

    Args:
        mask: `(H, W)` class indices, class c at c + 1.
        truth: the same, 255 for ignore.
        tags: 0-based, at least one.
    """
    known = truth != IGNORE
    pairs = [((mask == tag + 1) & known, truth == tag + 1) for tag in tags]
    return float(np.mean([(a & b).sum() / max(1, (a | b).sum()) for a, b in pairs]))


class ThresholdSweep:
    """The confusion of `argmax([score, maps])` for every background score at once, from one pass over the maps.

    A pixel's label depends on the score only through its strongest map value, so counting pixels by
    (truth, strongest class, value in 256 steps) is enough.
    """

    BINS = 256

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes + 1, num_classes + 1, self.BINS), dtype=np.int64)

    def add(self, maps: np.ndarray, classes: tuple[int, ...], truth: np.ndarray) -> None:
        """Counts one photograph: `maps (K, H, W)` in [0, 1] of the 0-based `classes` (K may be 0)."""
        known = truth != IGNORE
        if classes:
            labels = np.asarray(classes)[maps.argmax(axis=0)[known]] + 1
            values = np.clip(maps.max(axis=0)[known] * (self.BINS - 1), 0, self.BINS - 1).astype(np.int64)
        else:
            labels = values = np.zeros(int(known.sum()), dtype=np.int64)
        size = self.num_classes + 1
        cells = (truth[known].astype(np.int64) * size + labels) * self.BINS + values
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def at(self, score: float) -> Confusion:
        """Returns the confusion at one background score in [0, 1]."""
        # the first bin whose values are not below the score
        edge = min(self.BINS, int(np.ceil(score * (self.BINS - 1))))
        counts = np.zeros((self.num_classes + 1, self.num_classes + 2), dtype=np.int64)
        counts[:, :-1] = self.counts[:, :, edge:].sum(axis=2)
        # below it background wins, whichever class is strongest
        counts[:, 0] += self.counts[:, :, :edge].sum(axis=(1, 2))
        return Confusion(self.num_classes, counts)

    def curve(self, steps: int = 100) -> tuple[np.ndarray, np.ndarray]:
        """Returns the background scores 0, 1/steps ... 1 and the mIoU at each."""
        scores = np.arange(steps + 1) / steps
        return scores, np.array([self.at(float(s)).scores().miou for s in scores])

    def oracle(self) -> tuple[float, float]:
        """Returns the score with the best mIoU, and that mIoU.

        It is picked by the truth, so it is to be reported as *oracle* and never used.
        """
        scores, miou = self.curve()
        best = int(np.nanargmax(miou))
        return float(scores[best]), float(miou[best])


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * float(value), 2)
