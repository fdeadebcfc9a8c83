"""Cumulative maps of a run: where they lie, and how they become class maps like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Sample
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.data.reading import FileFacts
from tagseg.pipeline.mining import SHARD
from tagseg.progress import Advance


def open_accumulator(method: Any, folder: Path, samples: tuple[Sample, ...], facts: FileFacts) -> Accumulator:
    """The cumulative maps that `method` makes, or made, of the training photographs while it learns in `folder`."""
    sizes = [tuple(facts[sample.name]["size"]) for sample in samples]
    return method.accumulator(folder / "accumulated", samples, sizes)


def store_accumulated(
    accumulated: Accumulator, samples: tuple[Sample, ...], num_classes: int, folder: Path, advance: Advance
) -> MapStore:
    """Store the maps after the last round; each is divided by its maximum. Nobody asked for tags: they are NaN."""
    store, last = MapStore(folder), accumulated.rounds()[-1]
    unknown = np.full(num_classes, np.nan, dtype=np.float32)
    for start in range(0, len(samples), SHARD):
        shard = samples[start : start + SHARD]
        entries: dict[str, StoredMaps] = {}
        for index, sample in enumerate(shard if shard[0].name not in store else (), start):
            maps = accumulated.maps(index, last)
            peak = maps.max(axis=(1, 2), keepdims=True, initial=0)
            entries[sample.name] = StoredMaps(sample.tags, maps / np.maximum(peak, 1e-8), unknown)
        store.write(entries)  # nothing where it was done before
        advance(start + len(shard), "")
    return store
