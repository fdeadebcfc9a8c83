"""Report: everything that the masks of the data set can tell, and one page that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tagseg.files import write_aside, write_json
from tagseg.pipeline.measure import measure
from tagseg.pipeline.records import ReportRecord
from tagseg.pipeline.reporting import gather
from tagseg.pipeline.run import Run, Stage
from tagseg.pipeline.stages.masks import STAGE as MASKS
from tagseg.report.html import write_report

METRICS, PAGE = "metrics.json", "report.html"


def _inputs(run: Run) -> dict[str, Any]:
    return {
        **run.keys("masks", "segment"),
        "evaluation": run.facts.digest(run.data.val),
        "files": run.facts.stamps_digest(run.data.samples),
        "skipped": [problem.text for problem in run.data.problems],
    }


def _work(run: Run, folder: Path) -> ReportRecord:
    cut = run.result(MASKS).record
    metrics = measure(run, folder, cut.background)
    page = gather(run, folder, metrics, cut)
    write_json(run.path / METRICS, metrics.present())
    with write_aside(run.path / PAGE) as aside:
        write_report(aside, page)
    return ReportRecord(metrics=metrics)


STAGE = Stage(name="report", record=ReportRecord, inputs=_inputs, work=_work, outputs=(METRICS, PAGE))
