"""The miner: the one place where a classifier's raw maps become class maps in [0, 1]."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tagseg.data.dataset import Sample
from tagseg.data.images import read_image
from tagseg.data.loading import normalise, prefetch
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.data.reading import FileFacts
from tagseg.data.views import resize, whole
from tagseg.methods.base import maps_and_logits, score_maps
from tagseg.networks.backbone import on_canvas, resize_maps
from tagseg.networks.precision import default_device, inference_autocast
from tagseg.pipeline.progress import Advance
from tagseg.pipeline.settings import MineSettings

BATCH, SHARD = 8, 64
PRESENT = 0.5  # a classifier that says more than this says "it is there"


class Miner:
    """Class maps of photographs, averaged over scales and flips, at the grid of the largest scale."""

    def __init__(self, method: Any, settings: MineSettings) -> None:
        self.device = default_device()
        self.method = method.eval().to(self.device, memory_format=torch.channels_last)
        self.settings = settings

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Network input size at each scale for a photograph of `height` x `width`."""
        factor = self.settings.side / max(height, width)
        fit = self.method.backbone.fit_size
        return [fit(height * factor * s, width * factor * s) for s in self.settings.scales]

    @torch.inference_mode()
    def __call__(self, photos: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Signed maps and tag probabilities of photographs that share their network sizes.

        Args:
            photos: B arrays `(H, W, 3)` uint8 whose `sizes` are equal.

        Returns:
            maps `(B, C, h, w)` float32, and tag probabilities `(B, C)`.
        """
        corners = self.method.backbone.corners
        sizes = self.sizes(*photos[0].shape[:2])
        maps: list[torch.Tensor] = []
        logits: list[torch.Tensor] = []
        for size in sizes:
            pixels = torch.stack([normalise(resize(whole(p), size).image, self.method.backbone) for p in photos])
            pixels = pixels.to(self.device, memory_format=torch.channels_last)
            for flipped in (False, True)[: 1 + self.settings.flip]:
                with inference_autocast(self.device):
                    images = pixels.flip(-1) if flipped else pixels
                    network = partial(score_maps, self.method)
                    scores = on_canvas(network, images, self.method.backbone.stride, BATCH).float()
                raw, tags = maps_and_logits(self.method, scores)
                logits.append(tags)
                maps.append(raw.flip(-1) if flipped else raw)
        h, w = max((m.shape[-2], m.shape[-1]) for m in maps)
        average = torch.stack([resize_maps(m, (h, w), corners) for m in maps]).mean(dim=0)
        probabilities = torch.stack(logits).mean(dim=0).sigmoid()
        return average.cpu().numpy(), probabilities.cpu().numpy()


def to_class_maps(signed: np.ndarray, classes: tuple[int, ...], tag_probabilities: np.ndarray) -> StoredMaps:
    """Keep `classes` of `(C, h, w)`, rectify, and divide each by its maximum (0 where nothing is positive)."""
    maps = np.maximum(signed[list(classes)], 0)
    peak = maps.max(axis=(1, 2), keepdims=True, initial=0)
    return StoredMaps(classes, maps / np.maximum(peak, 1e-8), tag_probabilities)


def mine(
    miner: Miner,
    samples: tuple[Sample, ...],
    facts: FileFacts,
    folder: Path,
    advance: Advance,
    *,
    with_predicted: bool = False,
) -> MapStore:
    """Store the maps of every photograph's tags, and with `with_predicted` those of the tags the classifier finds.

    Photographs of like size go through the network together. Which ones do depends on the list alone, so that an
    interrupted run that goes on computes the same bits.
    """
    store = MapStore(folder)
    done = len(store)
    for shard in _shards(miner, samples, facts):
        if shard[0][0].name in store:
            continue
        entries: dict[str, StoredMaps] = {}
        for batch, photos in prefetch(lambda b: (b, [read_image(s.image) for s in b]), shard, ahead=1):
            maps, tags = miner(photos)
            for sample, signed, probabilities in zip(batch, maps, tags, strict=True):
                classes = set(sample.tags)
                if with_predicted:
                    classes |= set(np.flatnonzero(probabilities > PRESENT).tolist())
                entries[sample.name] = to_class_maps(signed, tuple(sorted(classes)), probabilities)
            done += len(batch)
            advance(done, "")
        store.write(entries)
    return store


def _shards(miner: Miner, samples: tuple[Sample, ...], facts: FileFacts) -> Iterator[list[list[Sample]]]:
    """Batches of photographs with equal network sizes, gathered into shards of about `SHARD` photographs."""
    groups: dict[tuple, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[tuple(miner.sizes(*facts[sample.name]["size"]))].append(sample)
    shard: list[list[Sample]] = []
    for _, group in sorted(groups.items()):
        for start in range(0, len(group), BATCH):
            shard.append(group[start : start + BATCH])
            if sum(map(len, shard)) >= SHARD:
                yield shard
                shard = []
    if shard:
        yield shard


def maps_at(stored: StoredMaps, size: tuple[int, int], corners: bool) -> np.ndarray:
    """Stored maps interpolated to a photograph's `size` (H, W): `(K, H, W)`."""
    return upsampled(stored.maps, size, corners)


def upsampled(maps: np.ndarray, size: tuple[int, int], corners: bool) -> np.ndarray:
    """`(K, h, w)` float32 interpolated to a photograph's `size` (H, W); K may be 0."""
    if not len(maps):
        return np.zeros((0, *size), dtype=np.float32)
    return resize_maps(torch.from_numpy(maps)[None], size, corners)[0].numpy()
