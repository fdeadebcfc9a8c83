"""How well boxes and maps find objects: loc1, loc5, gt-known, MaxBoxAcc and PxAP, pointing game, best-threshold IoU.

Boxes here are rows `(x0, y0, x1, y1)` in pixels with exclusive ends, except in the functions of the wsolevaluation
protocol (Choe et al., CVPR 2020), whose boxes include their last pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np


def box_iou(boxes: np.ndarray, others: np.ndarray, inclusive: bool = False) -> np.ndarray:
    """Returns intersection over union, `(N, 4)` and `(M, 4)` -> `(N, M)`; `inclusive` boxes contain their end pixel."""
    one = 1.0 if inclusive else 0.0
    a, b = np.asarray(boxes, float).reshape(-1, 1, 4), np.asarray(others, float).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + one
    shared = sides.clip(min=0).prod(axis=-1)
    area = [((box[..., 2] - box[..., 0] + one) * (box[..., 3] - box[..., 1] + one)) for box in (a, b)]
    union = area[0] + area[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


@dataclass
class Localisation:
    """The measures loc1, loc5 and gt-known of boxes.

    They ask whether the class is right, and whether its box overlaps a true box by at least half.
    """

    loc1: list[bool] = field(default_factory=list)
    loc5: list[bool] = field(default_factory=list)
    gt_known: list[bool] = field(default_factory=list)

    def add(self, box: Sequence[float] | None, truth: np.ndarray, rank: int) -> None:
        """Counts one class of one photograph.

        Args:
            box: predicted for the true class; None for none.
            truth: `(M, 4)` true boxes of the class.
            rank: place of the class among the scores, 0 for the highest.
        """
        right = box is not None and bool((box_iou(np.asarray([box]), truth) >= 0.5).any())
        self.gt_known.append(right)
        self.loc1.append(right and rank < 1)
        self.loc5.append(right and rank < 5)

    def as_dict(self) -> dict[str, float | None]:
        """Returns loc1, loc5 and gt-known as percentages."""
        return {name: _percent(getattr(self, name)) for name in ("loc1", "loc5", "gt_known")}


class BoxAccuracy:
    """The measures MaxBoxAcc and MaxBoxAccV2 of maps.

    MaxBoxAcc counts the largest contour at IoU 0.5, MaxBoxAccV2 any contour, as a mean over IoU 0.3, 0.5, 0.7. The
    threshold is the best for the whole set, so these are numbers of the map, not of a method to set it.
    """

    IOUS = (0.3, 0.5, 0.7)

    def __init__(self, thresholds: np.ndarray | None = None) -> None:
        self.thresholds = np.arange(100) / 100 if thresholds is None else thresholds
        self.largest = np.zeros((3, len(self.thresholds)))
        self.every = np.zeros((3, len(self.thresholds)))
        self.count = 0

    def add(self, class_map: np.ndarray, truth: np.ndarray) -> None:
        """Counts one map `(H, W)` in [0, 1] against the true boxes `(M, 4)`, inclusive."""
        self.count += 1
        boxes = contour_boxes(class_map, self.thresholds)
        every = box_iou(np.concatenate(boxes), truth, inclusive=True).max(axis=1, initial=0)
        end = 0
        for number, of_threshold in enumerate(boxes):
            ious, end = every[end : end + len(of_threshold)], end + len(of_threshold)
            for row, iou in enumerate(self.IOUS):
                self.largest[row, number] += ious[0] >= iou
                self.every[row, number] += ious.max() >= iou

    def as_dict(self) -> dict[str, float | None]:
        """Returns MaxBoxAcc and MaxBoxAccV2 as percentages."""
        if not self.count:
            return {"MaxBoxAcc": None, "MaxBoxAccV2": None}
        largest, every = 100 * self.largest / self.count, 100 * self.every / self.count
        return {
            "MaxBoxAcc": round(float(largest[1].max()), 2),
            "MaxBoxAccV2": round(float(every.max(axis=1).mean()), 2),
        }


def contour_boxes(class_map: np.ndarray, thresholds: np.ndarray) -> list[np.ndarray]:
    """Returns boxes `(n, 4)`, inclusive, of the contours above each threshold, that of the largest area first.

    As in wsolevaluation, the map `(H, W)` in [0, 1] is taken in 8 bits and kept where above `int(threshold * maximum)`;
    there is one box of zeros where nothing is left.
    """
    height, width = class_map.shape
    values = (np.asarray(class_map) * 255).astype(np.uint8)
    found = []
    for threshold in thresholds:
        limit = int(threshold * values.max())
        kept = cv2.threshold(values, limit, 255, cv2.THRESH_BINARY)[1]
        contours = cv2.findContours(kept, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
        if not contours:
            found.append(np.zeros((1, 4)))
            continue
        boxes = []
        for contour in sorted(contours, key=cv2.contourArea, reverse=True):
            x, y, w, h = cv2.boundingRect(contour)
            boxes.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
        found.append(np.asarray(boxes, float))
    return found


class PixelPrecision:
    """The measure PxAP: the area under the precision-recall curve of all pixels of a set.

    It is that of Choe et al., CVPR 2020, section 3.3.
    """

    BINS = 1000

    def __init__(self) -> None:
        self.inside = np.zeros(self.BINS + 1)
        self.outside = np.zeros(self.BINS + 1)

    def add(self, class_map: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> None:
        """Counts a map `(H, W)` in [0, 1] against a mask `(H, W)` bool; pixels in `ignore` do not count."""
        known = slice(None) if ignore is None else ~ignore
        values = np.clip(class_map[known] * self.BINS, 0, self.BINS).astype(np.int64).ravel()
        right = truth[known].ravel()
        self.inside += np.bincount(values[right], minlength=self.BINS + 1)
        self.outside += np.bincount(values[~right], minlength=self.BINS + 1)

    def value(self) -> float | None:
        """Returns PxAP in percent; None before anything was counted that is there."""
        inside, outside = self.inside[::-1].cumsum(), self.outside[::-1].cumsum()
        if not inside[-1]:
            return None
        found = inside + outside
        precision = np.divide(inside, found, out=np.zeros_like(inside), where=found > 0)
        recall = np.concatenate(([0.0], inside / inside[-1]))
        return round(100 * float((precision * np.diff(recall)).sum()), 2)


class BestThresholdIoU:
    """IoU of thresholded maps averaged over photographs, at the threshold that is best for the whole set.

    It is the measure of LayerCAM's tiny-defect experiment, equation 3.10 of the thesis. The threshold is picked with
    masks, so this is an *oracle* number, for comparing maps.
    """

    def __init__(self, steps: int = 100) -> None:
        self.thresholds = np.arange(steps) / steps
        self.total = np.zeros(steps)
        self.count = 0

    def add(self, class_map: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> None:
        """Counts a map `(H, W)` in [0, 1] against a mask `(H, W)` bool.

        A pixel is kept where its value is above the threshold. Pixels in `ignore` do not count.
        """
        known = slice(None) if ignore is None else ~ignore
        steps = len(self.thresholds)
        # a value v is above the thresholds 0 .. ceil(v * steps) - 1
        bins = np.ceil(np.clip(class_map[known], 0, 1) * steps).astype(np.int64).ravel()
        right = truth[known].ravel()
        kept = np.bincount(bins, minlength=steps + 1)[::-1].cumsum()[::-1][1:]
        hits = np.bincount(bins[right], minlength=steps + 1)[::-1].cumsum()[::-1][1:]
        union = kept + right.sum() - hits
        self.total += np.divide(hits, union, out=np.zeros(steps), where=union > 0)
        self.count += 1

    def best(self) -> tuple[float, float | None]:
        """Returns the best threshold, and the mean IoU in percent."""
        number = int(self.total.argmax())
        value = round(100 * self.total[number] / self.count, 2) if self.count else None
        return float(self.thresholds[number]), value


def pointing_hit(class_map: np.ndarray, truth: np.ndarray, tolerance: int = 15) -> bool:
    """Tells whether the map's maximum is within `tolerance` pixels of the object.

    This is the pointing game (Zhang et al., ECCV 2016).

    Args:
        class_map: `(H, W)`.
        truth: `(H, W)` bool.
    """
    y, x = np.unravel_index(int(class_map.argmax()), class_map.shape)
    rows, columns = np.nonzero(
        truth[max(0, y - tolerance) : y + tolerance + 1, max(0, x - tolerance) : x + tolerance + 1]
    )
    if not len(rows):
        return False
    rows, columns = rows + max(0, y - tolerance) - y, columns + max(0, x - tolerance) - x
    return bool((rows**2 + columns**2 <= tolerance**2).any())


def _percent(values: Sequence[bool]) -> float | None:
    return round(100 * sum(values) / len(values), 2) if values else None
