"""Segments of other tools: the rule of the largest overlap, and the files they come in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tagseg.errors import BadInput
from tagseg.masks.segments import label_segments, read_segments, refine_by_segments


def box(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((10, 12), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_segment_takes_the_class_that_it_overlaps_most():
    labels = np.zeros((10, 12), dtype=np.uint8)
    labels[2:6, 2:6] = 1
    found = label_segments(labels, [box(2, 7, 2, 7)])  # 16 of its 25 pixels
    np.testing.assert_array_equal(found, box(2, 7, 2, 7))


def test_a_large_segment_counts_if_it_holds_almost_all_of_a_label():
    labels = np.where(box(2, 4, 2, 4), 2, 0)
    assert (label_segments(labels, [box(0, 5, 0, 5)]) == 2).sum() == 25  # 4 of 25, but all of the label
    labels[9, 9:12] = 2
    np.testing.assert_array_equal(label_segments(labels, [box(0, 5, 0, 5)]), labels)  # 4 of 7: left as it was


def test_small_segments_lie_over_large_ones():
    labels = np.where(box(0, 6, 0, 6), 1, 0)
    labels[0:2, 0:2] = 3
    found = label_segments(labels, [box(0, 2, 0, 2), box(0, 6, 0, 6)])
    assert (found[:2, :2] == 3).all()
    assert (found == 1).sum() == 32


def test_scores_of_one_and_zero():
    scores = np.zeros((2, 10, 12), dtype=np.float32)
    scores[0], scores[1, 2:6, 2:6] = 0.3, 0.9
    found = refine_by_segments(scores, [box(2, 7, 2, 7)])
    np.testing.assert_array_equal(found[1], box(2, 7, 2, 7))
    np.testing.assert_array_equal(found.sum(axis=0), 1)


def test_numbers_in_a_png(tmp_path: Path):
    numbers = (box(0, 3, 0, 3) * 300 + box(5, 9, 5, 9) * 7).astype(np.uint16)
    Image.fromarray(numbers).save(tmp_path / "a.png")
    small, large = read_segments(tmp_path, "a", (10, 12))
    np.testing.assert_array_equal(small, box(5, 9, 5, 9))
    np.testing.assert_array_equal(large, box(0, 3, 0, 3))


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_of_coco(tmp_path: Path, compressed: bool):
    coco = pytest.importorskip("pycocotools.mask")
    masks = [np.random.default_rng(n).random((10, 12)) < share for n, share in enumerate((0.1, 0.5, 1.1))]
    entries: list[Any] = []
    for mask in masks:
        encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        counts: Any = encoded["counts"].decode()
        if not compressed:
            flat = np.concatenate([[False], mask.T.ravel(), [~mask.T.ravel()[-1]]])
            edges = np.flatnonzero(flat[1:] != flat[:-1])
            counts = np.diff([0, *edges]).tolist()
        entries.append({"segmentation": {"size": [10, 12], "counts": counts}})
    (tmp_path / "a.json").write_text(json.dumps(entries if compressed else {"annotations": entries}))
    for found, mask in zip(read_segments(tmp_path, "a", (10, 12)), masks, strict=True):
        np.testing.assert_array_equal(found, mask)


def test_bad_segments_are_told(tmp_path: Path):
    with pytest.raises(BadInput, match="no segments"):
        read_segments(tmp_path, "a", (10, 12))
    (tmp_path / "a.json").write_text('[{"segmentation": {"size": [10, 12], "counts": [3]}}]')
    with pytest.raises(BadInput, match="run lengths"):
        read_segments(tmp_path, "a", (10, 12))
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(BadInput, match="5 x 5"):
        read_segments(tmp_path, "b", (10, 12))
    Image.fromarray(np.full((10, 12, 3), (1, 2, 3), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(BadInput, match="one number per pixel"):
        read_segments(tmp_path, "c", (10, 12))
