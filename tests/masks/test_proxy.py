"""Proxy affinity against its definition, written out."""

import numpy as np
import pytest
import torch

from tagseg.errors import BadInput
from tagseg.masks import proxy
from tagseg.masks.proxy import proxy_affinity, spread, spread_scores
from tagseg.masks.refinements import FeatureRefinement, refinements


def naive(features: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
    """Cell by cell, with the whole matrix of similarities and its mean."""
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    similarity = unit @ unit.T
    threshold = beta * similarity.mean()
    found = torch.zeros_like(similarity)
    for i, row in enumerate(similarity):
        kept = (row >= threshold) | (torch.arange(len(row)) == i)
        weights = torch.where(kept, (gamma * (row - threshold)).exp(), torch.zeros_like(row))
        found[i] = weights / weights.sum()
    return found


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 4.0), (1.2, 3.0), (3.0, 10.0)])
def test_it_is_what_the_equations_say(beta: float, gamma: float):
    features = torch.randn(48, 16) + 0.7
    found = proxy_affinity(features, beta, gamma)
    torch.testing.assert_close(found.double(), naive(features, beta, gamma), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(48))


def test_spreading_is_a_product_whatever_the_parts(monkeypatch: pytest.MonkeyPatch):
    features, maps = torch.randn(16, 6, 8) + 0.5, torch.rand(3, 6, 8)
    whole = (naive(features.flatten(1).T, 1.0, 4.0) @ maps.double().flatten(1).T).T.reshape(3, 6, 8)
    for chunk in (1, 100, 1 << 23):
        monkeypatch.setattr(proxy, "CHUNK", chunk)
        torch.testing.assert_close(spread(features, maps).double(), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("features", [torch.ones(4, 5, 5), torch.zeros(4, 5, 5), torch.eye(25).reshape(25, 5, 5)])
def test_features_without_contrast_stay_finite(features: torch.Tensor):
    assert torch.isfinite(spread(features, torch.rand(2, 5, 5))).all()


def test_scores_keep_their_maxima_and_a_constant_stays():
    features = np.random.default_rng(0).normal(1, 1, (8, 4, 6)).astype(np.float32)
    scores = np.random.default_rng(1).random((3, 4, 6)).astype(np.float32)
    scores[0], scores[2] = 0.4, 0
    found = spread_scores(features, scores)
    np.testing.assert_allclose(found[0], 0.4, rtol=1e-5)
    np.testing.assert_allclose(found[1].max(), scores[1].max(), rtol=1e-5)
    assert not found[2].any()
    assert spread_scores(features, scores[:0]).shape == (0, 4, 6)
    with pytest.raises(BadInput, match="cells"):
        spread_scores(features, scores[:, :3])


def test_in_a_chain_scores_come_back_at_the_photographs_size():
    found = refinements()["proxy"]
    assert isinstance(found, FeatureRefinement)
    features = np.random.default_rng(0).normal(1, 1, (8, 4, 6)).astype(np.float32)
    scores = np.random.default_rng(1).random((3, 61, 97)).astype(np.float32)
    assert found.refine(features, scores, found.default).shape == scores.shape
