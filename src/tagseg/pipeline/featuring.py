"""Photographs to stored features of a frozen network, which is asked once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tagseg.data.dataset import Sample
from tagseg.data.feature_store import FeatureStore
from tagseg.data.images import read_image
from tagseg.data.stored_views import views_to_store
from tagseg.networks.settings import CacheSettings
from tagseg.pipeline.mining import SHARD
from tagseg.pipeline.parts import Part, fill, in_parts
from tagseg.progress import Advance, Reporter
from tagseg.segmentation.encoder import Encoder, side_by_side


def store_features(
    encoder: Callable[[], Encoder[Any]],
    samples: tuple[Sample, ...],
    folder: Path,
    name: str,
    reporter: Reporter,
    settings: CacheSettings,
    processes: int = 1,
) -> FeatureStore:
    """Stores the features of every photograph of which there are none yet.

    Args:
        encoder: makes the frozen network, in every process that works.
        samples: the photographs.
        folder: for the shards; one that is whole stays.
        name: of the work, for the bar.
        reporter: shows the bar.
        settings: which views are stored, and how.
        processes: at most as many work.
    """
    with reporter.bar(name, len(samples), "photographs") as advance:
        work = partial(_store_part, encoder, samples, folder, settings)
        in_parts(work, len(samples), processes, folder, advance)
    return FeatureStore(folder, settings.bits)


def _store_part(
    encoder: Callable[[], Encoder[Any]],
    samples: tuple[Sample, ...],
    folder: Path,
    settings: CacheSettings,
    *,
    part: Part,
    advance: Advance,
) -> None:
    store = FeatureStore(folder, settings.bits)
    if all(sample.name in store for sample in samples):
        return
    network = encoder()

    def work(sample: Sample) -> tuple[Sample, dict[str, np.ndarray]]:
        photo = read_image(sample.image)
        views = views_to_store(sample.name, mirrored=settings.mirrored, parts=settings.parts)
        return sample, {view.name: network(view.of(photo)) for view in views}

    views = 1 + settings.mirrored + settings.parts
    fill(store, samples, -(-SHARD // views), partial(side_by_side, work), part, advance)
