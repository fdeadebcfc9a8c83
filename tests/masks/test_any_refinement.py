"""What every refinement of the table owes its users, whichever it is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tagseg.errors import BadInput
from tagseg.masks.refinements import (
    FeatureRefinement,
    LearntRefinement,
    Refinement,
    TaughtRefinement,
    check_chain,
    learnt_names,
    refinements,
    sharpening_names,
)
from tagseg.masks.refinements.learnt import LearntSettings
from tagseg.masks.refinements.superpixels import SuperpixelSettings
from tagseg.methods.refinements import load_network
from tagseg.pipeline.settings import MaskSettings, resolve

Refine = Callable[[np.ndarray, np.ndarray], np.ndarray]


def with_settings(name: str, settings: Any) -> Refine:
    found = refinements()[name]
    assert isinstance(found, Refinement)
    return lambda image, scores: found.refine(image, scores, settings)


ALL: dict[str, Refine] = {
    **{name: with_settings(name, r.default) for name, r in refinements().items() if isinstance(r, Refinement)},
    "crf of labels": with_settings("crf", "irn-label"),
    "felzenszwalb": with_settings("superpixels", SuperpixelSettings(kind="felzenszwalb")),
}
each = pytest.mark.parametrize("refine", ALL.values(), ids=ALL.keys())


def photo(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)


def scores(*size: int) -> np.ndarray:
    return np.random.default_rng(1).random(size).astype(np.float32)


@each
@pytest.mark.parametrize("size", [(30, 41), (1, 1), (1, 50), (700, 3)])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_size_and_number_of_classes(refine: Refine, size: tuple[int, int], channels: int):
    found = refine(photo(*size, 3), scores(channels, *size))
    assert found.shape == (channels, *size)
    assert np.isfinite(found).all()
    assert found.min() >= 0


@each
def test_grey_photographs(refine: Refine):
    grey, rough = photo(30, 41), scores(2, 30, 41)
    np.testing.assert_allclose(refine(grey, rough), refine(np.repeat(grey[..., None], 3, axis=2), rough))


@each
def test_a_photograph_of_one_colour_stays_finite(refine: Refine):
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
def test_bad_input_is_told(refine: Refine, image: np.ndarray, rough: np.ndarray, message: str):
    with pytest.raises(BadInput, match=message):
        refine(image, rough)


@each
def test_the_scores_given_are_not_changed(refine: Refine):
    image, rough = photo(30, 41, 3), scores(3, 30, 41)
    before: Any = (image.copy(), rough.copy())
    refine(image, rough)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(rough, before[1])


@pytest.mark.parametrize("name", refinements())
def test_what_the_table_says_of_it_is_whole(name: str):
    found = refinements()[name]
    assert found.name == name
    assert found.about
    assert found.source
    if isinstance(found, LearntRefinement):
        assert issubclass(found.settings, LearntSettings)
        network = load_network(found)
        assert network.Settings is found.settings
        assert network.stride > 0
    assert MaskSettings(refine=name).of(name) == (found.default if found.settings is not None else None)


@pytest.mark.parametrize("name", refinements())
def test_a_chain_may_begin_with_it_and_be_set(name: str):
    chain, found = f"{name}+superpixels", refinements()[name]
    settings = resolve("cam", {"masks.refine": chain, "masks.superpixels": {"count": 50}}).masks
    assert settings.of("superpixels").count == 50
    assert [step.name for step in settings.steps] == [n for n in chain.split("+") if n in sharpening_names()]
    assert settings.learnt == (name if name in learnt_names() else None)
    assert settings.spreads == isinstance(found, FeatureRefinement)
    assert settings.taught == (name if isinstance(found, TaughtRefinement) else None)
    if isinstance(found, LearntRefinement | FeatureRefinement):
        with pytest.raises(ValueError, match="must come first"):
            check_chain(f"par+{name}")
    if isinstance(found, TaughtRefinement):
        with pytest.raises(ValueError, match="once"):
            check_chain(f"{name}+par+{name}")


def test_a_chain_is_cut_where_a_network_is_taught():
    masks = resolve("cam", {"masks.refine": "proxy+par+decoder+crf"}).masks
    assert masks.part(after=False).refine == "par"
    assert masks.part(after=True).refine == "crf"
    assert resolve("cam", {"masks.refine": "irn+crf"}).masks.part(after=False).refine == "crf"
    assert resolve("cam", {"masks.refine": "proxy"}).masks.part(after=False).refine == "none"
