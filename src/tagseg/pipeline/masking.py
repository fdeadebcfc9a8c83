"""Class maps to pseudo-masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagseg.data.dataset import Sample
from tagseg.data.images import read_image, write_mask
from tagseg.data.loading import prefetch
from tagseg.data.map_store import MapStore
from tagseg.masks.background import histogram, label_mask, otsu_score, with_background
from tagseg.masks.par import refine_par
from tagseg.networks.precision import default_device
from tagseg.pipeline.mining import maps_at
from tagseg.pipeline.progress import Advance
from tagseg.pipeline.settings import MaskSettings


def choose_background(store: MapStore, samples: tuple[Sample, ...], settings: MaskSettings) -> float:
    """The background score: as set, or by the rule of `otsu_score` over the maps of all tagged photographs,
    each photograph counting the same."""
    if settings.background != "auto":
        return float(settings.background)
    total = np.zeros(256)
    for sample in samples:
        if sample.tags:
            counts = histogram(store.read(sample.name).maps)
            total += counts / counts.sum()
    return otsu_score(total) if total.any() else 0.5


@dataclass(frozen=True)
class MaskFolder:
    """Where the pseudo-mask of a photograph lies."""

    folder: Path

    def __call__(self, sample: Sample) -> Path:
        return self.folder / f"{sample.name}.png"


def make_masks(
    store: MapStore,
    samples: tuple[Sample, ...],
    background: float,
    settings: MaskSettings,
    corners: bool,
    folder: Path,
    advance: Advance,
) -> None:
    """Write the pseudo-mask of every photograph that has none in `folder` yet."""
    place, device = MaskFolder(folder), default_device()
    missing = [s for s in samples if not place(s).exists()]
    done = len(samples) - len(missing)
    for sample, photo in prefetch(lambda s: (s, read_image(s.image)), missing):
        maps = maps_at(store.read(sample.name), photo.shape[:2], corners)
        if maps.size:
            scores = with_background(maps, background)
            if settings.refine == "par":
                scores = refine_par(photo, scores, device=device)
            mask = label_mask(scores, sample.tags)
        else:
            mask = np.zeros(photo.shape[:2], dtype=np.uint8)
        write_mask(place(sample), mask)
        done += 1
        advance(done, "")
