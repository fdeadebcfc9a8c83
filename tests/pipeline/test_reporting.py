import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tagseg
from tagseg.evaluation.coverage import CoverageTable
from tagseg.evaluation.iou import ClassScores, ScoreTable
from tagseg.pipeline.records import Curve, MasksRecord, Metrics, MineRecord, Oracle, TrainMetrics
from tagseg.pipeline.reporting import _background, _curves, _line, _tiles
from tagseg.pipeline.run_folder import Finished
from tests.conftest import TINY
from tests.data.trees import mask, photo

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


@pytest.mark.parametrize(
    "rows",
    [
        [("a", "$x$ $$y"), ("b", "\\frac{"), ("c", "$x$ $$y"), ("d", "<script>")],
        [("a", "cat"), ("b", "cat"), ("c", "dog"), ("d", "")],
        [("a", "cat"), ("b", "cat"), ("c", "cat"), ("d", "dog")],
        [("é" * 115, "cat"), ("b&<i>", "dog"), ("c", "dog"), ("x" * 236, "cat")],
    ],
    ids=["formulas", "untagged", "only in val", "long names"],
)
def test_odd_data_end_in_a_report(tmp_path: Path, rows: list[tuple[str, str]]):
    for number, (name, _) in enumerate(rows):
        photo(tmp_path / "data" / "images" / f"{name}.png", size=(48, 64), seed=number)
        mask(tmp_path / "data" / "masks" / f"{name}.png", [0, 1], size=(48, 64))
    lines = "".join(f'"{name}","{label}"\n' for name, label in rows)
    (tmp_path / "data" / "labels.csv").write_text(f"image,labels\n{lines}", encoding="utf-8")
    (tmp_path / "data" / "val.txt").write_text(rows[-1][0] + "\n", encoding="utf-8")
    found = tagseg.fit(tmp_path / "data", tmp_path / "run", recipe="cam", settings=TINY, quiet=True)
    assert found.report is not None
    assert "IoU" in found.report.read_text(encoding="utf-8")
    json.loads((tmp_path / "run" / "metrics.json").read_text(), parse_constant=lambda word: pytest.fail(word))


def test_what_cannot_be_shown_is_left_out_and_said(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import tagseg.pipeline.reporting as module

    def fail(*_: object) -> None:
        raise RuntimeError("no ink")

    for part in ("_remarks", "_losses", "_gallery"):
        monkeypatch.setattr(module, part, fail)
    found = tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=TINY)
    said = "".join(capsys.readouterr())
    for part in ("remarks", "charts", "gallery"):
        assert f"report: the {part} are left out" in said
    assert found.report is not None
    assert found.report.exists()
