"""How much of the objects a class map covers, and how much else: recall and noise (OAA, thesis chapter 4)."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from tagseg.labels import IGNORE


class ClassCoverage(BaseModel):
    """Recall and noise of one class in percent; None where they are not defined."""

    model_config = ConfigDict(frozen=True)

    recall: float | None
    noise: float | None


class CoverageTable(BaseModel):
    """Recall and noise in percent: their means over classes, and those of every class; None where not defined."""

    model_config = ConfigDict(frozen=True)

    recall: float | None
    noise: float | None
    classes: dict[str, ClassCoverage]


class Coverage:
    """Pixel counts of maps cut at a share of their own maximum, summed over photographs.

    Args:
        num_classes: C.
        share: of a map's maximum that counts as covered.
    """

    def __init__(self, num_classes: int, share: float = 0.5) -> None:
        self.share = share
        self.counts = np.zeros((num_classes, 3), dtype=np.int64)  # covered and object, object, covered

    def add(self, maps: np.ndarray, classes: tuple[int, ...], truth: np.ndarray) -> None:
        """Counts one photograph: `maps (K, H, W)` of the 0-based `classes`, `truth (H, W)` with 255 for ignore."""
        known = truth != IGNORE
        for values, number in zip(maps, classes, strict=True):
            peak = values.max(initial=0)
            covered = (values >= self.share * peak) & known if peak > 0 else np.zeros_like(known)
            objects = truth == number + 1
            self.counts[number] += (int((covered & objects).sum()), int(objects.sum()), int(covered.sum()))

    def table(self, classes: tuple[str, ...]) -> CoverageTable:
        """Returns recall and noise in percent.

        Recall is covered object pixels over object pixels, and noise is covered pixels without the object over covered
        pixels.
        """
        hit, objects, covered = self.counts.T.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            recall, noise = 100 * hit / objects, 100 * (covered - hit) / covered
        each = {
            name: ClassCoverage(recall=_rounded(r), noise=_rounded(n))
            for name, r, n in zip(classes, recall, noise, strict=True)
        }
        return CoverageTable(recall=_mean(recall), noise=_mean(noise), classes=each)


def _rounded(value: float) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None


def _mean(values: np.ndarray) -> float | None:
    return _rounded(np.nanmean(values)) if np.isfinite(values).any() else None
