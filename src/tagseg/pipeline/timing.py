"""How much training is: updates, and the time that they take here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tagseg.data.dataset import Dataset
from tagseg.files import read_json
from tagseg.pipeline.fit import fit
from tagseg.pipeline.settings import FitSettings, resolve
from tagseg.settings import TrainSettings

BATCHES = 10  # that a trial sees an epoch
MAPS_ONLY = {"masks.refine": "none", "segment.network": "deeplab"}  # of a run that ends with maps, and prepares no more


def updates_of(settings: TrainSettings, photographs: int, epochs: int | None = None) -> int:
    """Returns how many optimiser steps the training of so many photographs takes, a second network's among them.

    `epochs` is how many the first network was trained for, where that was ended early.
    """
    return settings.steps(photographs, epochs) + (
        0 if settings.successor is None else updates_of(settings.successor, photographs)
    )


def for_updates(recipe: str, settings: dict[str, Any], photographs: int, updates: int) -> dict[str, Any]:
    """Returns settings with as many epochs as so many updates are, at least one; each of two networks has as many."""
    train = resolve(recipe, settings).train
    found = {"train.epochs": _epochs(updates * train.batch_size, photographs)}
    if train.successor is not None:
        found["train.integral.epochs"] = _epochs(updates * train.successor.batch_size, photographs)
    return {**settings, **found}


def for_seconds(recipe: str, settings: dict[str, Any], data: Dataset, seconds: float) -> dict[str, Any]:
    """Returns settings with as many epochs as fit into so many seconds of training, at least one.

    A short training of a few batches is timed first: of a method that warms up, in either phase, and of a method with
    two networks each, which then have half of the time each. What is computed once, as the features of a frozen
    network, is not counted.
    """
    chosen = resolve(recipe, settings)
    count = len(data.train)
    per_photograph = _trial(recipe, settings, chosen, data)
    warmup = getattr(chosen.train, "warmup", 0.0)
    one = warmup * per_photograph["first"] + (1 - warmup) * per_photograph["later"]
    if chosen.train.successor is None:
        return {**settings, "train.epochs": _epochs(seconds / one, count)}
    return {
        **settings,
        "train.epochs": _epochs(seconds / 2 / one, count),
        "train.integral.epochs": _epochs(seconds / 2 / per_photograph["second network"], count),
    }


def _epochs(seen: float, photographs: int) -> int:
    return max(1, round(seen / photographs))


def _trial(recipe: str, settings: dict[str, Any], chosen: FitSettings, data: Dataset) -> dict[str, float]:
    """Seconds a photograph: in the first epoch, in the later ones, and of a second network."""
    count = min(len(data.train), BATCHES * chosen.train.batch_size)
    few = data.without({s.name for s in data.train[count:]} | {s.name for s in data.val})
    short = {**settings, **MAPS_ONLY, "train.epochs": 4}
    if hasattr(chosen.train, "warmup"):
        short["train.warmup"] = 0.5  # two epochs of each phase, the first of which also pays for what is loaded
    if chosen.train.successor is not None:
        short["train.integral.epochs"] = 2
    with tempfile.TemporaryDirectory() as folder:
        fit(few, Path(folder) / "run", recipe=recipe, settings=short, until="integral", skip_bad=True, quiet=True)
        epochs = _seconds(Path(folder) / "run" / "train")
        found = {"first": epochs[1] / count, "later": epochs[-1] / count}
        if chosen.train.successor is not None:
            found["second network"] = _seconds(Path(folder) / "run" / "integral")[1] / count
    return found


def _seconds(stage: Path) -> list[float]:
    return [float(epoch["seconds"]) for epoch in read_json(stage / "stage.json")["values"]["epochs"]]
