"""Class maps to pseudo-masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagseg.data.dataset import Sample, read_saliency
from tagseg.data.images import read_image, write_mask
from tagseg.data.loading import prefetch
from tagseg.cores import cpu_count
from tagseg.data.map_store import MapStore
from tagseg.masks.background import histogram, label_mask, otsu_score, with_background
from tagseg.masks.crf import refine_crf
from tagseg.masks.par import refine_pamr, refine_par
from tagseg.masks.saliency import ignore_conflicts, oaa_scores
from tagseg.masks.superpixels import refine_superpixels
from tagseg.networks.precision import default_device
from tagseg.pipeline.mining import maps_at
from tagseg.progress import Advance
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


def refine(photo: np.ndarray, scores: np.ndarray, settings: MaskSettings) -> np.ndarray:
    """The scores of a photograph after every refinement of `settings.steps`. `(K + 1, H, W)` -> the same.

    One core does it, where it is not a GPU, so that photographs may go side by side (`refinement_threads`).
    """
    device = default_device()
    threads = 1
    for name in settings.steps:
        if name == "par":
            scores = refine_par(photo, scores, device=device, threads=threads)
        elif name == "pamr":
            scores = refine_pamr(photo, scores, device=device, threads=threads)
        elif name == "crf":
            scores = refine_crf(photo, scores, crf=settings.crf, device=device, threads=threads)
        elif name == "superpixels":
            s = settings.superpixels
            scores = refine_superpixels(photo, scores, kind=s.kind, count=s.count)
    return scores


def refinement_threads() -> int:
    """How many photographs are refined at a time: one for each core, or two where a GPU does the work."""
    return 2 if default_device().type == "cuda" else cpu_count()


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
    place = MaskFolder(folder)
    missing = [s for s in samples if not place(s).exists()]

    def work(sample: Sample) -> None:
        photo = read_image(sample.image)
        maps = maps_at(store.read(sample.name), photo.shape[:2], corners)
        mask = np.zeros(photo.shape[:2], dtype=np.uint8)
        if maps.size and settings.saliency:
            saliency = read_saliency(sample, photo.shape[:2]).astype(np.float32) / 255
            mask = label_mask(refine(photo, oaa_scores(maps, saliency), settings), sample.tags)
            mask = ignore_conflicts(mask, maps, saliency)
        elif maps.size:
            mask = label_mask(refine(photo, with_background(maps, background), settings), sample.tags)
        write_mask(place(sample), mask)

    for done, _ in enumerate(prefetch(work, missing, threads=refinement_threads()), len(samples) - len(missing) + 1):
        advance(done, "")
