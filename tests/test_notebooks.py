"""The notebooks run from their first cell to the last, here on a few pictures."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
FEW = {"PHOTOGRAPHS": "24", "EPOCHS": "1", "UPDATES": "4", "SEEDS": "(0,)"}


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["comparing-methods", "explaining-a-classifier", "own-photographs"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    first, *others = ["".join(cell["source"]) for cell in cells]
    names, _, values = first.partition(" = ")
    assert len(re.findall(r"\(.*?\)|\d+", values)) == len(names.split(", "))
    few = ", ".join(FEW[name] for name in names.split(", "))
    code = "\n".join(["import matplotlib", "matplotlib.use('agg')", f"{names} = {few}", *others])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
