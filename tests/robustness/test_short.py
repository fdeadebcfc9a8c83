"""The short set of what the commands of this folder try."""

from pathlib import Path
from typing import Any

from tests.robustness.damage import WAYS, damage_all
from tests.robustness.inputs import try_all


def test_some_damaged_files(tiny_set: Path, tiny_run: Any, tmp_path: Path):
    found = damage_all(tiny_set, tiny_run.folder, tmp_path, ["flip", "null"], every=12, seed=0)
    assert set(found) <= {"repaired", "told"}, found
    assert sum(map(len, found.values())) > 4
    assert set(WAYS) >= {"flip", "cut", "empty", "gone"}


def test_bad_inputs(tiny_run: Any, tmp_path: Path):
    found = try_all(tiny_run.model, tmp_path)
    assert len(found) > 100
    assert {what: said for what, (clear, said) in found.items() if not clear} == {}
