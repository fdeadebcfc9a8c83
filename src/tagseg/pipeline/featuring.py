"""Photographs to stored features of a frozen network, which is asked once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from tagseg.data.dataset import Sample
from tagseg.data.feature_store import FeatureStore
from tagseg.data.feature_views import MIRRORED
from tagseg.data.images import read_image
from tagseg.pipeline.mining import SHARD
from tagseg.progress import Reporter
from tagseg.segmentation.encoder import Encoder, side_by_side


def store_features(
    encoder: Encoder[Any],
    samples: tuple[Sample, ...],
    folder: Path,
    name: str,
    reporter: Reporter,
    *,
    bits: Literal[8, 16] = 8,
    mirrored: bool = False,
) -> FeatureStore:
    """Stores the features of every photograph of which there are none yet.

    Args:
        encoder: the frozen network.
        samples: the photographs.
        folder: for the shards; one that is whole stays.
        name: of the work, for the bar.
        reporter: shows the bar.
        bits: of a stored number.
        mirrored: whether those of the mirror images are stored too.
    """
    store = FeatureStore(folder, bits)
    missing = [s for s in samples if s.name not in store]

    def work(sample: Sample) -> tuple[str, list[np.ndarray]]:
        photo = read_image(sample.image)
        return sample.name, [encoder(photo, flip=flip) for flip in (False, True)[: 1 + mirrored]]

    entries: dict[str, np.ndarray] = {}
    with reporter.bar(name, len(samples), "photographs") as advance:
        for done, (found, features) in enumerate(side_by_side(work, missing), len(samples) - len(missing) + 1):
            entries |= dict(zip((found, found + MIRRORED), features, strict=False))
            if len(entries) >= SHARD:
                store.write(entries)
                entries = {}
            advance(done, "")
        store.write(entries)
    return store
