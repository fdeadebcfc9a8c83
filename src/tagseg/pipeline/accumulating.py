"""Cumulative maps as class maps like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Sample
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.masks.rescaling import over_maximum
from tagseg.pipeline.mining import SHARD
from tagseg.progress import Advance


def store_accumulated(
    accumulated: Accumulator, samples: tuple[Sample, ...], num_classes: int, folder: Path, advance: Advance
) -> MapStore:
    """Stores the maps after the last round; each is divided by its maximum. Nobody asked for tags: they are NaN."""
    store, last = MapStore(folder), accumulated.rounds()[-1]
    unknown = np.full(num_classes, np.nan, dtype=np.float32)
    for start in range(0, len(samples), SHARD):
        shard = samples[start : start + SHARD]
        entries: dict[str, StoredMaps] = {}
        for index, sample in enumerate(shard if shard[0].name not in store else (), start):
            maps = over_maximum(accumulated.maps(index, last))
            entries[sample.name] = StoredMaps(sample.tags, maps, unknown, accumulated.grid)
        store.write(entries)  # nothing where it was done before
        advance(start + len(shard), "")
    return store
