import numpy as np

from tagseg.evaluation.coverage import Coverage


def test_by_hand():
    """Six pixels, three of the object: the map covers two of them, one other, and one that is not to be judged."""
    truth = np.array([[2, 2, 2, 0, 0, 255]], dtype=np.uint8)
    maps = np.array([[[0.8, 0.4, 0.1, 0.5, 0.3, 0.8]]])
    coverage = Coverage(2)
    coverage.add(maps, (1,), truth)
    found = coverage.table(("a", "b")).model_dump()
    assert found["classes"]["b"] == {"recall": 66.67, "noise": 33.33}
    assert found["classes"]["a"] == {"recall": None, "noise": None}
    assert (found["recall"], found["noise"]) == (66.67, 33.33)


def test_pixels_of_photographs_add_up_and_classes_are_averaged():
    coverage = Coverage(2)
    for covered in (1, 3):
        values = (np.arange(4) < covered).astype(float)
        coverage.add(values[None, None], (0,), np.array([[1, 1, 1, 1]]))
    coverage.add(np.array([[[1.0, 0.0]]]), (1,), np.array([[0, 2]]))
    found = coverage.table(("a", "b")).model_dump()
    assert found["classes"] == {"a": {"recall": 50, "noise": 0}, "b": {"recall": 0, "noise": 100}}
    assert (found["recall"], found["noise"]) == (25, 50)


def test_an_empty_map_covers_nothing():
    coverage = Coverage(1)
    coverage.add(np.zeros((1, 2, 2)), (0,), np.ones((2, 2)))
    assert coverage.table(("a",)).model_dump() == {
        "recall": 0,
        "noise": None,
        "classes": {"a": {"recall": 0, "noise": None}},
    }
