from pathlib import Path

import pytest

import tagseg
from tagseg.commands import demo as module
from tagseg.data import synthetic


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A small demo whose fit is only noted: `test_fit.py` tests that."""
    calls: list[Path] = []
    monkeypatch.setattr(module, "TRAIN", 2)
    monkeypatch.setattr(module, "VAL", 1)
    monkeypatch.setattr(module, "fit", lambda data, out, **_: calls.append(data))
    return calls


def test_a_drawing_that_was_stopped_goes_on(tmp_path: Path, fitted: list[Path], monkeypatch: pytest.MonkeyPatch):
    write = synthetic.write_mask

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "write_mask", stopped)
    with pytest.raises(KeyboardInterrupt):
        tagseg.demo(tmp_path, quiet=True)
    monkeypatch.setattr(synthetic, "write_mask", write)
    tagseg.demo(tmp_path, quiet=True)
    assert fitted == [tmp_path / "data"]
    assert tagseg.check(tmp_path / "data", quiet=True).problems == ()


def test_a_folder_of_others_is_refused(tmp_path: Path, fitted: list[Path]):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    with pytest.raises(tagseg.BadInput, match="something else"):
        tagseg.demo(tmp_path, quiet=True)
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["thesis.tex"]
    assert fitted == []
