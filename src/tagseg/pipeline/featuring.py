"""Photographs to stored features of a frozen network, which is asked once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tagseg.data.dataset import Sample
from tagseg.data.feature_store import FeatureStore
from tagseg.data.images import read_image
from tagseg.data.stored_views import views_to_store
from tagseg.networks.settings import CacheSettings
from tagseg.pipeline.mining import SHARD
from tagseg.progress import Reporter
from tagseg.segmentation.encoder import Encoder, side_by_side


def store_features(
    encoder: Encoder[Any],
    samples: tuple[Sample, ...],
    folder: Path,
    name: str,
    reporter: Reporter,
    settings: CacheSettings,
) -> FeatureStore:
    """Stores the features of every photograph of which there are none yet.

    Args:
        encoder: the frozen network.
        samples: the photographs.
        folder: for the shards; one that is whole stays.
        name: of the work, for the bar.
        reporter: shows the bar.
        settings: which views are stored, and how.
    """
    store = FeatureStore(folder, settings.bits)
    missing = [s for s in samples if s.name not in store]

    def work(sample: Sample) -> dict[str, np.ndarray]:
        photo = read_image(sample.image)
        views = views_to_store(sample.name, mirrored=settings.mirrored, parts=settings.parts)
        return {view.name: encoder(view.of(photo)) for view in views}

    entries: dict[str, np.ndarray] = {}
    with reporter.bar(name, len(samples), "photographs") as advance:
        for done, found in enumerate(side_by_side(work, missing), len(samples) - len(missing) + 1):
            entries |= found
            if len(entries) >= SHARD:
                store.write(entries)
                entries = {}
            advance(done, "")
        store.write(entries)
    return store
