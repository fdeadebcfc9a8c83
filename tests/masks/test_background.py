import numpy as np
import pytest

from tagseg.masks.background import histogram, keep_confident, label_mask, otsu_score, with_background


def brute_force(values: np.ndarray) -> float:
    """The split with the least variance within its halves."""

    def within(split: float) -> float:
        low, high = values[values < split], values[values >= split]
        return len(low) * low.var() + len(high) * high.var()

    splits = (np.arange(255) + 0.5) / 255
    splits = np.array([s for s in splits if values.min() < s < values.max()])
    costs = np.array([within(s) for s in splits])
    return float(splits[costs <= costs.min() + 1e-9].mean())


@pytest.mark.parametrize("seed", range(5))
def test_it_is_otsus_split(seed: int):
    rng = np.random.default_rng(seed)
    maps = np.concatenate([rng.beta(2, 8, (1, 30, 20)), rng.beta(6, 3, (1, 30, 20)) * (rng.random((1, 30, 20)) < 0.3)])
    values = np.round(maps.max(axis=0) * 255) / 255
    assert otsu_score(histogram(maps)) == pytest.approx(brute_force(values), abs=1e-6)


def test_two_values_are_split_in_the_middle():
    maps = np.zeros((1, 4, 4))
    maps[0, :2] = 1
    assert otsu_score(histogram(maps)) == pytest.approx(0.5)


def test_labels():
    maps = np.array([[[0.2, 0.6, 0.4]], [[0.1, 0.7, 0.1]]])
    scores = with_background(maps, 0.3)
    assert scores.shape == (3, 1, 3)
    assert label_mask(scores, (4, 9)).tolist() == [[0, 10, 5]]
    assert label_mask(scores, (4, 9)).dtype == np.uint8


def test_the_surest_half_of_every_label_stays():
    scores = np.array([[[0.9, 0.8, 0.1, 0.2, 0.0]], [[0.1, 0.7, 0.9, 0.3, 0.5]], [[0.0, 0.0, 0.0, 0.1, 0.1]]])
    mask = label_mask(scores, (0, 1))
    assert mask.tolist() == [[0, 0, 1, 1, 1]]
    assert keep_confident(mask, scores, 0.5).tolist() == [[0, 255, 1, 255, 255]]  # rounded down
    assert keep_confident(mask, scores, 1.0).tolist() == mask.tolist()
    assert keep_confident(mask[:, :1], scores[:, :, :1], 0.5).tolist() == [[255]]
