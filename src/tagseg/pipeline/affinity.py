"""The stage of a trained refinement: confident labels, a network that learns from them, and maps that have walked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tagseg.data.dataset import Sample
from tagseg.files import read_json, write_json
from tagseg.data.images import read_image, write_mask
from tagseg.data.loading import prefetch
from tagseg.cores import cpu_count
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.methods.refinements.base import RefinementSettings, label_views, load_refinement
from tagseg.networks.precision import default_device
from tagseg.pipeline.masking import MaskFolder
from tagseg.pipeline.mining import maps_at
from tagseg.progress import Reporter
from tagseg.pipeline.training import Schedule, save_network, train

SHARD = 64
NETWORK, EPOCHS, LABELS, MAPS = "affinity.safetensors", "epochs.json", "labels", "maps"


@dataclass(frozen=True)
class MapThresholds:
    """Map values between which nothing is sure, and the one that cuts masks."""

    low: float
    middle: float
    high: float


def choose_thresholds(background: float, settings: RefinementSettings) -> MapThresholds:
    """As set, or IRN's published 0.05 and 0.30 around 0.15, moved to the score that cuts these maps."""
    return MapThresholds(
        low=max(0.01, background - 0.10) if settings.low == "auto" else settings.low,
        middle=background,
        high=min(0.99, background + 0.15) if settings.high == "auto" else settings.high,
    )


class AffinityStage:
    """One trained refinement in its folder.

    Args:
        name: file of `tagseg.methods.refinements`.
        settings: its settings.
        backbone, weights: of its network.
        store: the class maps it starts from.
        corners: see `tagseg.pipeline.mining.maps_at`.
    """

    def __init__(
        self, name: str, settings: Any, backbone: str, weights: str, store: MapStore, corners: bool, folder: Path
    ) -> None:
        self.kind = load_refinement(name)
        self.settings, self.backbone, self.weights = settings, backbone, weights
        self.store, self.corners, self.folder = store, corners, folder
        self.labels = MaskFolder(folder / LABELS)

    def run(
        self, samples: tuple[Sample, ...], thresholds: MapThresholds, seed: int, reporter: Reporter
    ) -> list[dict[str, float]]:
        """Labels, training and walk, each going on where it was interrupted; returns the record of the epochs."""
        tagged = tuple(s for s in samples if s.tags)
        self._label(tagged, thresholds, reporter)
        network, epochs = self._train(tagged, seed, reporter)
        self._walk(network, samples, thresholds, reporter)
        return epochs

    def _label(self, samples: tuple[Sample, ...], thresholds: MapThresholds, reporter: Reporter) -> None:
        missing = [s for s in samples if not self.labels(s).exists()]

        def work(sample: Sample) -> None:
            photo = read_image(sample.image)
            maps = maps_at(self.store.read(sample.name), photo.shape[:2], self.corners)
            write_mask(self.labels(sample), self.kind.label(photo, maps, sample.tags, thresholds, threads=1))

        with reporter.bar("labels", len(samples), "photographs") as advance:
            for done, _ in enumerate(prefetch(work, missing, threads=cpu_count()), len(samples) - len(missing) + 1):
                advance(done, "")

    def _train(self, samples: tuple[Sample, ...], seed: int, reporter: Reporter) -> tuple[Any, list[dict[str, float]]]:
        schedule = Schedule(self.settings.epochs, self.settings.batch_size, seed)
        torch.manual_seed(seed + 2)
        network = self.kind(self.backbone, self.weights, self.settings, schedule.steps(len(samples)))
        path = self.folder / NETWORK
        if path.exists():
            network.load_state_dict(load_file(path))
            return network, read_json(self.folder / EPOCHS)
        views = label_views(samples, network.backbone, self.settings, seed + 2, self.labels)
        epochs = train(network, views, schedule, self.folder, "affinity", reporter)
        write_json(self.folder / EPOCHS, epochs)
        save_network(network, path)
        return network, epochs

    def _walk(self, network: Any, samples: tuple[Sample, ...], thresholds: MapThresholds, reporter: Reporter) -> None:
        network.eval().to(default_device(), memory_format=torch.channels_last)
        walked = MapStore(self.folder / MAPS)
        missing = [s for s in samples if s.name not in walked]
        entries: dict[str, StoredMaps] = {}
        with reporter.bar("walk", len(samples), "photographs") as advance:
            for sample, photo in prefetch(lambda s: (s, read_image(s.image)), missing):
                before = self.store.read(sample.name)
                if before.classes:
                    maps = network.walk(photo, maps_at(before, photo.shape[:2], self.corners), thresholds)
                    before = StoredMaps(before.classes, maps, before.tag_probabilities)
                entries[sample.name] = before
                if len(entries) == SHARD:
                    walked.write(entries)
                    entries = {}
                advance(len(walked) + len(entries), "")
            walked.write(entries)
