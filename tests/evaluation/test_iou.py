import numpy as np
import pytest

from tagseg.evaluation.iou import Confusion, ThresholdSweep
from tagseg.evaluation.tags import mean_average_precision


def test_scores_by_counting():
    rng = np.random.default_rng(0)
    truth, mask = (rng.choice([0, 1, 3, 255], (2, 9, 11)).astype(np.uint8) for _ in range(2))
    confusion = Confusion(4)
    for t, m in zip(truth, mask, strict=True):
        confusion.add(m, t)
    scores = confusion.scores()
    known = truth != 255
    for c in (0, 1, 3):
        hit = ((truth == c) & (mask == c) & known).sum()
        assert scores.iou[c] == pytest.approx(hit / (((truth == c) | (mask == c)) & known).sum())
        assert scores.precision[c] == pytest.approx(hit / ((mask == c) & known).sum())
        assert scores.recall[c] == pytest.approx(hit / (truth == c).sum())
    assert np.isnan(scores.iou[[2, 4]]).all()
    assert scores.miou == pytest.approx(np.mean(scores.iou[[0, 1, 3]]))
    table = scores.table(("a", "b", "c", "d")).model_dump()
    assert table["classes"]["b"] == {"iou": None, "precision": None, "recall": None}
    assert table["miou"] == pytest.approx(100 * scores.miou, abs=0.006)


@pytest.mark.parametrize("score", [0.0, 0.2, 0.5, 1.0])
def test_the_sweep_is_the_argmax_at_every_score(score: float):
    rng = np.random.default_rng(1)
    sweep, direct = ThresholdSweep(5), Confusion(5)
    for classes in ((0, 3), (2,), ()):
        maps = np.round(rng.random((len(classes), 13, 8)) * 255) / 255
        truth = rng.choice([0, 1, 4, 255], (13, 8)).astype(np.uint8)
        sweep.add(maps, classes, truth)
        mask = np.zeros((13, 8), dtype=np.uint8)
        if classes:
            best = np.array(classes)[maps.argmax(axis=0)] + 1
            mask = np.where(maps.max(axis=0) >= score, best, 0)
        direct.add(mask, truth)
    np.testing.assert_array_equal(sweep.at(score).counts, direct.counts)


def test_the_oracle_is_the_best_of_the_curve():
    sweep = ThresholdSweep(1)
    truth = np.array([[1, 1, 0, 0]], dtype=np.uint8)
    sweep.add(np.array([[[0.9, 0.6, 0.4, 0.1]]]), (0,), truth)
    score, miou = sweep.oracle()
    assert 0.4 < score <= 0.6
    assert miou == 1


def test_mean_average_precision():
    tags = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]])
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.7, 0.5], [0.1, 0.9, 0.5]])
    # class 0: hits at rank 1 and 3; class 1: at rank 2; class 2 has none and does not count
    assert mean_average_precision(scores, tags) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
