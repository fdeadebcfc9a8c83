"""The miner: the one place where a classifier's raw maps become class maps in [0, 1]."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from tagseg.cores import prefetch
from tagseg.data.dataset import Sample
from tagseg.data.images import read_image
from tagseg.data.loading import normalise
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.data.reading import FileFacts
from tagseg.data.views import resize, whole
from tagseg.grid import PIXELS, Grid
from tagseg.masks.rescaling import over_maximum
from tagseg.methods.base import Method
from tagseg.networks.backbone import on_canvas
from tagseg.networks.precision import default_device, inference_autocast
from tagseg.pipeline.parts import WHOLE, Counter, Part
from tagseg.pipeline.settings import MineSettings
from tagseg.progress import Advance

BATCH, SHARD = 8, 64
PRESENT = 0.5  # a classifier that says more than this says "it is there"


class Miner:
    """What makes class maps of photographs, averaged over scales and flips.

    Args:
        method: the network whose maps are mined.
        settings: scales, flips, and how they are joined.
    """

    def __init__(self, method: Method, settings: MineSettings) -> None:
        self.device = default_device()
        self.method = method.eval().to(self.device, memory_format=torch.channels_last)
        self.settings = settings

    @property
    def grid(self) -> Grid:
        """Returns where the cells of the maps lie."""
        return PIXELS if self.settings.fusion == "photograph" else self.method.backbone.grid

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns the network's input size at each scale for a photograph of `height` x `width` pixels."""
        factor = self.settings.side / max(height, width)
        fit = self.method.backbone.grid.fit
        return [fit(height * factor * s, width * factor * s) for s in self.settings.scales]

    def pixels(self, photos: list[np.ndarray], size: tuple[int, int]) -> torch.Tensor:
        """Returns photographs as the network sees them at a size `(H, W)`: `(B, 3, H, W)`."""
        pixels = torch.stack([normalise(resize(whole(p), size).image, self.method.backbone) for p in photos])
        return pixels.to(self.device, memory_format=torch.channels_last)

    @property
    def from_minimum(self) -> bool:
        """Returns whether the lowest value of every map is subtracted once all views are fused."""
        return self.method.from_minimum

    @torch.inference_mode()
    def __call__(
        self,
        photos: list[np.ndarray],
        tags: Sequence[Sequence[int]] = (),  # noqa: ARG002
        predicted: bool = False,  # noqa: ARG002
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns signed maps and tag probabilities of photographs that share their network sizes.

        Args:
            photos: B arrays `(H, W, 3)` uint8 whose `sizes` are equal.
            tags, predicted: which maps are needed; all are made.

        Returns:
            for each the maps `(C, h, w)` float32, at the grid of the largest scale or at its own size, as the settings
            say; and tag probabilities `(B, C)`.
        """
        sizes = self.sizes(*photos[0].shape[:2])
        maps: list[torch.Tensor] = []
        logits: list[torch.Tensor] = []
        for size in sizes:
            pixels = self.pixels(photos, size)
            for flipped in (False, True)[: 1 + self.settings.flip]:
                with inference_autocast(self.device):
                    scores = self._scores(pixels.flip(-1) if flipped else pixels)
                raw, found = self.method.maps_and_logits(scores)
                logits.append(found)
                maps.append(raw.flip(-1) if flipped else raw)
        probabilities = self.method.probabilities(torch.stack(logits).mean(dim=0))
        return self._fused(maps, [photo.shape[:2] for photo in photos]), probabilities.cpu().numpy()

    def _scores(self, images: torch.Tensor) -> torch.Tensor:
        s, backbone = self.settings, self.method.backbone
        local = backbone.local and self.method.local_maps
        network = partial(on_canvas, self.method.score_maps, stride=backbone.stride, batch=BATCH, local=local)
        if s.window is None:
            return network(images).float()
        side, _ = backbone.grid.fit(s.window, s.window)
        cells = min(round(s.window_stride / backbone.stride), side // backbone.stride)  # windows must not leave gaps
        step = max(1, cells) * backbone.stride
        return through_windows(network, images, side, step, backbone.grid)

    def _fused(self, maps: list[torch.Tensor], sizes: list[tuple[int, ...]]) -> list[np.ndarray]:
        rectify = self.settings.rectify
        if self.settings.fusion == "photograph":
            fused = [fused_bicubic([m[i : i + 1] for m in maps], s, rectify) for i, s in enumerate(sizes)]
            return [maps_of_one[0].cpu().numpy() for maps_of_one in fused]
        finest = max((m.shape[-2], m.shape[-1]) for m in maps)
        scales = torch.stack([self.grid.resize(m, finest) for m in maps])
        return list((scales.relu() if rectify else scales).mean(dim=0).cpu().numpy())


def fused_bicubic(maps: list[torch.Tensor], size: tuple[int, ...], rectify: bool = False) -> torch.Tensor:
    """Returns the mean of maps of several scales, each brought to `size` (H, W) as L2G's published code does it.

    Bicubic, as if the maps' cells tiled the photograph, whatever the geometry of their grid. `(B, C, h_i, w_i)` each
    -> `(B, C, H, W)`.
    """
    total = torch.zeros(*maps[0].shape[:2], *size, device=maps[0].device)
    for scale in maps:
        large = F.interpolate(scale, size=size, mode="bicubic", align_corners=False)
        total += large.relu() if rectify else large
    return total / len(maps)


def through_windows(
    network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, side: int, step: int, grid: Grid
) -> torch.Tensor:
    """Returns `network(images)` as seen through a square window that slides; where windows overlap, their mean.

    Args:
        network: `(B, 3, H, W) -> (B, K, h, w)`, of any size.
        images: `(B, 3, H, W)`, of a size that `grid.fit` gives.
        side: of the window, pixels, a size that `grid.fit` gives; smaller images are seen whole.
        step: pixels that the window slides, whole cells.
        grid: where the network's cells lie.

    Returns:
        `(B, K, h, w)` float32.
    """
    height, width = images.shape[-2:]
    cells = grid.cells(height, width)
    total = torch.zeros(0)
    seen = torch.zeros(cells, device=images.device)
    for y, x in product(_starts(height, side, step), _starts(width, side, step)):
        maps = network(images[:, :, y : y + side, x : x + side]).float()
        if not total.numel():
            total = maps.new_zeros(*maps.shape[:2], *cells)
        row, column = y // grid.stride, x // grid.stride
        total[:, :, row : row + maps.shape[-2], column : column + maps.shape[-1]] += maps
        seen[row : row + maps.shape[-2], column : column + maps.shape[-1]] += 1
    return total / seen


def _starts(length: int, side: int, step: int) -> list[int]:
    """Where windows begin along an axis: every `step`, and one at the very end."""
    room = max(0, length - side)
    return [*range(0, room, step), room]


def to_class_maps(
    signed: np.ndarray,
    classes: tuple[int, ...],
    tag_probabilities: np.ndarray,
    grid: Grid,
    *,
    from_minimum: bool = False,
) -> StoredMaps:
    """Keeps `classes` of `(C, h, w)`, rectifies them, and divides each by its maximum; 0 where nothing is positive.

    With `from_minimum` the lowest value of each is subtracted before.
    """
    maps = np.maximum(signed[list(classes)], 0)
    if from_minimum:
        maps = maps - maps.min(axis=(1, 2), keepdims=True, initial=np.inf)
    return StoredMaps(classes, over_maximum(maps), tag_probabilities, grid)


def mine(
    miner: Miner,
    samples: tuple[Sample, ...],
    facts: FileFacts,
    folder: Path,
    advance: Advance,
    *,
    with_predicted: bool = False,
    part: Part = WHOLE,
) -> MapStore:
    """Stores the maps of every photograph's tags, and with `with_predicted` those of the tags the classifier finds.

    Photographs of like size go through the network together. Which ones do depends on the list alone, so that an
    interrupted run that goes on, and one that several processes share, compute the same bits.
    """
    store = MapStore(folder)
    counter = Counter(len(samples), len(store), part, advance)
    for number, shard in enumerate(_shards(miner, samples, facts)):
        if shard[0][0].name in store or not part.takes(number):
            continue
        entries: dict[str, StoredMaps] = {}
        for batch, photos in prefetch(lambda b: (b, [read_image(s.image) for s in b]), shard, ahead=1):
            maps, found = miner(photos, [sample.tags for sample in batch], with_predicted)
            for sample, signed, probabilities in zip(batch, maps, found, strict=True):
                classes = set(sample.tags)
                if with_predicted:
                    classes |= set(np.flatnonzero(probabilities > PRESENT).tolist())
                entries[sample.name] = to_class_maps(
                    signed, tuple(sorted(classes)), probabilities, miner.grid, from_minimum=miner.from_minimum
                )
            counter.add(len(batch))
        store.write(entries, number)
    return store


def _shards(miner: Miner, samples: tuple[Sample, ...], facts: FileFacts) -> Iterator[list[list[Sample]]]:
    """Batches of photographs with equal network sizes, gathered into shards of about `SHARD` photographs."""
    groups: dict[tuple, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[tuple(miner.sizes(*facts[sample.name].size))].append(sample)
    shard: list[list[Sample]] = []
    for _, group in sorted(groups.items()):
        for start in range(0, len(group), BATCH):
            shard.append(group[start : start + BATCH])
            if sum(map(len, shard)) >= SHARD:
                yield shard
                shard = []
    if shard:
        yield shard
