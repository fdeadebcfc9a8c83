"""Saliency: where something uses it, every training photograph gets a saliency map, given or made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tagseg.pipeline.records import SaliencyRecord
from tagseg.pipeline.run import Run, Stage
from tagseg.pipeline.saliency import find_source, from_folder, make_saliency, maps_digest


def _inputs(run: Run) -> dict[str, Any]:
    source = find_source(run.settings.data.saliency)
    given = from_folder(run.data, source).train
    return {
        "photographs": run.facts.digest(run.data.train),
        "source": source,
        "maps": maps_digest(given, source),
    }


def _work(run: Run, folder: Path) -> SaliencyRecord:
    s, processes = run.settings.data, run.settings.processes
    samples = from_folder(run.data, s.saliency).train
    made = make_saliency(samples, s.saliency, folder, run.reporter, program=s.saliency_program, processes=processes)
    return SaliencyRecord(made=made)


STAGE = Stage(
    name="saliency",
    record=SaliencyRecord,
    inputs=_inputs,
    work=_work,
    wanted=lambda run: run.uses_saliency,
)
