"""Run lengths of COCO against pycocotools, bit by bit."""

import numpy as np
import pytest

from tagseg.run_lengths import decode_runs, encode_runs, runs_of


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.1])
@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 70), (211, 340)])
def test_the_same_text_as_pycocotools(size: tuple[int, int], share: float):
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(1).random(size) < share
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_runs(mask) == {"size": list(size), "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(decode_runs(encode_runs(mask)), mask)
    np.testing.assert_array_equal(decode_runs({"size": size, "counts": runs_of(mask)}), mask)


def test_long_runs():
    mask = np.zeros((3000, 2000), dtype=bool)
    mask[1500, 1000] = True
    np.testing.assert_array_equal(decode_runs(encode_runs(mask)), mask)


def test_too_few_pixels():
    with pytest.raises(ValueError, match="run lengths of 3 pixels for 4 x 2"):
        decode_runs({"size": [2, 4], "counts": [3]})
