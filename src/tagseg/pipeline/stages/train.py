"""Training: a classifier learns from the tags, and with some methods class maps accumulate while it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tagseg.data.feature_store import FeatureStore
from tagseg.files import file_digest
from tagseg.methods.saved import save_classifier, start_from
from tagseg.methods.table import method_digest
from tagseg.networks.weights import earlier_run, weights_digest
from tagseg.pipeline.records import TrainingRecord
from tagseg.pipeline.run import ACCUMULATED, Run, Stage
from tagseg.pipeline.starting import FOLDER as START
from tagseg.pipeline.starting import KeepStart
from tagseg.pipeline.training import Schedule, train
from tagseg.settings import as_ever


def _inputs(run: Run) -> dict[str, Any]:
    s = run.settings
    inputs: dict[str, Any] = {
        "photographs": run.facts.digest(run.data.train),
        "classes": list(run.data.classes),
        "method": run.method.trained_as or s.method,
        "backbone": s.backbone,
        "weights": weights_digest(s.weights),
        "seed": s.seed,
        "settings": s.train.model_dump(mode="json", exclude={"integral"} | as_ever(s.train)),
    }
    program = method_digest(s.method)
    if program is not None:  # a method of somebody's own, which they may rewrite
        inputs["program"] = program
    if s.data.texts is not None:
        inputs["texts"] = file_digest(Path(s.data.texts))
    if s.train.frozen:
        inputs |= run.keys("frozen")
    if s.train.learns_saliency:
        inputs |= run.keys("saliency")
    return inputs


def _work(run: Run, folder: Path) -> TrainingRecord:
    s, samples = run.settings, run.training
    schedule = Schedule(s.train.epochs, s.train.batch_size, s.seed, s.train.batch_size_at)
    torch.manual_seed(s.seed)
    network: Any = run.method
    network = network(s.backbone, s.weights, run.data.classes, s.train, schedule.steps(len(samples)))
    earlier = earlier_run(s.weights)
    if earlier is not None:
        known = start_from(network, earlier)
        run.reporter.say(f"train: starts from {earlier}, which knows {len(known)} of {len(network.classes)} classes")
    if s.data.texts is not None:
        network.read_texts(Path(s.data.texts), s.weights)
    if network.accumulates:
        sizes = [run.facts[sample.name].size for sample in samples]
        network.accumulated = network.accumulator(folder / ACCUMULATED, samples, sizes)
    if s.train.frozen:
        views = network.feature_views(samples, s.seed, FeatureStore(run.path / "frozen"))
    else:
        views = network.training_views(samples, s.seed)
    begins = network.begins_after_warmup
    watching = [KeepStart(run.path / START, samples, s.mine.side)] if begins else []
    place = run.place(folder, "train")
    must_fall = network.must_fall if getattr(s.train, "stop_runaway", True) else None
    epochs = train(network, views, schedule, place, rests=network.rests, must_fall=must_fall, watching=watching)
    save_classifier(network, folder, method=s.method, role="first")
    if network.accumulates:
        network.accumulated.close()
    return TrainingRecord(epochs=epochs)


STAGE = Stage(name="train", record=TrainingRecord, inputs=_inputs, work=_work)
