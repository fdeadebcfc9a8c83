from types import SimpleNamespace
from typing import Any

import pytest

from tagseg.evaluation.coverage import CoverageTable
from tagseg.evaluation.iou import ClassScores, ScoreTable
from tagseg.pipeline.records import Curve, MasksRecord, Metrics, MineRecord, Oracle, TrainMetrics
from tagseg.pipeline.reporting import _background, _curves, _line, _tiles
from tagseg.pipeline.run_folder import Finished

TABLE = ScoreTable(
    miou=40.0,
    precision=50.0,
    recall=None,
    classes={
        "background": ClassScores(iou=90.0, precision=None, recall=None),
        "cat": ClassScores(iou=None, precision=None, recall=None),
    },
)
METRICS = Metrics(
    train=TrainMetrics(
        photographs=3,
        background=0.31,
        seeds=TABLE,
        oracle=Oracle(background=0.5, miou=42.5),
        coverage=CoverageTable(recall=None, noise=None, classes={}),
        curve=Curve(background=[0, 1], miou=[10, None]),
        pseudo_masks=TABLE,
    )
)


@pytest.mark.parametrize(("background", "words"), [("auto", "Otsu"), (0.3, "as set")])
def test_the_distance_to_the_oracle_is_said(background: object, words: str):
    masks = SimpleNamespace(background=background, refine="irn+crf", saliency=False)
    run: Any = SimpleNamespace(settings=SimpleNamespace(masks=masks))
    text = _background(run, METRICS, MasksRecord(background=0.31, background_of_masks=0.25))
    assert words in text
    assert "Background score 0.310" in text
    assert "would reach 42.5: 2.5 points more" in text
    assert "Refinement of the pseudo-masks: irn+crf, after which the background score is 0.250." in text


def test_only_what_was_measured_has_a_tile_and_a_curve():
    assert [tile.name for tile in _tiles(METRICS)] == ["Seeds", "Pseudo-masks"]
    assert [chart.title for chart in _curves(METRICS)] == ["Seeds over the background score"]
    assert _tiles(Metrics()) == []
    assert _curves(Metrics()) == []


def test_an_interruption_is_said():
    line = _line("mine", Finished(MineRecord(bytes=2_500_000), "key", 1.0, resumed=True))
    assert line.remark == "since it went on after an interruption; 2.5 MB of class maps"
