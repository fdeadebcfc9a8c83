"""A view, and smaller views inside it: the global and the local views of L2G."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch

from tagseg.data.dataset import Sample
from tagseg.data.loading import PixelStatistics, TrainingViews
from tagseg.data.views import ViewSpec

Placement = Literal["random", "uniform", "corners"]


class LocalViews(TrainingViews):
    """Training views with smaller views inside them.

    Beside what `TrainingViews` gives they hold `boxes (N, 4)`: x0, y0, x1, y1 of the local views on the global one,
    pixels.

    Args:
        samples, num_classes, statistics, spec: see `TrainingViews`.
        count: N.
        view_side: of a local view, pixels.
        placement: see `place_boxes`.
    """

    def __init__(
        self,
        samples: tuple[Sample, ...],
        num_classes: int,
        statistics: PixelStatistics,
        spec: ViewSpec,
        *,
        count: int,
        view_side: int,
        placement: Placement,
    ) -> None:
        super().__init__(samples, num_classes, statistics, spec)
        self.count, self.view_side, self.placement = count, view_side, placement

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        rng = np.random.default_rng((self.spec.seed, epoch, index, 1))
        boxes = place_boxes(self.spec.side, self.view_side, self.count, self.placement, rng)
        return {**self.item(index, self.view(epoch, index)), "boxes": torch.from_numpy(boxes)}


def place_boxes(side: int, view_side: int, count: int, placement: Placement, rng: np.random.Generator) -> np.ndarray:
    """Returns boxes of local views on a square global view, `(N, 4)` int64.

    Args:
        side, view_side: of the global and of a local view, pixels.
        count: N; for "uniform" a square number (see `is_square`).
        placement: "random"; "uniform", a grid that reaches from border to border; "corners", which is the four
            corners first and the others at random, if there are at least four (L2G's code).
    """
    room = side - view_side
    if placement == "uniform":
        steps = math.isqrt(count)
        line = np.linspace(0, room, steps).round() if steps > 1 else np.array([room // 2])
        origins = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    else:
        origins = rng.integers(0, room + 1, (count, 2))
        if placement == "corners" and count >= 4:
            origins[:4] = [[0, 0], [room, 0], [0, room], [room, room]]
    return np.concatenate([origins, origins + view_side], axis=1).astype(np.int64)


def is_square(count: int) -> bool:
    """Tells whether so many views fill a uniform grid."""
    return math.isqrt(count) ** 2 == count
