"""Affinity: where the refinement begins with one that works on class maps, these are spread along the features of the
frozen encoder; or confident labels are made, a network learns from them, and maps walk along what it learnt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tagseg.cores import cpu_count, prefetch
from tagseg.data.dataset import MaskFolder, Sample
from tagseg.data.feature_store import FeatureStore
from tagseg.data.images import read_image, write_mask
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.files import read_json, write_json
from tagseg.masks.refinements import FeatureRefinement, LearntRefinement, refinements
from tagseg.masks.refinements.learnt import LearntSettings
from tagseg.methods.refinements import load_network
from tagseg.methods.refinements.base import AffinityNetwork, Thresholds
from tagseg.networks.precision import default_device
from tagseg.networks.weights import weights_digest
from tagseg.pipeline.masking import choose_background, make_missing, spread_maps
from tagseg.pipeline.mining import SHARD
from tagseg.pipeline.parts import Part, fill, in_parts
from tagseg.pipeline.records import AffinityRecord, EpochRecord
from tagseg.pipeline.run import Run, Stage
from tagseg.pipeline.segmenting import backbone_of
from tagseg.pipeline.settings import FitSettings
from tagseg.pipeline.training import Schedule, save_network, train
from tagseg.progress import Advance
from tagseg.segmentation.encoder import load_encoder, side_by_side

NETWORK, EPOCHS, LABELS, MAPS = "affinity.safetensors", "epochs.json", "labels", "maps"


def choose_thresholds(background: float, settings: LearntSettings) -> Thresholds:
    """Returns the thresholds as set, or IRN's published 0.05 and 0.30 around 0.15, moved to the score that cuts these
    maps."""
    return Thresholds(
        low=max(0.01, background - 0.10) if settings.low == "auto" else settings.low,
        middle=background,
        high=min(0.99, background + 0.15) if settings.high == "auto" else settings.high,
    )


def _refinement(run: Run) -> LearntRefinement:
    found = refinements()[str(run.settings.masks.learnt)]
    assert isinstance(found, LearntRefinement)
    return found


def _inputs(run: Run) -> dict[str, Any]:
    if run.settings.masks.spreads:
        found = _spreading(run)
        settings = run.settings.masks.of(found.name).model_dump(mode="json")
        return {**run.keys("mine", "features"), "refinement": found.name, "settings": settings}
    masks, name = run.settings.masks, _refinement(run).name
    weights = masks.of(name).weights
    return {
        **({"weights": weights_digest(weights)} if weights else {}),
        **run.keys("mine"),
        "refinement": name,
        "background": masks.background,
        "settings": masks.of(name).model_dump(mode="json"),
    }


def _work(run: Run, folder: Path) -> AffinityRecord:
    masks = run.settings.masks
    if masks.spreads:
        _spread(run, folder)
        return AffinityRecord(thresholds={}, epochs=[])
    refinement = _refinement(run)
    background = choose_background(run.class_maps(), run.training, masks)
    thresholds = choose_thresholds(background, masks.of(refinement.name))
    work = _Affinity(run, folder, load_network(refinement), masks.of(refinement.name), thresholds)
    tagged = tuple(sample for sample in run.training if sample.tags)
    work.label(tagged)
    network, epochs = work.train(tagged)
    work.walk(network, run.training)
    return AffinityRecord(thresholds={k: round(v, 4) for k, v in asdict(thresholds).items()}, epochs=epochs)


def _spreading(run: Run) -> FeatureRefinement:
    found = refinements()[run.settings.masks.refine.split("+")[0]]
    assert isinstance(found, FeatureRefinement)
    return found


def _spread(run: Run, folder: Path) -> None:
    """Stores the maps that have been spread, of every photograph of which there are none yet."""
    refinement, samples = _spreading(run), run.training
    work = partial(
        _spread_part, run.class_maps(), run.path / "features", refinement.name, run.settings, folder, samples
    )
    with run.reporter.bar("spread", len(samples), "photographs") as advance:
        in_parts(work, len(samples), run.settings.processes, folder, advance)


def _spread_part(
    before: MapStore,
    features: Path,
    name: str,
    settings: FitSettings,
    folder: Path,
    samples: tuple[Sample, ...],
    *,
    part: Part,
    advance: Advance,
) -> None:
    refinement, own = refinements()[name], settings.masks.of(name)
    assert isinstance(refinement, FeatureRefinement)
    store, grid = FeatureStore(features), load_encoder(settings.encoder).grid

    def work(sample: Sample) -> tuple[Sample, dict[str, StoredMaps]]:
        stored = spread_maps(before.read(sample.name), store, sample.name, refinement, own, grid)
        return sample, {sample.name: stored}

    fill(MapStore(folder / MAPS), samples, SHARD, partial(side_by_side, work), part, advance)


@dataclass(frozen=True)
class _Affinity:
    """The three pieces of work, each of which goes on where it was interrupted.

    kind: the class of the network.
    settings: of the refinement.
    thresholds: between which map values nothing is sure.
    """

    run: Run
    folder: Path
    kind: type[AffinityNetwork]
    settings: Any
    thresholds: Thresholds

    @property
    def labels(self) -> MaskFolder:
        """Where the confident labels lie."""
        return MaskFolder(self.folder / LABELS)

    def label(self, samples: tuple[Sample, ...]) -> None:
        """Writes the confident labels of every photograph that has none yet."""
        work = partial(_label_part, self.run.class_maps(), self.kind, self.thresholds, self.labels, samples)
        with self.run.reporter.bar("labels", len(samples), "photographs") as advance:
            in_parts(work, len(samples), self.run.settings.processes, self.folder, advance)

    def train(self, samples: tuple[Sample, ...]) -> tuple[AffinityNetwork, list[EpochRecord]]:
        """Returns the trained network, and the record of its epochs."""
        s = self.run.settings
        schedule = Schedule(self.settings.epochs, self.settings.batch_size, s.seed)
        torch.manual_seed(s.seed + 2)  # other random numbers than those of the classifier
        name, weights = backbone_of(self.settings, s)
        network = self.kind(name, weights, self.settings, schedule.steps(len(samples)))
        path = self.folder / NETWORK
        if path.exists() and (self.folder / EPOCHS).exists():
            network.load_state_dict(load_file(path))
            return network, [EpochRecord(**epoch) for epoch in read_json(self.folder / EPOCHS)]
        views = network.label_views(samples, s.seed + 2, self.labels)
        epochs = train(network, views, schedule, self.run.place(self.folder, "affinity"))
        write_json(self.folder / EPOCHS, [epoch.present() for epoch in epochs])
        save_network(network, path)
        return network, epochs

    def walk(self, network: AffinityNetwork, samples: tuple[Sample, ...]) -> None:
        """Stores the maps that have walked, of every photograph of which there are none yet."""
        work = partial(_walk_part, self.run.class_maps(), network.cpu(), self.thresholds, self.folder, samples)
        with self.run.reporter.bar("walk", len(samples), "photographs") as advance:
            in_parts(work, len(samples), self.run.settings.processes, self.folder, advance)


def _label_part(
    store: MapStore,
    kind: type[AffinityNetwork],
    thresholds: Thresholds,
    place: MaskFolder,
    samples: tuple[Sample, ...],
    *,
    part: Part,
    advance: Advance,
) -> None:
    def work(sample: Sample) -> None:
        photo = read_image(sample.image)
        maps = store.read(sample.name).at(photo.shape[:2])
        write_mask(place(sample), kind.label(photo, maps, sample.tags, thresholds, threads=1))

    make_missing(place, samples, partial(prefetch, work, threads=cpu_count()), part, advance)


def _walk_part(
    before: MapStore,
    network: AffinityNetwork,
    thresholds: Thresholds,
    folder: Path,
    samples: tuple[Sample, ...],
    *,
    part: Part,
    advance: Advance,
) -> None:
    network.eval().to(default_device(), memory_format=torch.channels_last)
    grid = network.backbone.grid.with_stride(network.stride)

    def walked(missing: list[Sample]) -> Iterator[tuple[Sample, dict[str, StoredMaps]]]:
        for sample, photo in prefetch(lambda s: (s, read_image(s.image)), missing):
            stored = before.read(sample.name)
            if stored.classes:
                maps = network.walk(photo, stored.at(photo.shape[:2]), thresholds)
                stored = StoredMaps(stored.classes, maps, stored.tag_probabilities, grid)
            yield sample, {sample.name: stored}

    fill(MapStore(folder / MAPS), samples, SHARD, walked, part, advance)


STAGE = Stage(
    name="affinity",
    record=AffinityRecord,
    inputs=_inputs,
    work=_work,
    wanted=lambda run: run.settings.masks.learnt is not None or run.settings.masks.spreads,
)
