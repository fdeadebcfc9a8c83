"""The notebooks run from their first cell to the last, here on a few pictures."""

import json
import re
import tempfile
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot as plt

matplotlib.use("agg")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
FEW = {"PHOTOGRAPHS": "24", "EPOCHS": "1", "UPDATES": "4", "SEEDS": "(0,)"}


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["comparing-methods", "explaining-a-classifier", "own-photographs"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    first, *others = ["".join(cell["source"]) for cell in cells]
    names, _, values = first.partition(" = ")
    assert len(re.findall(r"\(.*?\)|\d+", values)) == len(names.split(", "))
    few = ", ".join(FEW[name] for name in names.split(", "))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "\n".join([f"{names} = {few}", *others])
    with plt.ioff():
        exec(compile(code, path.name, "exec"), {"__name__": "__main__"})
    plt.close("all")
