"""Training views of photographs whose features were computed before (see `tagseg.data.feature_store`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from tagseg.data.dataset import Sample, multi_hot, read_saliency
from tagseg.data.images import image_size, read_image, read_index_png
from tagseg.data.stored_views import StoredView, stored_views
from tagseg.grid import PIXELS, Grid
from tagseg.labels import IGNORE


class Features(Protocol):
    """What gives the features of photographs by name, `(D, h, w)` float32 each."""

    def __contains__(self, name: str) -> bool: ...

    def read(self, name: str) -> np.ndarray:
        """Returns the features of one photograph."""
        ...


class FeatureViews(Dataset[dict[str, Any]]):
    """Whole photographs as features in a square of cells, of which the rest is 0.

    They hold `image (D, S, S)` float32, `tags (C,)`, `inside (4,)`, y0, y1, x0, x1 of the photograph's cells within
    the square, and with masks `mask (S k, S k)`, 255 off the photograph. Where
    other views are stored too (see `tagseg.data.stored_views`), an epoch shows one of them; which one, and where it
    lies in the square, depends on seed and epoch. The samples' true masks are never opened here.

    Args:
        samples: the photographs.
        num_classes: C.
        store: their features.
        cells: S; larger photographs are cut.
        seed: of what is random.
        masks: where the mask of a sample lies; None: there is none.
        fine: k, labels or pixels along a cell.
        pixels: whether the photographs come too: `pixels (3, S k, S k)` float32 in 0..255, black where there is none,
            and `box (4,)`, what of them is photograph: y0, y1, x0, x1.
        saliency: whether saliency maps do: `saliency (S, S)` in [0, 1], the mean in every cell; every sample must then
            have one.
        grid: how the features' cells lie on the photograph.
    """

    def __init__(
        self,
        samples: tuple[Sample, ...],
        num_classes: int,
        store: Features,
        cells: int,
        seed: int,
        masks: Callable[[Sample], Path] | None = None,
        fine: int = 2,
        pixels: bool = False,
        saliency: bool = False,
        grid: Grid = PIXELS,
    ) -> None:
        self.samples, self.num_classes, self.store = samples, num_classes, store
        self.cells, self.seed, self.masks, self.fine = cells, seed, masks, fine
        self.pixels, self.saliency, self.grid = pixels, saliency, grid

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        sample, side = self.samples[index], self.cells
        rng = np.random.default_rng((self.seed, epoch, index))
        views = stored_views(sample.name, self.store)
        view = views[int(rng.random() * len(views))]
        features = self.store.read(view.name)
        height, width = features.shape[1:]
        # of each axis: where the square begins on the photograph, or the photograph in the square
        y, x = (int(rng.integers(min(0, n - side), max(0, n - side) + 1)) for n in (height, width))
        inside, taken = _overlap(y, x, side, (height, width))
        square = np.zeros((len(features), side, side), dtype=np.float32)
        square[:, inside[0], inside[1]] = features[:, taken[0], taken[1]]
        item = {
            "image": torch.from_numpy(square),
            "tags": torch.from_numpy(multi_hot(sample.tags, self.num_classes)),
            "inside": torch.tensor([inside[0].start, inside[0].stop, inside[1].start, inside[1].stop]),
        }
        if self.saliency:
            salient = self._on_cells(view.of(read_saliency(sample, image_size(sample.image))), (height, width), 1)
            cells = np.zeros((side, side), dtype=np.float32)
            cells[inside] = salient[taken].astype(np.float32) / 255
            item["saliency"] = torch.from_numpy(cells)
        k = self.fine
        inside, taken = _overlap(y * k, x * k, side * k, (height * k, width * k))
        if self.pixels:
            photo = self._on_cells(view.of(read_image(sample.image)), (height, width), k)
            pixels = np.zeros((side * k, side * k, 3), dtype=np.float32)
            pixels[inside] = photo[taken]
            item["pixels"] = torch.from_numpy(pixels).permute(2, 0, 1)
            item["box"] = torch.tensor([inside[0].start, inside[0].stop, inside[1].start, inside[1].stop])
        if self.masks is not None:
            mask = view.of(read_index_png(self.masks(sample)))
            mask = cv2.resize(mask, (width * k, height * k), interpolation=cv2.INTER_NEAREST_EXACT)
            labels = np.full((side * k, side * k), IGNORE, dtype=np.uint8)
            labels[inside] = mask[taken]
            item["mask"] = torch.from_numpy(labels).long()
        self.add_to(item, key, view, (y, x), (height, width))
        return item

    def _on_cells(self, array: np.ndarray, cells: tuple[int, int], fine: int) -> np.ndarray:
        """Brings a photograph or map `(H, W, ...)` to `fine` pixels a cell along either side, the means of its own."""
        if self.grid.corners:
            # the outer half of a cell at the border lies off the photograph, whose edge goes on there
            down, across = (round(n / (2 * max(1, c - 1))) for n, c in zip(array.shape, cells, strict=False))
            array = cv2.copyMakeBorder(array, down, down, across, across, cv2.BORDER_REPLICATE)
        return cv2.resize(array, (cells[1] * fine, cells[0] * fine), interpolation=cv2.INTER_AREA)

    def add_to(
        self,
        item: dict[str, Any],
        key: tuple[int, int],
        view: StoredView,
        corner: tuple[int, int],
        cells: tuple[int, int],
    ) -> None:
        """Adds what else there is to know of a view: here nothing.

        Args:
            item: what is shown.
            key: epoch and number of the photograph.
            view: which one it is.
            corner: y, x of the cell of the view at which the square begins; below 0 where the view is smaller.
            cells: `(h, w)` of the view.
        """
        del item, key, view, corner, cells


def _overlap(y: int, x: int, side: int, size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What of a square that begins at (y, x) is photograph: as places in the square, and on the photograph."""
    starts, ends = (max(y, 0), max(x, 0)), (min(y + side, size[0]), min(x + side, size[1]))
    inside = slice(starts[0] - y, ends[0] - y), slice(starts[1] - x, ends[1] - x)
    return inside, (slice(starts[0], ends[0]), slice(starts[1], ends[1]))
