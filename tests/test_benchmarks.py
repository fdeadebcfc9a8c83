"""Every command that made a number can still be run: what it takes from the library is there."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_every_benchmark_finds_what_it_takes_from_the_library(monkeypatch: pytest.MonkeyPatch):
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert "ktse" in names
    monkeypatch.syspath_prepend(FOLDER)
    for name in names:  # which are nobody else's in this process
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        for name in names:
            assert Path(str(importlib.import_module(name).__file__)).parent == FOLDER
    finally:
        for name in names:
            sys.modules.pop(name, None)
