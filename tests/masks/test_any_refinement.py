"""What every refinement of a photograph and its scores owes its users."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tagseg.errors import BadInput
from tagseg.masks.crf import refine_crf
from tagseg.masks.par import refine_pamr, refine_par
from tagseg.masks.superpixels import refine_superpixels

Refinement = Callable[..., np.ndarray]
ALL: dict[str, Refinement] = {
    "par": refine_par,
    "pamr": refine_pamr,
    "crf": refine_crf,
    "crf of labels": lambda image, scores: refine_crf(image, scores, crf="irn-label"),
    "superpixels": refine_superpixels,
    "felzenszwalb": lambda image, scores: refine_superpixels(image, scores, kind="felzenszwalb"),
}
each = pytest.mark.parametrize("refine", ALL.values(), ids=ALL.keys())


def photo(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)


def scores(*size: int) -> np.ndarray:
    return np.random.default_rng(1).random(size).astype(np.float32)


@each
@pytest.mark.parametrize("size", [(30, 41), (1, 1), (1, 50), (700, 3)])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_size_and_number_of_classes(refine: Refinement, size: tuple[int, int], channels: int):
    found = refine(photo(*size, 3), scores(channels, *size))
    assert found.shape == (channels, *size)
    assert np.isfinite(found).all()
    assert found.min() >= 0


@each
def test_grey_photographs(refine: Refinement):
    grey, rough = photo(30, 41), scores(2, 30, 41)
    np.testing.assert_allclose(refine(grey, rough), refine(np.repeat(grey[..., None], 3, axis=2), rough))


@each
def test_a_photograph_of_one_colour_stays_finite(refine: Refinement):
    assert np.isfinite(refine(np.full((30, 41, 3), 9, np.uint8), scores(2, 30, 41))).all()


@each
@pytest.mark.parametrize(
    ("image", "rough", "message"),
    [
        (photo(30, 41, 3), scores(2, 41, 30), "resize"),
        (photo(30, 41, 3), scores(30, 41), "resize"),
        (photo(30, 41, 3), np.where(scores(2, 30, 41) > 0.5, np.nan, 0), "not finite"),
        (photo(30, 41, 3).astype(float), scores(2, 30, 41), "uint8"),
        (photo(30, 41, 4), scores(2, 30, 41), "uint8"),
    ],
)
def test_bad_input_is_told(refine: Refinement, image: np.ndarray, rough: np.ndarray, message: str):
    with pytest.raises(BadInput, match=message):
        refine(image, rough)


@each
def test_the_scores_given_are_not_changed(refine: Refinement):
    image, rough = photo(30, 41, 3), scores(3, 30, 41)
    before: Any = (image.copy(), rough.copy())
    refine(image, rough)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(rough, before[1])
