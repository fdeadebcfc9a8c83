"""Reference outputs of published implementations, read from the folder named by TAGSEG_GOLDEN."""

import os
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(os.environ.get("TAGSEG_GOLDEN", Path(__file__).parents[2].parent / "shared" / "golden"))


def golden(name: str) -> dict[str, np.ndarray]:
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no reference outputs at {path}; set TAGSEG_GOLDEN")
    with np.load(path) as arrays:
        return dict(arrays)


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Largest absolute difference, relative to the expected array's largest value."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()
