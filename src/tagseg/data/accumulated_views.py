"""Views that know where they lie, and see what was found in the rounds before: to learn it, or to hide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Sample
from tagseg.data.geometry import view_of
from tagseg.data.loading import PixelStatistics, TrainingViews
from tagseg.data.views import View, ViewSpec


@dataclass(frozen=True)
class Drop:
    """The attention drop layer (OAA++, algorithm 1): it hides what the classifier found in the round before.

    That is not what it ever found: cumulative maps only grow, and late views would lose all of the object.

    what: pixels, which become the mean colour, or features.
    rate: beta, how often a view loses what was found before.
    threshold: delta, the value of the map of the round before that counts as found.
    """

    what: Literal["image", "features"]
    rate: float
    threshold: float


class AccumulatedViews(TrainingViews):
    """Training views that know where they lie, and see the maps of the rounds before.

    Beside `image` and `tags` they hold `index` of the photograph and `window (7,)`; if `targets` is given,
    `accumulated (C, h, w)` after that many rounds, or after those before the epoch ("growing"), -1 for a tag that has
    no map; and `keep (h, w)`, 0 where features are to be dropped. Pixels to be dropped are 0 in the image.

    Args:
        samples, num_classes, statistics, spec: see `TrainingViews`.
        accumulated: cumulative maps of the samples.
        cells: `(h, w)` of the network's features of a view.
        drop: what is hidden; None for nothing.
        targets: which cumulative maps are to be learnt, if any.
    """

    def __init__(
        self,
        samples: tuple[Sample, ...],
        num_classes: int,
        statistics: PixelStatistics,
        spec: ViewSpec,
        accumulated: Accumulator,
        *,
        cells: tuple[int, int],
        drop: Drop | None = None,
        targets: int | Literal["growing"] | None = None,
    ) -> None:
        super().__init__(samples, num_classes, statistics, spec)
        self.accumulated, self.cells, self.drop, self.targets = accumulated, cells, drop, targets

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        view = self.view(epoch, index)
        item = self.item(index, view)
        item["index"] = index
        item["window"] = torch.tensor(view.window.row())
        if self.targets is not None:
            item["accumulated"] = self._targets(view, index, epoch if self.targets == "growing" else self.targets)
        if self.drop is not None and self.drop.what == "image":
            size: tuple[int, int] = view.image.shape[:2]
            hidden = self._found(self.drop, view, key, size, pixels=True)
            item["image"].permute(1, 2, 0).numpy()[hidden] = 0  # torch takes ten times as long for it
        elif self.drop is not None:
            item["keep"] = torch.from_numpy(~self._found(self.drop, view, key, self.cells, pixels=False)).float()
        return item

    def _targets(self, view: View, index: int, rounds: int) -> torch.Tensor:
        targets = np.zeros((self.num_classes, *self.cells), dtype=np.float32)
        maps, tags = self.accumulated.maps(index, rounds), list(self.samples[index].tags)
        targets[tags] = view_of(maps, view.window, self.cells, self.accumulated.grid)
        targets[[tag for tag, whole in zip(tags, maps, strict=True) if not whole.any()]] = -1
        return torch.from_numpy(targets)

    def _found(
        self, drop: Drop, view: View, key: tuple[int, int], cells: tuple[int, int], *, pixels: bool
    ) -> np.ndarray:
        """Returns `cells` bool: where a map of the round before exceeds delta; nothing where beta spares the view."""
        epoch, index = key
        if epoch == 0 or np.random.default_rng((self.spec.seed, epoch, index, 1)).random() >= drop.rate:
            return np.zeros(cells, dtype=bool)
        maps = view_of(
            self.accumulated.own_maps(index, epoch), view.window, cells, self.accumulated.grid, pixels=pixels
        )
        return np.any(maps > drop.threshold, axis=0)
