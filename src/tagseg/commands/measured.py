"""What `compare` measures of the class maps of a run: a chain of refinements, and the numbers that it leads to."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from tagseg.cores import cpu_count
from tagseg.data.dataset import Dataset, Sample, read_mask
from tagseg.data.feature_store import FeatureStore
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.errors import BadInput
from tagseg.evaluation.coverage import Coverage
from tagseg.evaluation.iou import Confusion, ThresholdSweep, iou_of_tags
from tagseg.masks.refinements import FeatureRefinement, refinements, steps_of
from tagseg.networks.precision import default_device, trainer_precision
from tagseg.networks.settings import EncoderSettings
from tagseg.pipeline.masking import choose_background, mask_of, refinement_threads, spread_maps
from tagseg.pipeline.records import PremiseRecord
from tagseg.pipeline.settings import MaskSettings, check_sharpening, resolve
from tagseg.progress import Advance
from tagseg.segmentation.encoder import load_encoder, side_by_side


class Numbers(BaseModel):
    """What a chain makes of the class maps of the training photographs.

    background: the score that cuts them, chosen without masks, in 0..1.
    miou: of the masks, percent.
    oracle: the mIoU of the maps before the steps on pixels at the score that masks would have chosen, percent.
    classes: the IoU of every class, percent; None where it has no pixel.
    recall, noise: of the maps before the steps on pixels, cut at half of their maximum, percent, means over classes:
        the share of an object that is covered, and the share of what is covered that is something else (OAA, TPAMI
        2021); None where no class has either.
    """

    model_config = ConfigDict(frozen=True)

    background: float
    miou: float | None
    oracle: float | None
    classes: dict[str, float | None]
    recall: float | None
    noise: float | None


class Measured(BaseModel):
    """A run of a comparison.

    row: its name in the table.
    recipe, settings, seed: what it was.
    updates: optimiser steps.
    seconds: of training.
    machine: what trained it, and how many runs at a time.
    prior: what it has seen beside the tags of these photographs.
    premise: what the method builds on (see `tagseg.pipeline.premise`).
    numbers: of every chain of refinements.
    """

    model_config = ConfigDict(frozen=True)

    row: str
    recipe: str
    settings: dict[str, Any]
    seed: int
    updates: int
    seconds: float
    machine: str
    prior: str
    premise: PremiseRecord
    numbers: dict[str, Numbers]


@dataclass(frozen=True)
class Chain:
    """A chain of refinements that learn nothing.

    name: as `masks.refine` has it.
    settings: of its masks.
    encoder: of the features along which it spreads maps, if it does.
    """

    name: str
    settings: MaskSettings
    encoder: EncoderSettings

    @classmethod
    def of(cls, name: str, given: Mapping[str, Any]) -> Chain:
        """Returns the chain called `name`, with the settings of masks and encoder that are given.

        Raises:
            BadInput: there is none, or it learns.
        """
        own = {key: value for key, value in given.items() if key.split(".")[0] in ("masks", "encoder")}
        chosen = resolve(overrides={**own, "masks.refine": name})
        check_sharpening(name)
        if chosen.masks.saliency:
            raise BadInput("masks.saliency: a comparison cuts all maps by one score; leave it out.")
        return cls(name, chosen.masks, chosen.encoder)

    @property
    def key(self) -> str:
        """Returns what the numbers of the chain depend on."""
        encoder = self.encoder.model_dump_json() if self.spreads else ""
        kept = {"background", "refine", "crf", *steps_of(self.name)} | ({"keep"} if self.settings.keep < 1 else set())
        return f"{self.settings.model_dump_json(include=kept)}{encoder}"

    @property
    def cut_by(self) -> str:
        """Returns what the background score depends on beside the maps: chains that spread them alike share it."""
        first = {steps_of(self.name)[0]} if self.spreads else set()
        encoder = self.encoder.model_dump_json() if self.spreads else ""
        return f"{self.settings.model_dump_json(include={'background', *first})}{encoder}"

    @property
    def spreads(self) -> bool:
        """Returns whether it spreads class maps along the features of the encoder."""
        return self.settings.spreads

    def maps(self, store: MapStore, name: str, features: FeatureStore | None) -> StoredMaps:
        """Returns the class maps of a photograph, spread if the chain spreads them."""
        stored = store.read(name)
        if not self.spreads or features is None:
            return stored
        first = refinements()[steps_of(self.name)[0]]
        assert isinstance(first, FeatureRefinement)
        grid = load_encoder(self.encoder).grid
        return spread_maps(stored, features, name, first, self.settings.of(first.name), grid)

    def background(self, store: MapStore, data: Dataset, features: FeatureStore | None) -> float:
        """Returns the score that cuts the maps, chosen without masks."""
        return choose_background(_Spread(self, store, features), data.train, self.settings)

    def mask(self, store: MapStore, background: float, sample: Sample, features: FeatureStore | None) -> np.ndarray:
        """Returns the mask of a photograph, `(H, W)` uint8."""
        return self.cut(self.maps(store, sample.name, features), background, sample)

    def cut(self, stored: StoredMaps, background: float, sample: Sample) -> np.ndarray:
        """Returns the mask of a photograph by its maps, which are spread already, `(H, W)` uint8."""
        return mask_of(stored, sample, background, self.settings.part(after=False))

    def iou(self, store: MapStore, background: float, sample: Sample, features: FeatureStore | None) -> float:
        """Returns the mean IoU of the tags of a photograph, in 0..1."""
        assert sample.mask is not None
        return iou_of_tags(self.mask(store, background, sample, features), read_mask(sample.mask), sample.tags)

    def measure(
        self,
        store: MapStore,
        samples: Sequence[Sample],
        classes: tuple[str, ...],
        background: float,
        features: FeatureStore | None,
        advance: Advance,
    ) -> Numbers:
        """Returns what the chain makes of the maps of photographs that have masks, cut by a background score."""
        confusion, sweep, coverage = Confusion(len(classes)), ThresholdSweep(len(classes)), Coverage(len(classes))

        def work(sample: Sample) -> tuple[Sample, StoredMaps, np.ndarray, np.ndarray]:
            assert sample.mask is not None
            stored = self.maps(store, sample.name, features)
            return sample, stored, self.cut(stored, background, sample), read_mask(sample.mask)

        found = side_by_side(work, samples, refinement_threads())
        for done, (sample, stored, mask, truth) in enumerate(found, 1):
            confusion.add(mask, truth)
            maps = stored.at(truth.shape)
            sweep.add(maps, sample.tags, truth)
            coverage.add(maps, sample.tags, truth)
            advance(done, "")
        table, covered = confusion.scores().table(classes), coverage.table(classes)
        return Numbers(
            background=round(background, 4),
            miou=table.miou,
            oracle=round(100 * sweep.oracle()[1], 2),
            classes={name: scores.iou for name, scores in table.classes.items()},
            recall=covered.recall,
            noise=covered.noise,
        )


@dataclass(frozen=True)
class _Spread:
    """A store whose maps are spread when they are read."""

    chain: Chain
    store: MapStore
    features: FeatureStore | None

    def read(self, name: str) -> StoredMaps:
        return self.chain.maps(self.store, name, self.features)


def machine_in_words() -> str:
    """Returns the device, its cores, its precision and torch's version."""
    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{name}, {cpu_count()} cores, {trainer_precision(device)}, torch {torch.__version__}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
