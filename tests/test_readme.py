"""README lists what there is: every method, refinement and attribution, with its paper."""

from pathlib import Path

import pytest

from tagseg.explaining.table import ATTRIBUTIONS
from tagseg.masks.refinements import refinements
from tagseg.methods.table import method_names

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
# the names in the first column of a table, and the whole row
ROWS = {name: line for line in LINES if line.startswith("| `") for name in line.split("|")[1].strip().split(", ")}


@pytest.mark.parametrize("name", method_names())
def test_every_method(name: str):
    assert f"`{name}`" in ROWS


@pytest.mark.parametrize("name", refinements())
def test_every_refinement(name: str):
    assert refinements()[name].source in ROWS[f"`{name}`"]


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_every_attribution(name: str):
    assert ATTRIBUTIONS[name].source in ROWS[f"`{name}`"]


def test_the_pages_that_are_named_are_there():
    text = "\n".join(LINES)
    for name in [part.split(")")[0] for part in text.split("](")[1:]]:
        assert (ROOT / name).exists(), name
