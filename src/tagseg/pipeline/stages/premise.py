"""Premise: whether what the method builds on is there. It is only shown, and nothing that comes later depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tagseg.errors import brief
from tagseg.pipeline.premise import check_premise, starts_elsewhere
from tagseg.pipeline.records import PremiseRecord
from tagseg.pipeline.run import Run, Stage


def _inputs(run: Run) -> dict[str, Any]:
    looks = {"maps": "those it starts from"} if starts_elsewhere(run.method) else {}
    if run.method.begins_after_warmup:
        looks = {"maps": "those that the warm-up led to"}
    return {**run.keys("mine"), "files": run.facts.stamps_digest(run.data.train), **looks}


def _work(run: Run, folder: Path) -> PremiseRecord:
    del folder
    try:
        return check_premise(run)
    except Exception as error:  # what only shows something never fails a run
        return PremiseRecord(sentences=[f"The premise of the method could not be checked ({brief(error)})."])


STAGE = Stage(name="premise", record=PremiseRecord, inputs=_inputs, work=_work)
