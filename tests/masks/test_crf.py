from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from tagseg.errors import BadInput
from tagseg.masks.crf import crf_from_labels, crf_mask, dense_crf, dense_crf_torch, refine_crf
from tagseg.masks.crf_parameters import CRF, CRFS
from tagseg.masks.permutohedral import bilateral_features


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Two colours, a little noise."""
    image = np.random.default_rng(seed).integers(90, 110, (height, width, 3))
    image[:, width // 2 :] += 100
    return image.astype(np.uint8)


def probabilities(labels: int, height: int, width: int, seed: int = 1) -> np.ndarray:
    values = np.random.default_rng(seed).random((labels, height, width)).astype(np.float32) + 0.1
    return values / values.sum(axis=0)


def exact(image: np.ndarray, start: np.ndarray, crf: CRF) -> np.ndarray:
    """Mean field with the kernels themselves, every pair of pixels."""
    labels, height, width = start.shape

    def kernel(features: np.ndarray) -> np.ndarray:
        distance = ((features[:, None].astype(np.float64) - features[None]) ** 2).sum(axis=-1)
        matrix = np.exp(-distance / 2)
        norm = 1 / np.sqrt(matrix.sum(axis=1))
        return norm[:, None] * matrix * norm[None]

    y, x = np.mgrid[:height, :width]
    position = np.stack([x.ravel(), y.ravel()], axis=1)
    smooth = kernel(position / crf.gaussian_xy)
    edges = kernel(bilateral_features(image, crf.bilateral_xy, crf.bilateral_rgb))
    unary = -np.log(np.clip(start, 1e-5, 1)).reshape(labels, -1).T
    belief = np.exp(-unary) / np.exp(-unary).sum(axis=1, keepdims=True)
    for _ in range(crf.iterations):
        energy = crf.gaussian_weight * smooth @ belief + crf.bilateral_weight * edges @ belief - unary
        belief = np.exp(energy - energy.max(axis=1, keepdims=True))
        belief /= belief.sum(axis=1, keepdims=True)
    return belief.T.reshape(start.shape)


@pytest.mark.parametrize("name", ["psa", "deeplab", "toco"])
def test_it_is_close_to_the_exact_filter(name: str):
    image = cv2.GaussianBlur(photo(32, 32), (5, 5), 1)
    start = np.stack([cv2.resize(p, (32, 32), interpolation=cv2.INTER_CUBIC) for p in probabilities(3, 5, 5)])
    start = np.exp(5 * start) / np.exp(5 * start).sum(axis=0)
    found, wanted = dense_crf(image, start, name), exact(image, start, CRFS[name])
    assert (found.argmax(axis=0) == wanted.argmax(axis=0)).mean() >= 0.95
    assert np.abs(found - wanted).mean() < 0.04


@pytest.mark.parametrize("labels", [2, 3, 5, 6, 9, 21])
def test_all_builds_agree_for_any_number_of_labels(labels: int):
    image, start = photo(41, 53), probabilities(labels, 41, 53)
    everywhere = dense_crf(image, start, "irn-label")
    np.testing.assert_allclose(everywhere.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(dense_crf(image, start, "irn-label", threads=1), everywhere, atol=1e-4)
    in_torch = dense_crf_torch(image, -np.log(np.clip(start, 1e-5, 1)), CRFS["irn-label"], "cpu")
    np.testing.assert_allclose(in_torch, everywhere, atol=2e-3)


def test_labels_that_follow_the_edge_win():
    image = photo(40, 60)
    start = np.full((2, 40, 60), 0.5, np.float32)
    start[0, 5:15, 5:10], start[1, 25:35, 50:55] = 0.9, 0.9
    start[1] = np.where(start[0] == 0.9, 0.1, start[1])
    start[0] = np.where(start[1] == 0.9, 0.1, start[0])
    mask = dense_crf(image, start, "psa").argmax(axis=0)
    assert (mask[:, :30] == 0).all()
    assert (mask[:, 30:] == 1).all()


def test_hard_labels_and_unknown_pixels():
    image = photo(40, 60)
    labels = np.full((40, 60), 255)
    labels[:, :15], labels[:, 45:] = 0, 1
    found = crf_from_labels(image, labels, 2)
    assert (found.argmax(axis=0) == (np.arange(60) >= 30)).all()
    scores = np.stack([labels == 0, labels == 1]).astype(np.float32)
    assert refine_crf(image, scores, crf="irn-label").shape == (2, 40, 60)
    assert (crf_from_labels(image, np.zeros((40, 60), int), 1) == 1).all()
    with pytest.raises(BadInput, match=r"labels must be 0\.\.1"):
        crf_from_labels(image, np.full((40, 60), 2), 2)


def test_labels_that_cannot_be_there_are_left_out():
    image, start = photo(20, 30), np.zeros((200, 20, 30), np.float32)
    start[[0, 150]] = probabilities(2, 20, 30)
    assert set(np.unique(crf_mask(image, start))) <= {0, 150}


def test_small_and_grey_and_lone_inputs_have_answers():
    for size in ((1, 1), (1, 7), (2, 1)):
        found = dense_crf(photo(*size), probabilities(3, *size), "psa")
        assert found.shape == (3, *size)
        assert np.isfinite(found).all()
    grey = photo(20, 30)[..., 0]
    found = dense_crf(grey, probabilities(2, 20, 30))
    np.testing.assert_array_equal(found, dense_crf(np.repeat(grey[..., None], 3, 2), probabilities(2, 20, 30)))
    assert (dense_crf(photo(20, 30), np.full((1, 20, 30), 0.2, np.float32)) == 1).all()


@pytest.mark.parametrize(
    ("image", "scores", "message"),
    [
        (photo(20, 30), probabilities(2, 20, 31), "resize them"),
        (photo(20, 30), np.full((2, 20, 30), np.nan, np.float32), "1200 scores are not finite"),
        (photo(20, 30), -probabilities(2, 20, 30), "wants probabilities"),
        (photo(20, 30).astype(np.float32), probabilities(2, 20, 30), "uint8"),
        (photo(20, 30), np.zeros((0, 20, 30), np.float32), "there are no scores"),
    ],
)
def test_bad_input_is_told(image: np.ndarray, scores: np.ndarray, message: str):
    with pytest.raises(BadInput, match=message):
        dense_crf(image, scores)


def test_several_threads_may_call_at_once():
    image, start = photo(60, 70), probabilities(3, 60, 70)
    alone = dense_crf(image, start, threads=1)
    for threads in (1, None):
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: dense_crf(image, start, threads=threads), range(8)))  # noqa: B023
        for result in results:
            np.testing.assert_allclose(result, alone, atol=1e-4)


def test_unknown_parameters_name_the_nearest():
    with pytest.raises(BadInput, match="deeplab"):
        dense_crf(photo(8, 8), probabilities(2, 8, 8), "deeplap")
