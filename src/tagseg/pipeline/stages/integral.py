"""Integral attention: where the method has one, a second network learns the cumulative maps of the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tagseg.data.feature_store import FeatureStore
from tagseg.files import file_digest
from tagseg.methods.saved import WEIGHTS, load_saved, save_classifier
from tagseg.pipeline.records import TrainingRecord
from tagseg.pipeline.run import Run, Stage
from tagseg.pipeline.training import Schedule, train
from tagseg.settings import as_ever


def _inputs(run: Run) -> dict[str, Any]:
    own = run.settings.train.successor
    assert own is not None
    return {**run.keys("train"), "settings": own.model_dump(mode="json", exclude=as_ever(own))}


def _work(run: Run, folder: Path) -> TrainingRecord:
    s, own, kind = run.settings, run.settings.train.successor, run.method.successor
    assert own is not None
    assert kind is not None
    schedule = Schedule(own.epochs, own.batch_size, s.seed)
    torch.manual_seed(s.seed + 2)  # other random numbers than those of the first network
    network: Any = kind
    network = network(s.backbone, s.weights, run.data.classes, own, schedule.steps(len(run.training)))
    network.accumulated = run.accumulated()
    if own.frozen:
        # weights that are random are those that the features come from
        network.backbone.load_state_dict(load_saved(run.path / "train").backbone.state_dict())
        views = network.feature_views(run.training, s.seed + 2, FeatureStore(run.path / "frozen"))
    else:
        views = network.training_views(run.training, s.seed + 2)
    epochs = train(network, views, schedule, run.place(folder, "integral"), rests=network.rests)
    save_classifier(
        network, folder, method=s.method, role="successor", teacher=file_digest(run.path / "train" / WEIGHTS)
    )
    return TrainingRecord(epochs=epochs)


STAGE = Stage(
    name="integral",
    record=TrainingRecord,
    inputs=_inputs,
    work=_work,
    wanted=lambda run: run.settings.train.successor is not None,
)
