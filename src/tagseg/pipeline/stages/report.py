"""Report: everything that the masks of the data set can tell, and one page that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tagseg.errors import brief
from tagseg.files import write_aside, write_json, write_text
from tagseg.pipeline.card import CARD, model_card
from tagseg.pipeline.measure import measure
from tagseg.pipeline.records import Metrics, ReportRecord
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
    _write_card(run, metrics)
    return ReportRecord(metrics=metrics)


def _write_card(run: Run, metrics: Metrics) -> None:
    """Puts the network's card beside it; what only tells something never fails a run."""
    try:
        text = model_card(run, metrics)
    except Exception as error:
        run.reporter.say(f"report: the model's card is left out, because it could not be made ({brief(error)})")
        return
    write_text(run.path / "segment" / CARD, text)


STAGE = Stage(name="report", record=ReportRecord, inputs=_inputs, work=_work, outputs=(METRICS, PAGE))
