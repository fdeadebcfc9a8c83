"""Is what a method builds on there? Its premise, measured on the run itself.

OAA, L2G and KTSE make class maps larger, which helps where plain maps are too small; what they learn from is what the
network itself has found, which helps once it has learnt its tags; and what sets in after a warm-up needs a learning
rate that is not gone by then. Where a method loses to plain CAM, one of these is the first thing to look at.

True masks measure recall and noise here, where there are some. They choose nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tagseg.data.dataset import Sample, multi_hot, read_mask
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.errors import BadInput
from tagseg.evaluation.coverage import Coverage
from tagseg.evaluation.tags import mean_average_precision
from tagseg.files import read_json
from tagseg.labels import IGNORE
from tagseg.methods.base import Method
from tagseg.methods.saved import load_saved
from tagseg.networks.precision import default_device
from tagseg.pipeline.records import EpochRecord, PremiseRecord
from tagseg.pipeline.run import Run
from tagseg.pipeline.runaway import losses_of
from tagseg.pipeline.starting import FOLDER, look, looked_at

RECALL, NOISE = (
    45.0,
    45.0,
)  # percent: small maps have less of the one; with more of the other, little is won (docs/experiments/oaa.md)
TAGS, RATE, TRUSTED, SATURATED, UNLEARNT = 80.0, 0.4, 0.5, 0.9, 50.0


def check_premise(run: Run) -> PremiseRecord:
    """Returns what the run's method builds on, and a sentence for everything that is not as it should be."""
    epochs: list[EpochRecord] = run.finished["train"].record.epochs
    found = _start(run) if starts_elsewhere(run.method) else _mined(run)
    rates = [e.rate for e in epochs[run.settings.train.warmup_epochs :] if e.rate is not None]
    terms = (epochs[-1].terms or {}) if epochs else {}
    record = PremiseRecord(
        **found,
        rate=round(float(np.mean(rates)), 3) if rates else None,
        trusted=terms.get("trusted"),
        saturated=terms.get("saturated"),
        disagreement=_disagreement(epochs, run.method.must_fall),
        kept_epoch=next((number for number, epoch in enumerate(epochs, start=1) if epoch.kept), None),
        sentences=[],
    )
    said = sentences(run.settings.method, record, run.method)
    if run.method.begins_after_warmup and record.covered is None:
        said.append(
            "What the method starts from was not kept, for there was no warm-up, or an earlier version of tagseg "
            "trained it."
        )
    return record.model_copy(update={"sentences": said})


def starts_elsewhere(method: type[Method]) -> bool:
    """Returns whether a method builds on class maps that are not those which it gives in the end."""
    return method.enlarges or method.begins_after_warmup or method.starting_maps is not Method.starting_maps


def read_premise(run: Path) -> PremiseRecord:
    """Returns what was found of the premise of a run in this folder.

    Raises:
        BadInput: it is no run, or has no class maps yet.
    """
    place = run / "premise" / "stage.json"
    try:
        return PremiseRecord.model_validate(read_json(place)["values"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{run}: there is no run here that has come to its class maps; finish it with 'tagseg fit'."
        ) from error


def sentences(name: str, found: PremiseRecord, method: type[Method]) -> list[str]:
    """Returns what is wrong with the premise of a method, and how to mend it; nothing where nothing is."""
    said = []
    if found.tags_map is not None and found.tags_map < TAGS:
        said.append(
            f"The network finds only {found.tags_map:.0f} % (mean average precision) of the tags of its own training "
            "photographs: it cannot show where what it does not see is; train for more epochs."
        )
    if found.maps_tags_map is not None and found.maps_tags_map < TAGS:
        said.append(
            f"The network of the class maps finds only {found.maps_tags_map:.0f} % (mean average precision) of the "
            "tags of its own training photographs: it cannot show where what it does not see is; train for more epochs."
        )
    if method.enlarges and found.recall is not None and found.noise is not None:
        enough, clean = found.recall < RECALL, found.noise <= NOISE
        if not (enough and clean):
            covers = f"cover {found.recall:.0f} % of the objects already" if not enough else "are small enough"
            said.append(
                f"{name} makes class maps larger, and those it starts from {covers}; {found.noise:.0f} % of what they "
                "cover is something else, and so will be most of what it adds. Finer cells (train.output_stride=8, a "
                "larger train.side) and more epochs make them smaller; else plain cam is the better method here."
            )
    if found.rate is not None and found.rate < RATE:
        said.append(
            f"After the warm-up the learning rate is {found.rate:.2f} of its start on average, so that what sets in "
            "then is hardly learnt; shorten the warm-up, or train for more epochs."
        )
    if found.trusted is not None and found.trusted < TRUSTED:
        said.append(
            f"Only {100 * found.trusted:.0f} % of the tags are found by the classifier itself in the last epoch, and "
            "only their maps are kept; train for more epochs."
        )
    if found.saturated is not None and found.saturated > SATURATED:
        said.append(
            f"{100 * found.saturated:.0f} % of the affinities are at 0 or 1, where nothing is learnt; lower the "
            "learning rate."
        )
    if found.kept_epoch is not None or (found.disagreement is not None and found.disagreement > 1):
        ratio = found.disagreement
        times = "" if ratio is None else f" (the loss is {ratio:.2f} times what it was then)"
        so = "its maps are worse than those of the warm-up"
        if found.kept_epoch is not None:
            so = f"it was ended; its maps are those of the network after epoch {found.kept_epoch}"
        said.append(
            f"The maps agree less with the labels that are made of them than when these set in{times}: this run has "
            f"run away, and {so}. Take another seed, or let a slower moving average make the labels "
            "(train.teacher_decay=0.99, or more)."
        )
    if found.unlearnt is not None and found.unlearnt > UNLEARNT:
        said.append(
            f"{found.unlearnt:.0f} % of the objects lie where {name} teaches that no class is, and are unlearnt; let "
            "it take less for background (train.background=low, or a smaller train.low)."
        )
    return said


def _disagreement(epochs: list[EpochRecord], term: str | None) -> float | None:
    losses = [] if term is None else losses_of(epochs, term)
    return round(losses[-1] / losses[0], 3) if len(losses) > 1 and losses[0] > 0 else None


def _mined(run: Run) -> dict[str, Any]:
    """By the class maps as they are."""
    store, coverage = run.class_maps(), Coverage(len(run.data.classes))
    scores, tags, areas = [], [], []
    for sample in run.data.train:
        stored = store.read(sample.name)
        scores.append(stored.tag_probabilities)
        tags.append(multi_hot(sample.tags, len(run.data.classes)))
        if not stored.classes:
            continue
        areas.append(_area(stored.maps))
        if sample.mask is not None:
            truth = read_mask(sample.mask)
            coverage.add(stored.at(truth.shape), sample.tags, truth)
    return _numbers(run, coverage, np.array(scores), np.array(tags), areas)


def _start(run: Run) -> dict[str, Any]:
    """By the maps that the method starts from, of photographs at even steps."""
    seen, coverage = _seen(run), Coverage(len(run.data.classes))
    scores, tags, areas, unlearnt = [], [], [], []
    for sample, start, background in seen:
        scores.append(start.tag_probabilities)
        tags.append(multi_hot(sample.tags, len(run.data.classes)))
        areas.append(_area(start.maps))
        if sample.mask is None:
            continue
        truth = read_mask(sample.mask)
        coverage.add(start.at(truth.shape), sample.tags, truth)
        if background is not None:
            empty = start.grid.resize(background[None], truth.shape)[0] >= 0.5
            objects = (truth > 0) & (truth != IGNORE)
            unlearnt.append((int((empty & objects).sum()), int(objects.sum())))
    lost, of = np.sum(unlearnt, axis=0) if unlearnt else (0, 0)
    numbers = _numbers(run, coverage, np.array(scores), np.array(tags), areas)
    if of:
        numbers["unlearnt"] = round(100 * float(lost / of), 2)
    later = _maps_tags(run)
    if later is not None and numbers["tags_map"] is not None and later < numbers["tags_map"] - 1:
        numbers["maps_tags_map"] = later
    return numbers


def _seen(run: Run) -> list[tuple[Sample, StoredMaps, np.ndarray | None]]:
    """What the method starts from: as it was kept at the end of the warm-up, or as the trained network has it."""
    samples, train = looked_at(run.data.train), run.settings.train
    if run.method.begins_after_warmup and train.warmup_epochs < train.epochs:
        start = MapStore(run.path / FOLDER)  # empty where there was no warm-up, and in older runs
        return [(sample, start.read(sample.name), None) for sample in samples if sample.name in start]
    method = load_saved(run.path / "train").eval()
    method.to(default_device(), memory_format=torch.channels_last)
    return [(sample, *look(method, sample, run.settings.mine.side)) for sample in samples]


def _maps_tags(run: Run) -> float | None:
    """The tags that the network of the class maps finds, where it was asked."""
    store, train = run.class_maps(), run.data.train
    scores = np.array([store.read(sample.name).tag_probabilities for sample in train])
    tags = np.array([multi_hot(sample.tags, len(run.data.classes)) for sample in train])
    return _tags_map(scores, tags)


def _tags_map(scores: np.ndarray, tags: np.ndarray) -> float | None:
    """The mean average precision of tags in percent; None where a score or every tag is missing."""
    known = len(scores) > 0 and bool(np.isfinite(scores).all()) and bool(tags.any())
    return round(100 * mean_average_precision(scores, tags), 2) if known else None


def _area(maps: np.ndarray) -> float:
    """What share of a photograph its strongest map covers, cut at half."""
    return float((maps.max(axis=0) >= 0.5).mean())


def _numbers(run: Run, coverage: Coverage, scores: np.ndarray, tags: np.ndarray, areas: list[float]) -> dict[str, Any]:
    table = coverage.table(run.data.classes)
    return {
        "recall": table.recall,
        "noise": table.noise,
        "covered": round(100 * float(np.mean(areas)), 2) if areas else None,
        "tags_map": _tags_map(scores, tags),
    }
