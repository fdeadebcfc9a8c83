import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tagseg.masks.par import pixel_adaptive_refinement, refine_par


def naive(image: np.ndarray, scores: np.ndarray, dilations: tuple[int, ...], iterations: int) -> np.ndarray:
    """The formulas of the paper, pixel by pixel; `(C, H, W)` and `(K, H, W)`."""
    height, width = image.shape[1:]
    offsets = [(d * y, d * x) for d in dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    distances = np.array([np.hypot(*o) for o in offsets])
    position = np.exp(-((distances / distances.std(ddof=1) / 0.3) ** 2))
    for _ in range(iterations):
        refined = np.zeros_like(scores)
        for y in range(height):
            for x in range(width):
                places = [(min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)) for dy, dx in offsets]
                around = np.array([image[:, i, j] for i, j in places])
                deviation = around.std(axis=0, ddof=1) + 1e-8
                colour = -(((around - image[:, y, x]) / deviation / 0.3) ** 2).mean(axis=1)
                weights = np.exp(colour - colour.max())
                weights = weights / weights.sum() + 0.01 * position / position.sum()
                refined[:, y, x] = sum(w * scores[:, i, j] for w, (i, j) in zip(weights / 1.01, places, strict=True))
        scores = refined
    return scores


def test_it_is_the_formula():
    rng = np.random.default_rng(0)
    image, scores = rng.random((3, 7, 9)), rng.random((2, 7, 9))
    found = pixel_adaptive_refinement(
        torch.from_numpy(image)[None], torch.from_numpy(scores)[None], iterations=2, dilations=(1, 2)
    )
    np.testing.assert_allclose(found[0].numpy(), naive(image, scores, (1, 2), 2), rtol=1e-6)


@pytest.mark.parametrize("size", [(5, 300), (31, 47), (300, 201)])
def test_sums_stay_and_shape_stays(size: tuple[int, int]):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    scores = rng.random((3, *size)).astype(np.float32)
    scores /= scores.sum(axis=0)
    refined = refine_par(image, scores)
    assert refined.shape == scores.shape
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-4)


def test_scores_spread_over_one_colour_and_stop_at_its_edge():
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[:, 20:] = 255
    scores = np.full((2, 40, 40), 0.3, dtype=np.float32)
    scores[1] = 0
    scores[1, :, 24:36] = 1  # the object, found in part
    refined = refine_par(image, scores)
    assert (refined[1, :, 20:24] > 0.3).all()
    assert (refined[1, :, :20] < 0.05).all()


SCRIPT = """
import hashlib, numpy as np
from tagseg.masks.par import refine_par
rng = np.random.default_rng(0)
photo, scores = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8), rng.random((4, 60, 80)).astype(np.float32)
print([hashlib.md5(refine_par(photo, scores, threads=t).tobytes()).hexdigest() for t in (None, 1)])
"""


def test_the_first_run_on_a_machine_gives_the_bits_of_the_second(tmp_path: Path):
    """Kernels that are compiled, and kernels that were compiled before."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "2"}
    call = [sys.executable, "-c", SCRIPT]
    first, second = (subprocess.run(call, env=environment, capture_output=True, text=True).stdout for _ in range(2))
    assert first
    assert first == second
