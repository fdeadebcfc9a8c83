"""Views that know where they lie, and see what was found in the rounds before: to learn it, or to hide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Sample
from tagseg.data.feature_views import FeatureViews
from tagseg.data.geometry import Window, view_of
from tagseg.data.loading import PixelStatistics, TrainingViews
from tagseg.data.stored_views import StoredView
from tagseg.data.views import ViewSpec
from tagseg.grid import Grid


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


class Seen:
    """What views of photographs show of the rounds before.

    Args:
        accumulated: cumulative maps of the photographs.
        tags: of every photograph, 0-based.
        num_classes: C.
        cells: `(h, w)` of the network's features of a view.
        drop: what is hidden; None for nothing.
        targets: which cumulative maps are to be learnt, if any.
    """

    def __init__(
        self,
        accumulated: Accumulator,
        tags: Sequence[tuple[int, ...]],
        num_classes: int,
        cells: tuple[int, int],
        drop: Drop | None,
        targets: int | Literal["growing"] | None,
    ) -> None:
        self.accumulated, self.tags, self.num_classes, self.cells = accumulated, tags, num_classes, cells
        self.drop, self.targets = drop, targets

    def add_to(self, item: dict[str, Any], key: tuple[int, int], window: Window, seed: int) -> None:
        """Adds `index`, `window`, and as it is wanted `accumulated` and `keep`, and blackens pixels."""
        epoch, index = key
        item["index"] = index
        item["window"] = torch.tensor(window.row())
        if self.targets is not None:
            item["accumulated"] = self._targets(window, index, epoch if self.targets == "growing" else self.targets)
        if self.drop is not None and self.drop.what == "image":
            size = (item["image"].shape[1], item["image"].shape[2])
            hidden = self._found(self.drop, window, key, size, seed, pixels=True)
            item["image"].permute(1, 2, 0).numpy()[hidden] = 0  # torch takes ten times as long for it
        elif self.drop is not None:
            hidden = self._found(self.drop, window, key, self.cells, seed, pixels=False)
            item["keep"] = torch.from_numpy(~hidden).float()

    def _targets(self, window: Window, index: int, rounds: int) -> torch.Tensor:
        targets = np.zeros((self.num_classes, *self.cells), dtype=np.float32)
        maps, tags = self.accumulated.maps(index, rounds), list(self.tags[index])
        targets[tags] = view_of(maps, window, self.cells, self.accumulated.grid)
        targets[[tag for tag, whole in zip(tags, maps, strict=True) if not whole.any()]] = -1
        return torch.from_numpy(targets)

    def _found(
        self, drop: Drop, window: Window, key: tuple[int, int], cells: tuple[int, int], seed: int, *, pixels: bool
    ) -> np.ndarray:
        """Returns `cells` bool: where a map of the round before exceeds delta; nothing where beta spares the view."""
        epoch, index = key
        if epoch == 0 or np.random.default_rng((seed, epoch, index, 1)).random() >= drop.rate:
            return np.zeros(cells, dtype=bool)
        maps = self.accumulated.own_maps(index, epoch)
        return np.any(view_of(maps, window, cells, self.accumulated.grid, pixels=pixels) > drop.threshold, axis=0)


class AccumulatedFeatureViews(FeatureViews):
    """Stored features of whole photographs that know where they lie, and see the maps of the rounds before.

    Beside what `FeatureViews` gives they hold what `Seen` adds; what is dropped is dropped of the features.

    Args:
        seen: what is seen of the rounds before.
        grid: the geometry of the features.
        others: as for `FeatureViews`.
    """

    def __init__(self, seen: Seen, grid: Grid, *others: Any) -> None:
        super().__init__(*others)
        self.seen, self.grid = seen, grid

    def add_to(
        self,
        item: dict[str, Any],
        key: tuple[int, int],
        view: StoredView,
        corner: tuple[int, int],
        cells: tuple[int, int],
    ) -> None:
        """Adds where the view lies, and what was found of it in the rounds before."""
        stride, less = self.grid.stride, self.grid.stride - 1 if self.grid.corners else 0
        side = self.cells * stride - less  # of the square, pixels
        high, wide = (n * stride - less for n in cells)  # of the view
        y0, x0 = (stride * place for place in corner)
        if view.mirrored:
            x0 = wide - (x0 + side)
        down, across, share = view.part  # of the whole photograph at this scale
        size = round(high / share), round(wide / share)
        y0, x0 = y0 + round(down * size[0]), x0 + round(across * size[1])
        self.seen.add_to(item, key, Window(size, (x0, y0, x0 + side, y0 + side), view.mirrored), self.seed)


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
        self.seen = Seen(accumulated, [s.tags for s in samples], num_classes, cells, drop, targets)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        view = self.view(*key)
        item = self.item(key[1], view)
        self.seen.add_to(item, key, view.window, self.spec.seed)
        return item
