"""Two runs on one page."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import tagseg
from tagseg.data.images import read_index_png, write_mask
from tagseg.files import read_json, write_json


def test_numbers_differences_and_photographs_of_both(tiny_run: Any, tmp_path: Path):
    other = Path(shutil.copytree(tiny_run.folder, tmp_path / "other"))
    stage = read_json(other / "segment" / "stage.json")
    stage["inputs"]["settings"]["epochs"] = 77
    write_json(other / "segment" / "stage.json", stage)
    page = tagseg.report_on(tiny_run.folder, other, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "segment.settings.epochs: 2 in run, 77 in other." in page
    assert page.count("<figure>") == 4 * 4  # photograph, two predictions and truth
    assert "pseudo-masks, run" in page
    assert "pseudo-masks, other" in page
    assert "<h2>Curves</h2>" not in page
    assert 'src="http' not in page


def test_where_one_gains(tiny_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tagseg.commands.report.SHOWN", 1)
    other = Path(shutil.copytree(tiny_run.folder, tmp_path / "other"))
    place = sorted((other / "report" / "predictions").glob("*.png"))[0]
    write_mask(place, read_index_png(place) * 0)
    page = tagseg.report_on(tiny_run.folder, other, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Where other gains most (chosen with masks)" in page


def test_runs_that_do_not_go_together(tiny_run: Any, tmp_path: Path):
    other = Path(shutil.copytree(tiny_run.folder, tmp_path / "other"))
    marker = read_json(other / "run.json")
    write_json(other / "run.json", {**marker, "data": str(tmp_path)})
    with pytest.raises(tagseg.BadInput, match="compare runs on the same"):
        tagseg.report_on(tiny_run.folder, other, tmp_path / "page.html")
    (other / "metrics.json").unlink()
    with pytest.raises(tagseg.BadInput, match="no finished run"):
        tagseg.report_on(tiny_run.folder, other, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
