"""Class maps to pseudo-masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tagseg.cores import cpu_count, prefetch
from tagseg.data.dataset import MaskFolder, Sample, read_saliency
from tagseg.data.feature_store import FeatureStore
from tagseg.data.images import is_whole_png, read_image, read_index_png, write_mask
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.errors import BadInput
from tagseg.grid import Grid
from tagseg.labels import IGNORE
from tagseg.masks.background import histogram, keep_confident, label_mask, otsu_score, with_background
from tagseg.masks.refinements import FeatureRefinement, NamedRefinement
from tagseg.masks.rescaling import on_cells
from tagseg.masks.saliency import ignore_conflicts, oaa_scores
from tagseg.networks.precision import default_device
from tagseg.networks.settings import EncoderSettings
from tagseg.pipeline.parts import Counter, Part
from tagseg.pipeline.settings import MaskSettings
from tagseg.progress import Advance

if TYPE_CHECKING:
    from tagseg.pipeline.run import Run

FINE = 4  # places along a cell of the encoder at which class maps are read


def is_mask(run: Run, path: Path) -> bool:
    """Returns whether a file is a mask of one of the run's photographs: of its size, with numbers of its classes."""
    inside = path.relative_to(run.path).with_suffix("")  # the stage's folder, and the photograph's name
    fact = run.facts.get("/".join(inside.parts[1:]))
    if fact is None or not is_whole_png(path):
        return False
    try:
        mask = read_index_png(path)
    except BadInput:
        return False
    right = (mask <= len(run.data.classes)) | (mask == IGNORE)
    return mask.shape == tuple(fact.size) and bool(right.all())


class Maps(Protocol):
    """What gives the class maps of photographs by name."""

    def read(self, name: str) -> StoredMaps:
        """Returns the maps of one photograph."""
        ...


def choose_background(store: Maps, samples: tuple[Sample, ...], settings: MaskSettings) -> float:
    """Returns the background score: as set, or by the rule of `otsu_score` over the maps of all tagged photographs,
    each photograph counting the same."""
    if settings.background != "auto":
        return float(settings.background)
    total = np.zeros(256)
    for sample in samples:
        if sample.tags:
            counts = histogram(store.read(sample.name).maps)
            total += counts / counts.sum()
    return otsu_score(total) if total.any() else 0.5


def spread_maps(
    stored: StoredMaps,
    features: FeatureStore,
    name: str,
    refinement: FeatureRefinement,
    settings: Any,
    grid: Grid,
) -> StoredMaps:
    """Returns the class maps of a photograph, spread along the features that are stored of it.

    Args:
        stored: its class maps.
        features: of the frozen encoder.
        name: of the photograph.
        refinement: that spreads.
        settings: of the refinement.
        grid: the geometry of the encoder's cells.
    """
    from tagseg.segmentation.encoder import deepest

    if not stored.classes:
        return stored
    values = deepest(features.read(name))
    height, width = values.shape[1:]
    maps = on_cells(stored.at((FINE * height, FINE * width)), (height, width))
    spread = refinement.of_maps or refinement.refine
    return replace(stored, maps=spread(values, maps, settings), grid=grid)


def refine_scores(
    photo: np.ndarray, scores: np.ndarray, settings: MaskSettings, name: str, encoder: EncoderSettings | None = None
) -> np.ndarray:
    """Returns the scores of a photograph after every refinement of `settings.steps`.

    Args:
        photo: `(H, W, 3)` uint8.
        scores: `(K + 1, H, W)`, the background's first.
        settings: the chain and the settings of its refinements.
        name: of the photograph.
        encoder: which frozen network gives features, where a refinement needs some.

    Returns:
        `(K + 1, H, W)`.
    """
    for step in settings.steps:
        given: Any = name if isinstance(step, NamedRefinement) else photo
        if isinstance(step, FeatureRefinement):
            from tagseg.segmentation.encoder import deepest, load_encoder

            given = deepest(load_encoder(encoder or EncoderSettings())(photo))
        scores = step.refine(given, scores, settings.of(step.name))
    return scores


def refinement_threads() -> int:
    """Returns how many photographs are refined at a time: one for each core, or two where a GPU does the work."""
    return 2 if default_device().type == "cuda" else cpu_count()


def mask_of(stored: StoredMaps, sample: Sample, background: float, settings: MaskSettings) -> np.ndarray:
    """Returns the pseudo-mask of a photograph: `(H, W)` uint8, 0 background, class c at c + 1.

    Args:
        stored: its class maps.
        sample: the photograph; with a saliency map, if the settings want the background scored by it.
        background: the background's score, in 0..1.
        settings: how scores are refined.
    """
    photo = read_image(sample.image)
    maps = stored.at(photo.shape[:2])
    if not maps.size:
        return np.zeros(photo.shape[:2], dtype=np.uint8)
    if not settings.saliency:
        scores = refine_scores(photo, with_background(maps, background), settings, sample.name)
        return keep_confident(label_mask(scores, sample.tags), scores, settings.keep)
    saliency = read_saliency(sample, photo.shape[:2]).astype(np.float32) / 255
    scores = refine_scores(photo, oaa_scores(maps, saliency), settings, sample.name)
    mask = keep_confident(label_mask(scores, sample.tags), scores, settings.keep)
    return ignore_conflicts(mask, maps, saliency)


def make_masks(
    store: MapStore,
    samples: tuple[Sample, ...],
    background: float,
    settings: MaskSettings,
    folder: Path,
    *,
    part: Part,
    advance: Advance,
) -> None:
    """Writes the pseudo-mask of every photograph that has none in `folder` yet.

    Args:
        store: the class maps of all photographs.
        samples: the photographs; with saliency maps, if the settings want the background scored by them.
        background: the background's score, in 0..1.
        settings: how scores are refined.
        folder: for the masks.
        part: which photographs are done here.
        advance: is told how many are done.
    """
    place = MaskFolder(folder)

    def work(sample: Sample) -> None:
        write_mask(place(sample), mask_of(store.read(sample.name), sample, background, settings))

    make_missing(place, samples, partial(prefetch, work, threads=refinement_threads()), part, advance)


def make_missing(
    place: MaskFolder,
    samples: Sequence[Sample],
    make: Callable[[list[Sample]], Iterable[Any]],
    part: Part,
    advance: Advance,
) -> None:
    """Makes the masks that are not there yet.

    Args:
        place: where the mask of a photograph lies.
        samples: the photographs.
        make: writes the masks of the photographs that it is given, and yields something for each.
        part: which of them are made here.
        advance: is told how many are done.
    """
    missing = [(number, sample) for number, sample in enumerate(samples) if not place(sample).exists()]
    counter = Counter(len(samples), len(samples) - len(missing), part, advance)
    for _ in make([sample for number, sample in missing if part.takes(number)]):
        counter.add()
