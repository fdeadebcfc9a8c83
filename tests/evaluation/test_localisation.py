import numpy as np
import pytest

from tagseg.evaluation.localisation import (
    BestThresholdIoU,
    BoxAccuracy,
    Localisation,
    PixelPrecision,
    box_iou,
    pointing_hit,
)


def test_box_iou_with_exclusive_and_inclusive_ends():
    assert box_iou([[0, 0, 4, 4]], [[2, 0, 6, 4], [4, 4, 8, 8]]).tolist() == [[pytest.approx(8 / 24), 0]]
    assert box_iou([[0, 0, 3, 3]], [[0, 0, 3, 3], [3, 3, 6, 6]], inclusive=True).tolist() == [
        [1, pytest.approx(1 / 31)]
    ]
    assert box_iou([[0, 0, 0, 0]], [[0, 0, 0, 0]]).tolist() == [[0]]


def test_loc1_loc5_and_gt_known():
    found, truth = Localisation(), np.array([[0, 0, 10, 10], [50, 50, 60, 60]])
    found.add((0, 0, 10, 6), truth, rank=0)  # right, class first
    found.add((50, 50, 60, 59), truth, rank=3)  # right, class fourth
    found.add((50, 50, 60, 59), truth, rank=7)  # right, class eighth
    found.add((0, 0, 60, 60), truth, rank=0)  # wrong box
    found.add(None, truth, rank=0)
    assert found.as_dict() == {"loc1": 20, "loc5": 40, "gt_known": 60}
    assert Localisation().as_dict() == {"loc1": None, "loc5": None, "gt_known": None}


def test_box_accuracy_of_a_perfect_and_an_empty_map():
    truth = np.array([[10, 10, 30, 30]])
    perfect, empty = BoxAccuracy(), BoxAccuracy()
    class_map = np.zeros((50, 60), np.float32)
    empty.add(class_map, truth)
    class_map[10:31, 10:31] = 1
    perfect.add(class_map, truth)
    assert perfect.as_dict() == {"MaxBoxAcc": 100, "MaxBoxAccV2": 100}
    assert empty.as_dict() == {"MaxBoxAcc": 0, "MaxBoxAccV2": 0}
    assert BoxAccuracy().as_dict()["MaxBoxAcc"] is None


def test_pixel_average_precision():
    truth = np.array([[True, True, False, False]])
    perfect, flat = PixelPrecision(), PixelPrecision()
    perfect.add(np.array([[0.9, 0.8, 0.2, 0.0]]), truth)
    flat.add(np.array([[0.5, 0.5, 0.5, 0.5]]), truth)
    assert perfect.value() == 100
    assert flat.value() == 50
    flat.add(np.array([[0.5, 0.0]]), np.array([[True, True]]), ignore=np.array([[False, True]]))
    assert flat.value() == 60
    assert PixelPrecision().value() is None


def test_iou_averaged_over_photographs_at_the_best_threshold():
    rng, counter = np.random.default_rng(0), BestThresholdIoU()
    cases = [(rng.random((6, 7)), rng.random((6, 7)) > 0.7, rng.random((6, 7)) > 0.9) for _ in range(4)]
    for case in cases:
        counter.add(*case)
    expected = []
    for threshold in counter.thresholds:
        kept = [((m > threshold)[~i], t[~i]) for m, t, i in cases]
        expected.append(np.mean([(k & t).sum() / (k | t).sum() for k, t in kept]))
    at, value = counter.best()
    assert value == pytest.approx(100 * max(expected), abs=0.01)
    assert at == counter.thresholds[int(np.argmax(expected))]


def test_pointing_game():
    class_map, truth = np.zeros((40, 40)), np.zeros((40, 40), bool)
    class_map[20, 20] = 1
    truth[20, 30] = True
    assert pointing_hit(class_map, truth, tolerance=10)
    assert not pointing_hit(class_map, truth, tolerance=9)
    truth[20, 30], truth[28, 28] = False, True  # within the square, outside the circle
    assert not pointing_hit(class_map, truth, tolerance=10)
    assert not pointing_hit(class_map, np.zeros((40, 40), bool))
