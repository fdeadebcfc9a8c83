"""Measuring a finished run with the masks that the data set has for it: on the training photographs the seeds and
the pseudo-masks, on the evaluation photographs the class maps and the segmentation network."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tagseg.cores import prefetch
from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Dataset, MaskFolder, Sample, multi_hot, read_mask
from tagseg.data.images import read_index_png, write_mask
from tagseg.data.map_store import MapStore
from tagseg.data.readers.folder import write_class_names
from tagseg.evaluation.coverage import Coverage
from tagseg.evaluation.iou import Confusion, ThresholdSweep
from tagseg.evaluation.tags import mean_average_precision
from tagseg.pipeline.attributing import mine_part
from tagseg.pipeline.masking import make_missing
from tagseg.pipeline.mining import PRESENT
from tagseg.pipeline.parts import Part, in_parts
from tagseg.pipeline.records import Curve, Metrics, Oracle, RoundCoverage, TrainMetrics, ValMetrics
from tagseg.pipeline.run import Run
from tagseg.progress import Advance
from tagseg.segmentation.model import load
from tagseg.segmentation.settings import PredictSettings


def measure(run: Run, folder: Path, background: float) -> Metrics:
    """Returns everything that can be measured; a part whose masks are missing is left out.

    Args:
        run: with class maps, pseudo-masks and a segmentation network.
        folder: keeps the predictions of the evaluation photographs (or, without any, of the training photographs) in
            `predictions`, by the test protocol, and in `plain`, where that is another; and their class maps in `maps`.
        background: the score that cuts class maps, in 0..1.
    """
    data = run.data
    predictions, plain = MaskFolder(folder / "predictions"), MaskFolder(folder / "plain")
    train = _measure_train(run, background)
    predict_all(run, predictions, run.settings.predict)
    if run.settings.predict.plain or not data.val:
        plain = predictions
    else:
        predict_all(run, plain, PredictSettings(), "plain")
    if not data.val:
        return Metrics(train=train)
    with run.reporter.bar("report", len(data.val), "photographs") as advance:
        maps, given = folder / "maps", (run.classifier(), run.settings.mine, data.val, run.facts)
        work = partial(mine_part, *given, maps, with_predicted=True)
        in_parts(work, len(data.val), run.settings.processes, maps, advance)
    store = MapStore(maps)
    return Metrics(train=train, val=_measure_val(data, store, plain, predictions, background))


def predict_all(run: Run, place: MaskFolder, protocol: PredictSettings, name: str = "predict") -> None:
    """Segments the evaluation photographs (the training ones where there are none) by a test protocol."""
    samples = run.data.val or run.data.train
    work = partial(_predict_part, run.path, protocol, place, samples)
    with run.reporter.bar(name, len(samples), "photographs") as advance:
        in_parts(work, len(samples), run.settings.processes, place.folder, advance)
    write_class_names(place.folder, run.data.classes)


def _predict_part(
    path: Path,
    protocol: PredictSettings,
    place: MaskFolder,
    samples: tuple[Sample, ...],
    *,
    part: Part,
    advance: Advance,
) -> None:
    model = load(path)

    def predicted(missing: list[Sample]) -> Iterator[Path]:
        for sample in missing:
            write_mask(place(sample), model.predict(sample.image, **protocol.model_dump()))
            yield place(sample)

    make_missing(place, samples, predicted, part, advance)


def _measure_train(run: Run, background: float) -> TrainMetrics | None:
    data, store, place = run.data, run.class_maps(), run.pseudo_masks()
    samples = tuple(s for s in data.train if s.mask is not None)
    if not samples:
        return None
    sweep = ThresholdSweep(len(data.classes))
    pseudo, by_hand, corrected = Confusion(len(data.classes)), Confusion(len(data.classes)), run.corrected()
    coverage = Coverage(len(data.classes))

    def load_pair(sample: Sample) -> tuple[Sample, np.ndarray, np.ndarray]:
        return sample, _truth(sample), read_index_png(place(sample))

    for sample, truth, mask in prefetch(load_pair, samples):
        maps = store.read(sample.name).at(truth.shape)
        sweep.add(maps, sample.tags, truth)
        coverage.add(maps, sample.tags, truth)
        (by_hand if sample.name in corrected else pseudo).add(mask, truth)
    oracle, oracle_miou = sweep.oracle()
    scores, curve = sweep.curve(20)
    accumulated = run.accumulated()
    return TrainMetrics(
        photographs=len(samples),
        background=round(background, 4),
        seeds=sweep.at(background).scores().table(data.classes),
        oracle=Oracle(background=oracle, miou=round(100 * oracle_miou, 2)),
        coverage=coverage.table(data.classes),
        curve=Curve(background=scores.tolist(), miou=np.round(100 * curve, 2).tolist()),
        pseudo_masks=pseudo.scores().table(data.classes),
        corrected=len(corrected),
        with_corrections=(pseudo + by_hand).scores().table(data.classes) if corrected else None,
        accumulated=None if accumulated is None else measure_rounds(data, accumulated),
    )


def measure_rounds(data: Dataset, accumulated: Accumulator) -> list[RoundCoverage]:
    """Returns what the cumulative maps of the training photographs cover after every round, cut at half their maximum
    (see `tagseg.evaluation.coverage.Coverage`)."""
    rounds = accumulated.rounds()
    coverages = {number: Coverage(len(data.classes)) for number in rounds}
    with_masks = [(index, sample) for index, sample in enumerate(data.train) if sample.mask is not None]
    for index, sample, truth in prefetch(lambda item: (*item, _truth(item[1])), with_masks):
        for number, coverage in coverages.items():
            maps = accumulated.grid.resize(accumulated.maps(index, number), truth.shape)
            coverage.add(maps, sample.tags, truth)
    return [RoundCoverage(round=n, **dict(coverage.table(data.classes))) for n, coverage in coverages.items()]


def _measure_val(
    data: Dataset, store: MapStore, plain: MaskFolder, predictions: MaskFolder, background: float
) -> ValMetrics:
    size = len(data.classes)
    probabilities = np.stack([store.read(s.name).tag_probabilities for s in data.val])
    tags = np.stack([multi_hot(s.tags, size) for s in data.val])
    tags_map = round(100 * mean_average_precision(probabilities, tags), 2) if tags.any() else None
    samples = tuple(s for s in data.val if s.mask is not None)
    if not samples:
        return ValMetrics(tags_map=tags_map)
    class_maps, with_tags = ThresholdSweep(size), ThresholdSweep(size)
    segmentation, protocol = Confusion(size), Confusion(size)
    for sample, truth in prefetch(lambda s: (s, _truth(s)), samples):
        maps = store.read(sample.name)
        present = tuple(np.flatnonzero(maps.tag_probabilities > PRESENT).tolist())
        for sweep, classes in ((class_maps, present), (with_tags, sample.tags)):
            kept = maps.only(classes)
            sweep.add(kept.at(truth.shape), kept.classes, truth)
        segmentation.add(read_index_png(plain(sample)), truth)
        if plain != predictions:
            protocol.add(read_index_png(predictions(sample)), truth)
    return ValMetrics(
        tags_map=tags_map,
        photographs=len(samples),
        class_maps=class_maps.at(background).scores().table(data.classes),
        class_maps_with_tags=with_tags.at(background).scores().table(data.classes),
        segmentation=segmentation.scores().table(data.classes),
        protocol=None if plain == predictions else protocol.scores().table(data.classes),
    )


def _truth(sample: Sample) -> np.ndarray:
    assert sample.mask is not None
    return read_mask(sample.mask)
