"""Mining: class maps of the training photographs, by the classifier, or the cumulative ones as they are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tagseg.pipeline.accumulating import store_accumulated
from tagseg.pipeline.attributing import mine_part
from tagseg.pipeline.parts import in_parts
from tagseg.pipeline.records import MineRecord
from tagseg.pipeline.run import Run, Stage


def _keeps_cumulative(run: Run) -> bool:
    """Whether the maps that grew in training are those of the training photographs."""
    return run.method.accumulates and run.settings.train.successor is None


def _inputs(run: Run) -> dict[str, Any]:
    before = run.keys("integral") or run.keys("train")
    if _keeps_cumulative(run):
        return before
    lowest = {"from": "minimum"} if run.method.from_minimum and run.settings.mine.attribution == "own" else {}
    version = {"maps": run.method.maps_version} if run.method.maps_version > 1 else {}
    return {**before, "settings": run.settings.mine.model_dump(mode="json"), **lowest, **version}


def _work(run: Run, folder: Path) -> MineRecord:
    samples = run.training
    with run.reporter.bar("mine", len(samples), "photographs") as advance:
        accumulated = run.accumulated() if _keeps_cumulative(run) else None
        if accumulated is not None:
            store_accumulated(accumulated, samples, len(run.data.classes), folder, advance)
        else:
            work = partial(mine_part, run.classifier(), run.settings.mine, samples, run.facts, folder)
            in_parts(work, len(samples), run.settings.processes, folder, advance)
    return MineRecord(bytes=sum(f.stat().st_size for f in folder.glob("*.safetensors")))


STAGE = Stage(name="mine", record=MineRecord, inputs=_inputs, work=_work)
