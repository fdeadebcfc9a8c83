"""Measuring a finished run with the masks that the data set has for it: on the training photographs the seeds and
the pseudo-masks, on the evaluation photographs the attention maps and the segmentation network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Dataset, Sample, multi_hot, read_mask
from tagseg.data.images import read_index_png, write_mask
from tagseg.data.loading import prefetch
from tagseg.data.map_store import MapStore
from tagseg.data.reading import FileFacts
from tagseg.evaluation.coverage import Coverage
from tagseg.evaluation.iou import Confusion, ThresholdSweep
from tagseg.evaluation.tags import mean_average_precision
from tagseg.pipeline.masking import MaskFolder
from tagseg.pipeline.mining import PRESENT, Miner, maps_at, mine, upsampled
from tagseg.progress import Reporter
from tagseg.segmentation.model import load


def measure(
    data: Dataset,
    facts: FileFacts,
    miner: Miner,
    run: Path,
    folder: Path,
    background: float,
    reporter: Reporter,
    accumulated: Accumulator | None = None,
) -> dict[str, Any]:
    """Everything that can be measured; a part whose masks are missing is left out.

    `accumulated` are the cumulative maps of the training photographs, where the method makes some.

    Predictions of the evaluation photographs (or, without any, of the training photographs) are kept in
    `folder/predictions`, their maps in `folder/maps`.

    Returns:
        `{"train": {...}, "val": {...}}`; percentages.
    """
    corners = miner.method.backbone.corners
    metrics: dict[str, Any] = {}
    train = tuple(s for s in data.train if s.mask is not None)
    if train:
        metrics["train"] = _measure_train(data, train, MapStore(run / "mine"), run / "masks", background, corners)
        if accumulated is not None:
            metrics["train"]["accumulated"] = measure_rounds(data, accumulated)
    predict_all(data, run, folder / "predictions", reporter)
    if data.val:
        with reporter.bar("report", len(data.val), "photographs") as advance:
            store = mine(miner, data.val, facts, folder / "maps", advance, with_predicted=True)
        metrics["val"] = _measure_val(data, store, folder / "predictions", background, corners)
    return metrics


def predict_all(data: Dataset, run: Path, folder: Path, reporter: Reporter) -> None:
    """Segment the evaluation photographs (the training ones where there are none) as `tagseg predict` would."""
    model = load(run)
    samples = data.val or data.train
    with reporter.bar("predict", len(samples), "photographs") as advance:
        for done, sample in enumerate(samples, start=1):
            path = folder / f"{sample.name}.png"
            if not path.exists():
                write_mask(path, model.predict(sample.image))
            advance(done, "")


def _measure_train(
    data: Dataset, samples: tuple[Sample, ...], store: MapStore, masks: Path, background: float, corners: bool
) -> dict[str, Any]:
    sweep = ThresholdSweep(len(data.classes))
    pseudo = Confusion(len(data.classes))
    coverage = Coverage(len(data.classes))
    place = MaskFolder(masks)

    def load_pair(sample: Sample) -> tuple[Sample, np.ndarray, np.ndarray]:
        return sample, _truth(sample), read_index_png(place(sample))

    for sample, truth, mask in prefetch(load_pair, samples):
        maps = maps_at(store.read(sample.name), truth.shape, corners)
        sweep.add(maps, sample.tags, truth)
        coverage.add(maps, sample.tags, truth)
        pseudo.add(mask, truth)
    oracle, oracle_miou = sweep.oracle()
    scores, curve = sweep.curve(20)
    return {
        "photographs": len(samples),
        "background": round(background, 4),
        "seeds": sweep.at(background).scores().as_dict(data.classes),
        "oracle": {"background": oracle, "miou": round(100 * oracle_miou, 2)},
        "coverage": coverage.as_dict(data.classes),
        "curve": {"background": scores.tolist(), "miou": np.round(100 * curve, 2).tolist()},
        "pseudo_masks": pseudo.scores().as_dict(data.classes),
    }


def measure_rounds(data: Dataset, accumulated: Accumulator) -> list[dict[str, Any]]:
    """What the cumulative maps of the training photographs cover after every round: `round`, and of maps cut at half
    their maximum `recall`, `noise` and both of each class (see `tagseg.evaluation.coverage.Coverage`)."""
    rounds = accumulated.rounds()
    coverages = {number: Coverage(len(data.classes)) for number in rounds}
    with_masks = [(index, sample) for index, sample in enumerate(data.train) if sample.mask is not None]
    for index, sample, truth in prefetch(lambda item: (*item, _truth(item[1])), with_masks):
        for number, coverage in coverages.items():
            maps = accumulated.maps(index, number)
            coverage.add(upsampled(maps, truth.shape, accumulated.corners), sample.tags, truth)
    return [{"round": number, **coverage.as_dict(data.classes)} for number, coverage in coverages.items()]


def _measure_val(data: Dataset, store: MapStore, predictions: Path, background: float, corners: bool) -> dict[str, Any]:
    size = len(data.classes)
    probabilities = np.stack([store.read(s.name).tag_probabilities for s in data.val])
    tags = np.stack([multi_hot(s.tags, size) for s in data.val])
    found: dict[str, Any] = {"tags_map": round(100 * mean_average_precision(probabilities, tags), 2)}
    samples = tuple(s for s in data.val if s.mask is not None)
    if not samples:
        return found
    attention, with_tags, segmentation = ThresholdSweep(size), ThresholdSweep(size), Confusion(size)
    place = MaskFolder(predictions)
    for sample, truth in prefetch(lambda s: (s, _truth(s)), samples):
        maps = store.read(sample.name)
        present = tuple(np.flatnonzero(maps.tag_probabilities > PRESENT).tolist())
        for sweep, classes in ((attention, present), (with_tags, sample.tags)):
            kept = maps.only(classes)
            sweep.add(maps_at(kept, truth.shape, corners), kept.classes, truth)
        segmentation.add(read_index_png(place(sample)), truth)
    return {
        **found,
        "photographs": len(samples),
        "attention": attention.at(background).scores().as_dict(data.classes),
        "attention_with_tags": with_tags.at(background).scores().as_dict(data.classes),
        "segmentation": segmentation.scores().as_dict(data.classes),
    }


def _truth(sample: Sample) -> np.ndarray:
    assert sample.mask is not None
    return read_mask(sample.mask)
